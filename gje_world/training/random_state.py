"""All random states of a process as plain values, so that a continued run draws what it would have."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def forked(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Within the block torch draws numbers of its own, from `seed` if given, which leave no trace."""
    metal = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            if metal is not None:
                torch.mps.set_rng_state(metal)


def capture(**generators: np.random.Generator | torch.Generator) -> dict[str, Any]:
    """The random states of Python, NumPy, torch (CPU, every CUDA device, MPS) and of the generators named.

    The result holds tensors and plain values only: `CheckpointStore` saves it and reads it back bit for bit.
    """
    version, words, gauss = random.getstate()
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": _to_tensors(np.random.get_state(legacy=False)),  # noqa: NPY002 (libraries draw from it)
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.mps.is_available() else None,
        "generators": {name: _capture_generator(generator) for name, generator in generators.items()},
    }


def restore(state: Mapping[str, Any], **generators: np.random.Generator | torch.Generator) -> None:
    """Puts back what `capture` took. The generators given are changed in place.

    Those of CUDA and MPS are put back as far as both machines have devices; a run moved to another device
    goes on, but cannot draw the same numbers.

    Raises:
        ValueError: the generators named are not those captured, or one is of another kind.
    """
    stored = state["generators"]
    if set(stored) != set(generators):
        raise ValueError(f"random states are of {sorted(stored)}, generators given are {sorted(generators)}")
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(_to_arrays(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for index, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state.cpu(), index)
    if torch.mps.is_available() and (metal := state.get("mps")) is not None:
        torch.mps.set_rng_state(metal.cpu())
    for name, generator in generators.items():
        _restore_generator(name, generator, stored[name])


def _capture_generator(generator: np.random.Generator | torch.Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return _to_tensors(generator.bit_generator.state)


def _restore_generator(name: str, generator: np.random.Generator | torch.Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        if not isinstance(state, torch.Tensor):
            raise ValueError(f"random state {name!r} is a NumPy generator's, but a torch.Generator was given")
        generator.set_state(state.cpu())
        return
    kind = type(generator.bit_generator).__name__
    if not isinstance(state, Mapping) or state["bit_generator"] != kind:
        stored = state["bit_generator"] if isinstance(state, Mapping) else "torch.Generator"
        raise ValueError(f"random state {name!r} is of a {stored}, but a {kind} was given")
    generator.bit_generator.state = _to_arrays(state)


def _to_tensors(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _to_tensors(value) for key, value in state.items()}
    return torch.from_numpy(state.copy()) if isinstance(state, np.ndarray) else state


def _to_arrays(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _to_arrays(value) for key, value in state.items()}
    return state.cpu().numpy() if isinstance(state, torch.Tensor) else state
