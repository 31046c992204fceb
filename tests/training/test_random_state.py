"""Random states survive a checkpoint bit for bit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from gje_world.training import random_state
from gje_world.training.checkpoint import CheckpointStore


def _generators(seed: int) -> dict[str, np.random.Generator | torch.Generator]:
    bits = (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64)
    named: dict[str, np.random.Generator | torch.Generator] = {
        kind.__name__: np.random.Generator(kind(seed)) for kind in bits
    }
    return {**named, "torch": torch.Generator().manual_seed(seed)}


def _draw(generators: dict[str, np.random.Generator | torch.Generator]) -> list[float]:
    drawn = [random.random(), random.gauss(0, 1), np.random.normal(), torch.randn(()).item()]  # noqa: NPY002
    for generator in generators.values():
        if isinstance(generator, torch.Generator):
            drawn.append(torch.randn((), generator=generator).item())
        else:
            # 32-bit draws leave half a word in the generator, which is part of its state
            drawn += [generator.normal(), float(generator.integers(2**31, dtype=np.int32))]
    return drawn


def test_after_a_checkpoint_the_same_numbers_are_drawn(tmp_path: Path) -> None:
    generators = _generators(0)
    _draw(generators)  # Python and NumPy draw normals in pairs; this leaves the second of one to be stored
    store = CheckpointStore(tmp_path)
    store.save(0, {"random": random_state.capture(**generators)})
    expected = [_draw(generators) for _ in range(20)]

    others = _generators(1)
    _draw(others)
    state, _ = store.load_latest()
    random_state.restore(state["random"], **others)
    assert [_draw(others) for _ in range(20)] == expected


def test_a_captured_state_does_not_move_with_the_generator() -> None:
    generator = np.random.Generator(np.random.MT19937(0))
    state = random_state.capture(actions=generator)
    first = generator.random(1000)
    random_state.restore(state, actions=generator)
    assert np.array_equal(generator.random(1000), first)


def test_other_generators_than_those_captured_are_refused() -> None:
    state = random_state.capture(actions=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"of \['actions'\], generators given are \['replay'\]"):
        random_state.restore(state, replay=np.random.default_rng(0))
    with pytest.raises(ValueError, match="'actions' is of a PCG64, but a Philox was given"):
        random_state.restore(state, actions=np.random.Generator(np.random.Philox(0)))
    with pytest.raises(ValueError, match="'actions' is a NumPy generator's"):
        random_state.restore(state, actions=torch.Generator())
