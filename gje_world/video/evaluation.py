"""All that is measured of a video model on held-out clips, and the pictures that show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gje_world.beliefs import Belief, Gaussian
from gje_world.data.clips import ClipBatch, Clips
from gje_world.evaluation import NOMINAL, collapse_gauges, linear_probe_r2, observed_coverage
from gje_world.evaluation.collapse import between_clips
from gje_world.evaluation.foresight import Foresight, foresight, likelihood, marginal_gaussian
from gje_world.evaluation.heatmap import occlusion_heatmap
from gje_world.evaluation.pictures import Gallery, gallery_scores
from gje_world.evaluation.retrieval import chance_reciprocal_rank, mean_reciprocal_rank, retrieval_ranks
from gje_world.evaluation.scores import LEVELS
from gje_world.evaluation.surprise import surprise_auroc
from gje_world.networks.decoder import Decoder
from gje_world.options import option
from gje_world.propagation import covariance
from gje_world.training.random_state import forked
from gje_world.video_model import VideoModel

CHUNK = 32  # clips embedded at once
PROBED = 4_096  # observations that the probe of the state is fitted on
PROBED_AT_ONCE = 256  # of them read from the disk
BINS = 20  # of the PIT histogram
SHOWN = 5  # sampled futures that are drawn
PICTURED = 32  # clips that are
HEATED = 4  # clips of which it is shown what the belief rests on
DIRECTIONS = 3  # leading eigenvectors of a belief that are drawn
FAR = 5  # steps ahead at which calibration and retrieval are told beside one step
SEED = 2**31  # of the windows evaluated on, far from those of training


@dataclass
class VideoEvaluationConfig:
    """Evaluation on held-out clips, always the same windows of them."""

    clips: int = option(128, "windows evaluated on")
    horizon: int = option(10, "steps ahead")
    particles: int = option(64, "sampled futures of each")


class Windows(NamedTuple):
    """Clips as an evaluation sees them, embedded; `T` embeddings before, `H` ahead."""

    batch: ClipBatch
    z: Tensor  # [N, T+H, D]
    actions: Tensor  # [N, T+H-1, A], between the embeddings
    states: Tensor  # [N, T+H, S], of each embedding's newest frame


class VideoEvaluation:
    """Measures a video model on windows drawn once from clips that it does not learn from.

    Arguments:
        model, decoder: what is measured.
        seen, held_out: clips learnt from, on which probes are fitted, and clips that were not.
        config: how much.
        stride: rows of the clips from one frame to the next.
    """

    def __init__(
        self,
        model: VideoModel,
        decoder: Decoder,
        seen: Clips,
        held_out: Clips,
        config: VideoEvaluationConfig,
        stride: int = 1,
    ):
        self.model, self.decoder, self.config = model, decoder, config
        self.past = model.history
        length = model.frame_stack - 1 + self.past + config.horizon
        generator = np.random.default_rng(SEED)
        self.seen, self.held_out = (
            clips.sample(generator, config.clips, length, stride) for clips in (seen, held_out)
        )
        self.learnt_from, self.stride = seen, stride

    @torch.no_grad()
    def measure(self, check: Callable[[], None] = lambda: None) -> tuple[dict[str, Any], Gallery]:
        """A row of metrics by name, lists being by step ahead, and pictures of the first clips.

        Arguments:
            check: called between the parts; may raise to leave.
        """
        model, past = self.model, self.past
        seen, held_out = self.embedded(self.seen), self.embedded(self.held_out)
        check()
        row: dict[str, Any] = collapse_gauges(held_out.z)
        row["embedding/between_clips"] = between_clips(held_out.z)
        beliefs = self.beliefs(held_out)
        check()
        futures = model.imagine(held_out.z[:, :past], held_out.actions, self.config.particles)
        target = held_out.z[:, past:].transpose(0, 1)  # [H, N, D]
        found = foresight(beliefs, futures, target, marginal_gaussian(seen.z))
        row |= told(found)
        row["calibration/one_step_levels"] = LEVELS
        for name, windows in (("seen", seen), ("held_out", held_out)):
            row[f"calibration/one_step_{name}"] = self.one_step(windows)
        check()
        for step in sorted({1, min(FAR, len(beliefs))}):
            when = past + step - 1
            others = torch.cat([held_out.z[:, :when], held_out.z[:, when + 1 :]], 1).transpose(0, 1)
            ranks = retrieval_ranks(likelihood(beliefs[step - 1]), target[step - 1], others)
            row[f"retrieval/rank_{step}"] = ranks.mean()
            row[f"retrieval/mrr_{step}"] = mean_reciprocal_rank(ranks)
            row["retrieval/candidates"] = candidates = len(target[0]) + len(others)
            row["retrieval/chance_mrr"] = chance_reciprocal_rank(candidates)
        check()
        window = model.frame_stack + past
        frames = self.held_out.frames[:, :window].to(held_out.z.device)
        actions = self.held_out.actions[:, : window - 1].to(frames.device)
        row |= {f"surprise/{name}": value for name, value in surprise_auroc(model, frames, actions).items()}
        check()
        row |= self.probes(held_out, futures)
        check()
        gallery = self.pictures(held_out, beliefs, futures)
        return row | gallery_scores(gallery), gallery

    def embedded(self, batch: ClipBatch) -> Windows:
        """The windows on the model's device, embedded."""
        device = self.model.offset.device
        skipped = self.model.frame_stack - 1
        z = torch.cat([self.model.embed(part.to(device)) for part in batch.frames.split(CHUNK)])
        return Windows(batch, z, batch.actions[:, skipped:].to(device), batch.states[:, skipped:].to(device))

    def beliefs(self, windows: Windows) -> list[Belief]:
        """At each step ahead: of Gaussian beliefs by moments, else by particles, which keep their shape."""
        past = windows.z[:, : self.past]
        first = self.model.believe(past[:1], windows.actions[:1, : self.past])
        method = "moments" if isinstance(first, Gaussian) else "particles"
        return self.model.propagate(past, windows.actions, method, self.config.particles)

    def one_step(self, windows: Windows) -> Tensor:
        """Share of embeddings within regions of the belief before, minus what they are to hold: `[LEVELS]`.

        After every history that is whole, ten times as many as windows. Above 0 the beliefs are too wide.
        """
        belief = self.model.believe_each(windows.z[:, :-1], windows.actions)
        mass = belief.coverage(windows.z[:, 1:])[:, self.past - 1 :]
        return observed_coverage(mass, LEVELS) - torch.tensor(LEVELS, device=mass.device)

    def probes(self, held_out: Windows, futures: Tensor) -> dict[str, Tensor]:
        """R² of a linear probe of the true state: on embeddings, and on the mean of the last belief.

        It is fitted once, on embeddings of observations from all clips learnt from.
        """
        names = self.learnt_from.state_names
        if not names:
            return {}
        generator = np.random.default_rng(SEED)
        count, length = min(PROBED, len(self.learnt_from)), self.model.frame_stack
        sizes = (min(PROBED_AT_ONCE, count - done) for done in range(0, count, PROBED_AT_ONCE))
        parts = [
            self.embedded(self.learnt_from.sample(generator, size, length, self.stride)) for size in sizes
        ]
        fitted = torch.cat([part.z[:, 0] for part in parts]), torch.cat([part.states[:, 0] for part in parts])
        now = linear_probe_r2(*fitted, held_out.z.flatten(0, 1), held_out.states.flatten(0, 1))
        ahead = linear_probe_r2(*fitted, futures[-1].mean(0), held_out.states[:, -1])
        return {
            f"{kind}/{name}": value
            for kind, values in (("probe/r2", now), ("probe/ahead_r2", ahead))
            for name, value in zip(names, values, strict=True)
        }

    def pictures(self, windows: Windows, beliefs: list[Belief], futures: Tensor) -> Gallery:
        """Decoded pictures of the first clips beside what was seen."""
        rows = slice(0, min(PICTURED, len(windows.z)))
        frames = windows.batch.frames[rows, self.model.frame_stack - 1 :].cpu()
        drawn = futures[:, :SHOWN, rows].permute(1, 2, 0, 3)  # [S, N, H, D]
        expected = futures[:, :, rows].mean(1).transpose(0, 1)
        leading = leading_directions(beliefs[-1], rows)
        with self.model.precision():
            mean, samples, directions = (self.decoder.draw(z).cpu() for z in (expected, drawn, leading))
        past, truth = frames[:, : self.past], frames[:, self.past :]
        return Gallery(past, truth, mean, samples, directions, self.heat(windows).cpu())

    def heat(self, windows: Windows) -> Tensor:
        """What the next belief rests on in the newest frame of the first clips `[M, h, w]`, by occlusion."""
        model, rows = self.model, slice(0, HEATED)
        actions = windows.actions[rows, : self.past]
        earlier = windows.z[rows, : self.past - 1]
        end = model.frame_stack - 1 + self.past
        frames = windows.batch.frames[rows, end - model.frame_stack : end].to(earlier.device)

        def entropy(newest: Tensor) -> Tensor:
            seen = torch.cat([frames[:, :-1], newest.unsqueeze(1)], 1)
            z = torch.cat([earlier, model.embed(seen)], 1)
            with forked(z.device, SEED):  # an estimate from the same draws, whatever is hidden
                return model.believe(z, actions).entropy() / model.dim

        side = frames.shape[-1] // 8
        return occlusion_heatmap(entropy, frames[:, -1], window=2 * side, stride=side)


def leading_directions(belief: Belief, rows: slice) -> Tensor:
    """What could change most: embeddings `[N, E, 3, D]` two standard deviations to either side of the mean.

    Along the leading eigenvectors of the belief's covariance, of its diagonal where it has no other.
    """
    values, vectors = torch.linalg.eigh(covariance(belief)[rows])  # in ascending order
    axes = vectors[..., -DIRECTIONS:].flip(-1).mT  # [N, E, D]
    deviations = values[..., -DIRECTIONS:].flip(-1).clamp(min=0).sqrt()
    reach = torch.tensor([-2.0, 0.0, 2.0], device=axes.device)[:, None]
    offset = reach * (deviations.unsqueeze(-1) * axes).unsqueeze(-2)
    return belief.mean[rows, None, None] + offset


def told(found: Foresight) -> dict[str, Any]:
    """The scores of a foresight as a row of metrics."""
    row: dict[str, Any] = {
        f"foresight/{name}": getattr(found, name) for name in ("nll", "marginal_nll", "energy", "sharpness")
    }
    row["foresight/coverage_error"] = found.coverage_errors.amax(1)
    row["foresight/covered_90"] = (found.mass <= 0.9).float().mean(1)  # by regions that are to hold 90 %
    row["foresight/horizon"] = found.horizon
    row["calibration/nominal"] = NOMINAL
    for step in sorted({1, min(FAR, len(found.nll))}):
        row[f"calibration/observed_{step}"] = observed_coverage(found.mass[step - 1])
        row[f"calibration/pit_{step}"] = found.ranks[step - 1].cpu().histc(BINS, 0, 1)
    return row
