"""One process or many: Fabric as a run asks for it, and a run directory that only the first rank writes."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from gje_world.options import ConfigError
from gje_world.training.devices import Precision, autocast_dtype, choose_device
from gje_world.training.run_directory import RunDirectory, RunDirectoryError
from gje_world.training.voice import hush


def make_fabric(device: str, devices: int, nodes: int, precision: Precision) -> Fabric:
    """Fabric on so many devices of one kind on each of so many nodes, data-parallel, not yet launched.

    Arguments:
        device: `auto`, or one that `choose_device` knows; an index picks a single device.
        devices: on each node. Under `torchrun` and SLURM as many as processes were started there.

    Raises:
        ConfigError: this machine has no such device, or not so many.
    """
    try:
        chosen = choose_device(device)
    except ValueError as error:
        raise ConfigError(f"engine.{error}") from error
    if chosen.type == "cuda" and devices > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ConfigError(f"engine.devices={devices} must be at most the {there} GPUs there are")
    if chosen.index is not None and device != "auto" and devices > 1:
        raise ConfigError(f"engine.devices={devices} must be 1 with engine.device={device}")
    require_processes(devices, nodes)
    one_of_several = chosen.type == "cuda" and devices == 1 and chosen.index is not None
    half = autocast_dtype(chosen, precision.value) == torch.bfloat16
    return Fabric(
        accelerator=chosen.type,
        devices=[chosen.index] if one_of_several else devices,
        num_nodes=nodes,
        precision="bf16-mixed" if half else "32-true",
    )


def require_processes(devices: int, nodes: int) -> None:
    """Refuses several nodes whose processes nobody has started, and others than those torchrun has.

    Raises:
        ConfigError: naming both.
    """
    started = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1)))
    if nodes > 1 and started == 1:
        raise ConfigError(
            f"engine.nodes={nodes} needs its processes to be started on each node, by torchrun or srun"
        )
    if started > 1 and started != devices * nodes and "LOCAL_WORLD_SIZE" in os.environ:
        raise ConfigError(
            f"engine.devices={devices} with engine.nodes={nodes} must be the {started} processes that "
            "torchrun started"
        )


def from_all_ranks(value: Any) -> list[Any]:
    """`value`, tensors and plain values, as each rank has it, in order of the ranks; tensors on the CPU."""
    if not dist.is_initialized():
        return [value]
    file = io.BytesIO()
    torch.save(value, file)
    files: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(files, file.getvalue())
    return [torch.load(io.BytesIO(each), map_location="cpu", weights_only=True) for each in files]


@contextmanager
def open_run(
    fabric: Fabric,
    path: Path | str,
    config: Mapping[str, Any],
    *,
    changeable: Collection[str] = (),
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Iterator[RunDirectory]:
    """The run directory, opened and locked by the first rank (`RunDirectory.open`); the others only read.

    Raises:
        RunDirectoryError: on all ranks, where the first cannot open it.
    """
    run, refused = None, ""
    if fabric.is_global_zero:
        try:
            run = RunDirectory.open(path, config, changeable=changeable, sources=sources, defaults=defaults)
        except RunDirectoryError as error:
            refused = str(error)
    refused = from_all_ranks(refused)[0]
    if refused:
        raise RunDirectoryError(refused)
    with run or RunDirectory(Path(path), lock=None) as opened:
        yield opened


def silence(fabric: Fabric) -> None:
    """Let only the first rank print, and every rank tell what it breaks on."""
    if not fabric.is_global_zero:
        hush()
