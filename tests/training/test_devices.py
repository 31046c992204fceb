"""Devices and precision are chosen by what the machine has; freed memory is kept."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from gje_world.training import devices

fresh = multiprocessing.get_context("spawn")


def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ["cpu"])
    assert devices.choose_device("auto") == torch.device("cpu")
    assert devices.choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:3", "tpu", ""):
        with pytest.raises(ValueError, match=f"device='{name}' .* auto or one of cpu"):
            devices.choose_device(name)


def test_auto_takes_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    assert devices.choose_device("auto") == torch.device("cuda:0")
    assert devices.choose_device("cuda") == torch.device("cuda")
    assert devices.choose_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize(
    "line, fast",
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("bugs\t\t: avx512_bf16", False),
    ],
)
def test_bfloat16_where_the_cpu_computes_in_it(tmp_path: Path, line: str, fast: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\npower management:\n")
    assert devices._cpu_has_bfloat16(cpuinfo) is fast
    assert devices._cpu_has_bfloat16(tmp_path / "none") is False


def test_precision_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "_cpu_has_bfloat16", lambda has=has: has)
        assert devices.autocast_dtype(cpu, "auto") == dtype
        assert devices.autocast_dtype(cpu, "float32") == torch.float32
        assert devices.autocast_dtype(cpu, "bfloat16") == torch.bfloat16
    with pytest.raises(ValueError, match="precision='float16' is unknown; choose auto, bfloat16 or float32"):
        devices.autocast_dtype(cpu, "float16")


def _faults(keep: bool, answer: Any) -> None:
    torch.set_num_threads(1)
    kept = devices.keep_freed_memory() if keep else None
    for _ in range(15):  # the heap grows until one of its gaps fits
        torch.ones(20_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(20_000_000)  # 80 MB, above glibc's largest automatic mmap threshold
    answer.put((kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))


def _in_child(keep: bool) -> tuple[bool | None, int]:
    answer = fresh.SimpleQueue()
    child = fresh.Process(target=_faults, args=(keep, answer))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    return answer.get()


def test_freed_memory_is_used_again_without_page_faults() -> None:
    _, default = _in_child(keep=False)
    kept, faults = _in_child(keep=True)
    if not kept:
        pytest.skip("the C library is not glibc")
    assert faults < default / 20


def test_threads_are_set_and_checked() -> None:
    former = torch.get_num_threads()
    try:
        assert devices.set_threads(1) == 1 == torch.get_num_threads()
        assert devices.set_threads(None) == 1
        with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
            devices.set_threads(0)
    finally:
        torch.set_num_threads(former)
