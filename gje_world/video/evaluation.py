"""All that is measured of a video model on held-out clips, and the pictures that show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gje_world.beliefs import Belief, Gaussian
from gje_world.beliefs.belief import SAMPLES
from gje_world.data.clips import ClipBatch, Clips
from gje_world.evaluation import NOMINAL, collapse_gauges, linear_probe_r2, observed_coverage
from gje_world.evaluation.calibration import standard_error
from gje_world.evaluation.collapse import between_clips
from gje_world.evaluation.foresight import (
    Foresight,
    foresight,
    likelihood,
    marginal_gaussian,
    region_mass,
)
from gje_world.evaluation.futures_scores import rank_pit
from gje_world.evaluation.heatmap import occlusion_heatmap
from gje_world.evaluation.pictures import Gallery, gallery_scores
from gje_world.evaluation.retrieval import chance_reciprocal_rank, mean_reciprocal_rank, retrieval_ranks
from gje_world.evaluation.scores import LEVELS, coverage_error
from gje_world.evaluation.surprise import far_apart, surprise_auroc
from gje_world.networks.decoder import Decoder
from gje_world.options import option
from gje_world.propagation import covariance
from gje_world.training.random_state import forked
from gje_world.video.calibration import calibrate, calibrate_ahead
from gje_world.video_model import VideoModel

CHUNK = 32  # clips embedded at once
OBSERVED = 4_096  # most observations that the marginal and the probe of the state are fitted on
READ_AT_ONCE = 256  # windows read from the disk and embedded
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

    clips: int = option(128, "most windows evaluated on")
    coverage: int = option(2048, "most windows that coverage is measured on, one step ahead")
    coverage_far: int = option(512, "of these those that it is measured on several steps ahead")
    kept: int = option(
        512, "most windows of half the held-out clips, which beliefs are calibrated on; 0: they are not"
    )
    horizon: int = option(10, "steps ahead")
    particles: int = option(64, "sampled futures of each")


class Windows(NamedTuple):
    """Clips as an evaluation sees them, embedded; `T` embeddings before, `H` ahead."""

    batch: ClipBatch
    z: Tensor  # [N, T+H, D]
    actions: Tensor  # [N, T+H-1, A], between the embeddings
    states: Tensor  # [N, T+H, S], of each embedding's newest frame
    group: Tensor  # [N], film or episode that each is of (`Clips.groups`)


class Observed(NamedTuple):
    """Observations on their own, embedded."""

    z: Tensor  # [N, D]
    states: Tensor  # [N, S]


class Ranks(NamedTuple):
    """Where what happened lies in beliefs, uniform in [0, 1] if these are calibrated."""

    group: Tensor  # [N], film or episode that it happened in
    mass: Tensor  # [N], of the smallest region that holds it
    place: Tensor  # [N, D], among draws, each dimension on its own (PIT)


class VideoEvaluation:
    """Measures a video model on clips that it does not learn from, always on the same windows of them.

    Arguments:
        model, decoder: what is measured.
        seen, held_out: clips learnt from, on which probes are fitted, and clips that were not.
        config: how much.
        kept: more clips that were not learnt from, which the model is calibrated on before it is measured.
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
        kept: Clips | None = None,
    ):
        self.model, self.decoder, self.config = model, decoder, config
        self.past = model.history
        self.length = model.frame_stack - 1 + self.past + config.horizon
        self.seen, self.held_out, self.kept, self.stride = seen, held_out, kept, stride
        self.rows = held_out.distinct(np.random.default_rng(SEED), config.clips, self.length, stride)
        self.far = min(FAR, config.horizon)

    @torch.no_grad()
    def measure(self, check: Callable[[], None] = lambda: None) -> tuple[dict[str, Any], Gallery]:
        """A row of metrics by name, lists being by step ahead, and pictures of the first clips.

        Arguments:
            check: called between the parts; may raise to leave.
        """
        model, past = self.model, self.past
        if self.kept is None:
            model.calibration.reset()
        else:
            parts = [(part.z, part.actions) for part in self.side_by_side(self.kept, self.config.kept)]
            calibrate(model, parts, check)
            if self.far > 1:
                calibrate_ahead(model, parts, check)
        held_out, observed = self.embedded(self.held_out, self.rows, self.length), self.observed()
        check()
        row: dict[str, Any] = collapse_gauges(held_out.z)
        row["measured/windows"], row["measured/clips"] = len(self.rows), self.held_out.episodes
        row["embedding/between_clips"] = between_clips(held_out.z)
        beliefs = self.beliefs(held_out.z, held_out.actions)
        check()
        futures = model.imagine(held_out.z[:, :past], held_out.actions, self.config.particles)
        target = held_out.z[:, past:].transpose(0, 1)  # [H, N, D]
        row |= told(foresight(beliefs, futures, target, marginal_gaussian(observed.z)))
        row |= self.calibration(check)
        row |= {f"calibrated/{name}": value for name, value in model.calibration.told.items()}
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
        frames = held_out.batch.frames[:, :window].to(held_out.z.device)
        actions = held_out.batch.actions[:, : window - 1].to(frames.device)
        elsewhere = far_apart(held_out.group, torch.from_numpy(self.rows).to(frames.device))
        found = surprise_auroc(model, frames, actions, elsewhere)
        row |= {f"surprise/{name}": value for name, value in found.items()}
        check()
        row |= probes(self.seen.state_names, observed, held_out, futures)
        check()
        gallery = self.pictures(held_out, beliefs, futures)
        return row | gallery_scores(gallery), gallery

    def embedded(self, clips: Clips, rows: npt.NDArray[np.int64], length: int) -> Windows:
        """Windows of `length` frames that begin at `rows`, on the model's device, embedded."""
        device, skipped = self.model.offset.device, self.model.frame_stack - 1
        batch = clips.windows(rows, length, self.stride)
        z = torch.cat([self.model.embed(part.to(device)) for part in batch.frames.split(CHUNK)])
        actions, states = (part[:, skipped:].to(device) for part in (batch.actions, batch.states))
        return Windows(batch, z, actions, states, torch.from_numpy(clips.group_of(rows)).to(device))

    def side_by_side(self, clips: Clips, most: int) -> Iterator[Windows]:
        """Windows of a history and some steps ahead (`in_parts`).

        They follow one another, so that nothing of an episode comes after two histories: what is counted in
        them are data of their own.
        """
        length, every = self.model.frame_stack - 1 + self.past + self.far, self.far * self.stride
        return self.in_parts(clips, most, length, every)

    def observed(self) -> Observed:
        """Observations from all clips learnt from, embedded."""
        parts = self.in_parts(self.seen, OBSERVED, self.model.frame_stack)
        z, states = zip(*((part.z[:, 0], part.states[:, 0]) for part in parts), strict=True)
        return Observed(torch.cat(z), torch.cat(states))

    def in_parts(self, clips: Clips, most: int, length: int, every: int = 1) -> Iterator[Windows]:
        """Distinct windows of `length` frames, always the same ones, read and embedded part by part."""
        rows = clips.distinct(np.random.default_rng(SEED), most, length, self.stride, every)
        for start in range(0, len(rows), READ_AT_ONCE):
            yield self.embedded(clips, rows[start : start + READ_AT_ONCE], length)

    def beliefs(self, z: Tensor, actions: Tensor) -> list[Belief]:
        """At each step ahead: of Gaussian beliefs by moments, else by particles, which keep their shape.

        What calibrates a Gaussian belief makes it a mixture of Gaussians, of several scales.
        """
        past = z[:, : self.past]
        first = self.model.believe(past[:1], actions[:1, : self.past])
        method = "moments" if isinstance(first, Gaussian) else "particles"
        return self.model.propagate(past, actions, method, self.config.particles)

    def calibration(self, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """How well regions hold what they promise, on more windows than all else is measured on.

        One step ahead after every history that is whole; several steps ahead on the first of the windows,
        where it costs more. Biases are shares held minus shares promised: above 0 beliefs are too wide.
        Standard errors are those of means over films, or episodes.
        """
        c, far = self.config, self.far
        clips = {"seen": self.seen, "held_out": self.held_out}
        near: dict[str, list[Ranks]] = {name: [] for name in clips}
        ahead: list[Ranks] = []
        for name, found in near.items():
            left = c.coverage_far if name == "held_out" and far > 1 else 0
            for part in self.side_by_side(clips[name], c.coverage):
                found.append(self.one_step(part))
                check()
                if left > 0:
                    ahead.append(self.several_steps(part, left))
                    left -= len(part.z)
                    check()
        row: dict[str, Any] = {"calibration/one_step_levels": LEVELS, "calibration/nominal": NOMINAL}
        for name, found in near.items():
            mass = torch.cat([ranks.mass for ranks in found])
            nominal = torch.tensor(LEVELS, device=mass.device)
            row[f"calibration/one_step_{name}"] = observed_coverage(mass, LEVELS) - nominal
        for step, found in ((1, near["held_out"]), (far, ahead)):
            if found:
                group, mass, place = (torch.cat(values) for values in zip(*found, strict=True))
                row[f"calibration/observed_{step}"] = observed_coverage(mass)
                row[f"calibration/error_{step}"] = coverage_error(mass).amax()
                inside = mass[:, None] <= torch.tensor(LEVELS, device=mass.device)
                row[f"calibration/stderr_{step}"] = standard_error(inside.float(), group)
                row[f"calibration/pit_{step}"] = place.cpu().histc(BINS, 0, 1)
        return row

    def one_step(self, windows: Windows) -> Ranks:
        """Of each embedding after a whole history, under the belief before."""
        model, past = self.model, self.past
        belief = model.believe_each(windows.z[:, :-1], windows.actions)
        value = windows.z[:, 1:]
        mass, place = belief.coverage(value), rank_pit(belief.sample((SAMPLES,)), value, self.places())
        whole = slice(past - 1, None)  # histories
        group = windows.group[:, None].expand_as(mass)
        return Ranks(*(part[:, whole].flatten(0, 1) for part in (group, mass, place)))

    def several_steps(self, windows: Windows, most: int) -> Ranks:
        """Of the last embedding of each of the first windows, under the belief after its history."""
        z, actions = windows.z[:most], windows.actions[:most]
        past, particles = z[:, : self.past], self.config.particles
        futures = self.model.imagine(past, actions, particles)[-1]
        belief, generator = self.beliefs(z, actions)[-1], self.places()
        mass = region_mass(belief, futures, z[:, -1], generator)
        return Ranks(windows.group[:most], mass, rank_pit(futures, z[:, -1], generator))

    def places(self) -> torch.Generator:
        """Of where ranks lie between two draws."""
        return torch.Generator().manual_seed(SEED)

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


def probes(names: Sequence[str], observed: Observed, held_out: Windows, futures: Tensor) -> dict[str, Tensor]:
    """R² of a linear probe of the true state, fitted once to what was observed: of embeddings; of the state
    in the end by the last belief's mean; and of that by the last embedding seen, as if all stayed as it is.

    Arguments:
        names: of the state's variables; there may be none.
        futures: `[H, S, N, D]`.
    """
    if not names:
        return {}
    end, seen = held_out.states[:, -1], held_out.z[:, -len(futures) - 1]
    found = {
        "probe/r2": linear_probe_r2(*observed, held_out.z.flatten(0, 1), held_out.states.flatten(0, 1)),
        "probe/ahead_r2": linear_probe_r2(*observed, futures[-1].mean(0), end),
        "probe/stays_r2": linear_probe_r2(*observed, seen, end),
    }
    return {
        f"{kind}/{name}": value
        for kind, values in found.items()
        for name, value in zip(names, values, strict=True)
    }


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
    return row
