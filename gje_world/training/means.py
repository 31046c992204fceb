"""Means of training metrics between two rows of a log, kept on the device until somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gje_world.training.checkpoint import CheckpointStore


class NonFiniteError(RuntimeError):
    """A reward or a term of the loss is NaN or infinite; the message names it and the state that was kept."""


def not_finite(what: str, step: int, checkpoints: CheckpointStore) -> NonFiniteError:
    """The error that names what is not finite and the state to go back to."""
    kept = checkpoints.paths()
    state = f"the last good state is {kept[-1]}" if kept else "no checkpoint had been written yet"
    return NonFiniteError(f"{what} not finite near step {step}; {state}")


def broken_weights(module: nn.Module) -> list[str]:
    """Names of the parameters that are not finite, such as those that the last step has broken."""
    return [name for name, p in module.named_parameters() if not bool(p.detach().isfinite().all())]


class RunningMeans:
    """Sums and counts of scalar metrics by name. Adding to them makes no device wait."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self.sums)

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count one value, a detached scalar, of each metric."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def broken(self) -> list[str]:
        """Names of the metrics that have not been finite throughout."""
        if not self.sums or bool(torch.stack(list(self.sums.values())).isfinite().all()):
            return []
        return [name for name, total in self.sums.items() if not total.isfinite()]

    def take(self, over_ranks: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, float]:
        """The means so far, which then begin anew.

        Arguments:
            over_ranks: makes a vector the same on all ranks, where there are several.
        """
        if not self.sums:
            return {}
        counts = torch.tensor([float(count) for count in self.counts.values()])
        totals = torch.stack([total.float() for total in self.sums.values()])
        means = over_ranks(totals / counts.to(totals.device)).tolist()
        row = dict(zip(self.sums, means, strict=True))
        self.sums, self.counts = {}, {}
        return row

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from `state`, its sums on `device`."""
        self.sums = {name: total.to(device) for name, total in state["sums"].items()}
        self.counts = dict(state["counts"])
