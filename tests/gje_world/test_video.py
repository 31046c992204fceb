"""`gje-video`: goes on where it was killed, learns a tiny world, and refuses in one line what cannot work."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import gje_world
from gje_world.beliefs import HEADS, DiagonalGaussian
from gje_world.beliefs.config import BeliefConfig
from gje_world.command import configuration
from gje_world.data import Clips, ClipWriter
from gje_world.data.clips import ClipBatch, ClipsError
from gje_world.evaluation.collapse import between_clips
from gje_world.networks import ConvEncoder, make_encoder
from gje_world.networks.decoder import Decoder
from gje_world.networks.exported import PretrainedError
from gje_world.objectives import OBJECTIVES, make_objective
from gje_world.objectives.config import ObjectiveConfig
from gje_world.options import ConfigError
from gje_world.training.checkpoint import CheckpointStore
from gje_world.training.metrics import read_metrics
from gje_world.video.command import main
from gje_world.video.config import VideoConfig, check, check_share, split_clips
from gje_world.video.embedded import EmbeddedBatch
from gje_world.video.evaluation import VideoEvaluation, VideoEvaluationConfig
from gje_world.video.exported import save_video_model
from gje_world.video.learner import LearningConfig, VideoLearner
from gje_world.video.recording import RecordConfig, environment_and_policy, record
from gje_world.video_model import PredictorConfig, VideoModel

TINY = [
    "preset=debug", "engine.threads=1", "engine.device=cpu", "frame_stack=2", "predictor.history=3",
    "learning.open_loop=0.5", "learning.particles=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of a bright square that is pushed about by its actions, and slides on noise."""
    path = tmp_path_factory.mktemp("clips") / "pushed"
    chance = np.random.default_rng(0)
    with ClipWriter(path, (3, 16, 16), 2, ("x", "y")) as made:
        for _ in range(60):
            place, places = chance.uniform(3, 13, 2), []
            actions = chance.uniform(-1, 1, (19, 2)).astype(np.float32)
            for step in range(20):
                places.append(place)
                place = np.clip(place + 2 * actions[min(step, 18)] + chance.normal(0, 0.1, 2), 3, 13)
            across = np.abs(np.arange(16) - np.array(places)[..., None])  # [T, 2, 16]
            cover = np.clip(3 - across, 0, 1)
            frames = (220 * cover[:, 1, :, None] * cover[:, 0, None, :] + 20).astype(np.uint8)
            made.append(np.repeat(frames[:, None], 3, 1), actions, np.array(places, np.float32))
    return path


def append(path: Path, length: int) -> None:
    """One more clip, of black frames, to those."""
    with ClipWriter(path, (3, 16, 16), 2, ("x", "y")) as clips:
        clips.append(
            np.zeros((length, 3, 16, 16), np.uint8), np.zeros((length - 1, 2)), np.zeros((length, 2))
        )


def options(path: Path, clips: Path) -> list[str]:
    return [*TINY, "data=clips", f"data.path={clips}", "data.image_size=16", f"run_dir={path}"]


def run(*arguments: str) -> int:
    sys.argv = ["gje-video", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def rows(path: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name != "time" and not name.startswith("speed/")}
        for row in read_metrics(path / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The directory of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert run(*options(path, clips)) == 0
    return path


def test_every_preset_fits_and_a_word_of_ones_own_goes_before_it():
    for preset in ("default", "debug", "control"):
        check(configuration("video", VideoConfig, f"preset={preset}"))
    found = configuration("video", VideoConfig, "preset=control", "predictor=transformer", "encoder.dim=32")
    assert (found.predictor.name, found.encoder.name, found.encoder.dim) == ("transformer", "keypoints", 32)


@torch.no_grad()
def test_a_trained_model_is_loaded_as_it_was_with_an_encoder_for_others(whole, clips, tmp_path):
    model = gje_world.load_video_model(whole / "model")
    kept = CheckpointStore(whole / "checkpoints").load_latest()[0]["learner"]
    found = model.state_dict()
    assert found.pop("calibration._extra_state") == kept.pop("model.calibration._extra_state")
    assert found.keys() == {name.removeprefix("model.") for name in kept if name.startswith("model.")}
    assert all(torch.equal(value, kept[f"model.{name}"]) for name, value in found.items())
    assert model.calibration.corrects and not any(p.requires_grad for p in model.parameters())
    batch = Clips.open(clips).sample(np.random.default_rng(0), 2, 8)
    z = model.embed(batch.frames)
    assert len(model.propagate(z[:, :3], batch.actions[:, 1:])) == 4
    decoder = gje_world.load_decoder(whole / "model")
    assert all(torch.equal(value, kept[f"decoder.{name}"]) for name, value in decoder.state_dict().items())
    assert decoder.draw(z).shape == (2, 7, 3, 16, 16)
    encoder = gje_world.load_encoder(whole / "model")
    torch.testing.assert_close(encoder(model.stacked(batch.frames)), z)
    encoder.save(tmp_path)
    with pytest.raises(PretrainedError, match=r"encoder\.json must say what its video is"):
        gje_world.load_video_model(tmp_path)
    with pytest.raises(PretrainedError, match=r"encoder\.json must say what its decoder is"):
        gje_world.load_decoder(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("belief", sorted(set(HEADS) - {"point", "power_spherical"}))
def test_a_model_of_every_belief_is_saved_and_loaded(belief, tmp_path):
    torch.manual_seed(0)
    predictor = PredictorConfig("mlp", history=2, hidden=8, layers=1)
    model = VideoModel(ConvEncoder(3, 4, 16, 4), predictor, 2, belief).eval()
    decoder = Decoder(4, 3, 16, 2)
    save_video_model(model, decoder, tmp_path, {})
    found = gje_world.load_video_model(tmp_path)
    z, action = torch.randn(3, 2, 4), torch.randn(3, 2, 2)
    beliefs = [each.believe(z, action) for each in (model, found)]
    torch.testing.assert_close(beliefs[1].log_prob(z[:, -1]), beliefs[0].log_prob(z[:, -1]))
    assert torch.equal(gje_world.load_decoder(tmp_path).draw(z), decoder.draw(z))


def test_a_model_saved_before_it_was_calibrated_at_every_step_is_loaded(whole, tmp_path):
    shutil.copytree(whole / "model", tmp_path / "model")
    told = json.loads((tmp_path / "model" / "encoder.json").read_text())
    assert len(told["video"]["calibration"].pop("later")) > 1
    (tmp_path / "model" / "encoder.json").write_text(json.dumps(told))
    assert gje_world.load_video_model(tmp_path / "model").calibration.told["later"] == [1.0]


def test_a_strange_size_is_refused_before_it_is_made(whole, tmp_path):
    shutil.copytree(whole / "model", tmp_path / "model")
    told = json.loads((tmp_path / "model" / "encoder.json").read_text())
    told["video"]["architecture"]["config"]["layers"] = 10**8
    (tmp_path / "model" / "encoder.json").write_text(json.dumps(told))
    with pytest.raises(PretrainedError, match="layers=100000000 is out of bounds"):
        gje_world.load_video_model(tmp_path / "model")


def test_what_a_damaged_folder_tells_is_refused_in_one_line(whole, tmp_path):
    for place, value in (("offset", [0.0]), ("offset", "none"), ("spread", None), ("spread", 0.0)):
        folder = tmp_path / "model"
        shutil.copytree(whole / "model", folder, dirs_exist_ok=True)
        told = json.loads((folder / "encoder.json").read_text())
        told["video"]["embedding"][place] = value
        (folder / "encoder.json").write_text(json.dumps(told))
        with pytest.raises(PretrainedError, match="tells of no video model"):
            gje_world.load_video_model(folder)


def test_a_run_killed_in_the_midst_ends_as_one_that_never_was(whole, clips, tmp_path):
    killed = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gje_world.video", *options(killed, clips)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(killed.glob("checkpoints/step_*")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # not at its end before
    assert run(*options(killed, clips)) == 0
    assert rows(whole) == rows(killed)
    one, other = (CheckpointStore(path / "checkpoints").load_latest()[0] for path in (whole, killed))
    assert one["learner"].pop("_extra_state") == other["learner"].pop("_extra_state") == 20
    calibrations = [each["learner"].pop("model.calibration._extra_state") for each in (one, other)]
    assert calibrations[0] == calibrations[1] and calibrations[0]["scales"] != [1.0]
    for name, value in one["learner"].items():
        assert torch.equal(value, other["learner"][name]), name


def test_two_ranks_go_on_after_an_evaluation_that_only_one_of_them_makes(clips, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = ["engine.devices=2", "engine.updates=8", "engine.evaluate_every=6", "learning.settle=0.5"]
    command = [sys.executable, "-m", "gje_world.video", *options(tmp_path / "run", clips), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    evaluations = [row for row in rows(tmp_path / "run") if row["kind"] == "eval"]
    assert [row["step"] for row in evaluations] == [6, 8]
    assert evaluations[0]["calibrated/scales"] != [1.0]  # which the other has not


def test_without_clips_kept_for_it_nothing_is_calibrated(whole, clips, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    told = {"scales": [0.5, 2.0], "weights": [0.5, 0.5]}
    store = CheckpointStore(run_dir / "checkpoints")
    state, _ = store.load_latest()
    state["learner"]["model.calibration._extra_state"] = told
    state["evaluation_owed"] = True
    store.save(20, state)
    assert run(*options(run_dir, clips), "evaluation.kept=0") == 0
    assert rows(run_dir)[-1]["calibrated/scales"] == [1.0]


def test_a_run_does_not_go_on_with_other_clips(whole, clips, capsys, tmp_path):
    more, run_dir = tmp_path / "clips", tmp_path / "run"
    shutil.copytree(clips, more)
    shutil.copytree(whole, run_dir)
    append(more, 20)
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace(str(clips), str(more)))
    capsys.readouterr()
    assert run(*options(run_dir, more)) == 2
    assert "began with other clips (clips.json tells which)" in capsys.readouterr().err


class Walking(torch.nn.Module):
    """A model of a random walk of unit steps, of which frames hold the place in three bytes, and its law:
    known, or taken for so many times as wide."""

    frame_stack, history, dim = 1, 2, 1

    def __init__(self, width):
        super().__init__()
        self.width, self.offset = width, torch.zeros(1)

    def embed(self, frames):
        return (frames[..., 0, 0].float() @ torch.tensor([65536.0, 256.0, 1.0]) / 65536 - 128).unsqueeze(-1)

    def believe_each(self, z, action):
        return DiagonalGaussian(z, torch.full_like(z, self.width))

    def believe(self, z, action):
        return self.believe_each(z[:, -1], action)

    def propagate(self, z, action, method, particles):
        steps = range(1, action.shape[1] - z.shape[1] + 2)
        last = z[:, -1]
        return [DiagonalGaussian(last, torch.full_like(last, self.width * step**0.5)) for step in steps]

    def imagine(self, z, action, particles):
        return torch.stack([b.sample((particles,)) for b in self.propagate(z, action, "", particles)])


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Random walks, as `Walking` sees them."""
    chance = np.random.default_rng(0)
    with ClipWriter(tmp_path_factory.mktemp("walks") / "clips", (3, 16, 16)) as made:
        for _ in range(400):
            place = ((chance.normal(0, 1, 23).cumsum() + 128) * 65536).astype(int)
            pixels = np.stack([place >> 16, place >> 8 & 255, place & 255], 1).astype(np.uint8)
            made.append(np.broadcast_to(pixels[:, :, None, None], (23, 3, 16, 16)))
    return made


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_the_share_held_by_regions_is_that_of_a_belief_that_is_known(width, walks):
    torch.manual_seed(0)
    config = VideoEvaluationConfig(clips=2, horizon=5, coverage=2048, coverage_far=2048)
    evaluation = VideoEvaluation(Walking(width), Decoder(1, 3, 16, 1), *walks.split(0.5), config)
    row = evaluation.calibration()
    levels = torch.tensor((0.5, 0.9, 0.95))
    held = torch.erf(width * torch.erfinv(levels))  # of a standard normal, in intervals so much too wide
    for part in ("seen", "held_out"):
        bias = row[f"calibration/one_step_{part}"]
        torch.testing.assert_close(bias, held - levels, atol=0.02, rtol=0)
    for step in (1, 5):
        worst = (held - levels).abs().max()
        torch.testing.assert_close(row[f"calibration/error_{step}"], worst, atol=0.04, rtol=0)
        place = row[f"calibration/pit_{step}"]
        told = 200 * 4 * (5 if step == 1 else 1)  # windows of 7 frames that start 5 apart in 23
        assert place.sum() == told
        ends = float((place[0] + place[-1]) / place.sum())
        assert abs(ends - 0.1) < 0.04 if width == 1 else (ends > 0.1) == (width < 1)
        independent = (held * (1 - held) / told).sqrt()
        torch.testing.assert_close(row[f"calibration/stderr_{step}"], independent, atol=0.002, rtol=0.25)


@pytest.fixture(scope="module")
def doubled(walks, tmp_path_factory):
    """Each walk twice, as two parts of one film."""
    whole = walks.windows(walks.intervals[:, 0], 23).frames.numpy()
    with ClipWriter(tmp_path_factory.mktemp("doubled") / "clips", (3, 16, 16)) as made:
        for number, frames in enumerate(whole[:200]):
            for _ in range(2):
                made.append(frames, source=f"film {number}")
    return made


def test_standard_errors_take_what_is_of_one_film_together(walks, doubled):
    rows = []
    for clips in (walks, doubled):
        config = VideoEvaluationConfig(clips=2, horizon=5, coverage=800, coverage_far=800)
        evaluation = VideoEvaluation(Walking(1.0), Decoder(1, 3, 16, 1), *clips.split(0.5), config)
        rows.append(evaluation.calibration())
    for step in (1, 5):  # as many windows, of half as many walks
        ratio = rows[1][f"calibration/stderr_{step}"] / rows[0][f"calibration/stderr_{step}"]
        assert float(ratio.mean()) == pytest.approx(2**0.5, rel=0.15)


def test_windows_that_are_measured_are_distinct_however_few_there_are(doubled):
    lone = doubled.of_sources({"film 0": "one"}).split(0.5)
    evaluation = VideoEvaluation(
        Walking(1.0), Decoder(1, 3, 16, 1), *lone, VideoEvaluationConfig(clips=128, horizon=5)
    )
    assert len(evaluation.rows) == len(set(evaluation.rows.tolist())) == 23 - 7 + 1


@torch.no_grad()
def test_what_is_measured_is_held_against_all_that_was_observed_and_other_clips(clips, monkeypatch):
    torch.manual_seed(0)
    model = VideoModel(ConvEncoder(3, 4, 16, 4), PredictorConfig("mlp", 2, 8, 1), 2).eval()
    config = VideoEvaluationConfig(clips=8, horizon=2, coverage=16, coverage_far=0)
    evaluation = VideoEvaluation(model, Decoder(4, 3, 16, 2), *Clips.open(clips).split(0.5), config)
    elsewhere = []

    def spied(model, frames, actions, index):
        elsewhere.append((evaluation.held_out.group_of(evaluation.rows), index.numpy()))
        return {}

    monkeypatch.setattr("gje_world.video.evaluation.surprise_auroc", spied)
    row, _ = evaluation.measure()
    ((group, index),) = elsewhere
    assert (group[index] != group).all()
    windows = evaluation.embedded(evaluation.held_out, evaluation.rows, evaluation.length)
    marginal = torch.distributions.MultivariateNormal(
        evaluation.observed().z.mean(0), evaluation.observed().z.T.cov(correction=0)
    )
    expected = -marginal.log_prob(windows.z[:, 2:]).mean(0) / 4
    torch.testing.assert_close(row["foresight/marginal_nll"], expected, rtol=0.02, atol=0.02)


def test_the_report_shows_futures_and_every_score(whole):
    report = (whole / "report.html").read_text()
    for title in ("Sampled futures", "as a film", "What could change", "How far ahead", "Calibration",
                  "How alike the pictures are", "Surprise and retrieval", "State probes",
                  "finished"):  # fmt: skip
        assert title in report
    assert "Nothing measured yet" not in report and "The first evaluation" not in report
    assert re.search(r"mean reciprocal rank one step ahead; mean rank [\d.]+ of 23, chance 0\.162", report)
    films = list((whole / "films").glob("*.mp4"))
    assert films and all(film.stat().st_size < 1_000_000 for film in films)
    last = rows(whole)[-1]
    assert {"foresight/nll", "calibration/pit_1", "retrieval/mrr_5", "surprise/teleport", "probe/r2/x",
            "probe/ahead_r2/y", "pictures/best_psnr", "pictures/sample_ssim",
            "retrieval/chance_mrr", "embedding/std", "embedding/between_clips"} <= last.keys()  # fmt: skip


def test_a_tiny_world_is_learnt(clips, tmp_path):
    """Its state can be read from the embedding and from the belief ahead; what cannot be is surprising."""
    learning = [
        "engine.updates=400", "engine.evaluate_every=400", "engine.log_every=50", "encoder.dim=8",
        "encoder.width=16", "predictor=mlp", "predictor.hidden=64", "predictor.layers=2", "belief=full",
        "learning.batch_size=32", "learning.open_loop=0", "learning.warm_up=20", "learning.lr=2e-3",
        "learning.encoder_lr=2e-3", "evaluation.clips=128", "evaluation.horizon=3",
    ]  # fmt: skip
    assert run(*options(tmp_path / "run", clips), *learning) == 0
    last = rows(tmp_path / "run")[-1]
    assert min(last["probe/r2/x"], last["probe/r2/y"]) > 0.9
    for name in ("x", "y"):
        assert last[f"probe/ahead_r2/{name}"] > max(0.7, last[f"probe/stays_r2/{name}"] + 0.1)
    assert last["foresight/nll"][0] < last["foresight/marginal_nll"][0] - 0.3
    assert last["surprise/teleport"] > 0.9


def test_the_decoder_teaches_the_encoder_nothing():
    learner, frames = learner_of(), batch().frames
    model = learner.model
    learner.decoder_error(model.embed(frames).detach(), frames).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in learner.decoder.parameters())
    groups = [{id(p) for p in group["params"]} for group in learner.parameter_groups()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(list(learner.parameters()))


def test_a_contrast_holds_clips_against_one_another_and_not_moments_of_one_until_the_encoder_rests():
    whole = batch()
    alone = ClipBatch(whole.frames[:1], whole.actions[:1], whole.states[:1])
    learner = learner_of(objective={"contrast": 0.8})
    assert float(learner(alone)[1]["loss/contrast"]) == pytest.approx(0.0, abs=1e-6)
    loss, parts = learner(whole)
    assert abs(float(parts["loss/contrast"])) > 1e-3
    shares = {"loss/nll": 0.2, "loss/marginal": 0.2, "loss/contrast": 0.8, "loss/views": 1.0}
    told = sum(share * parts[name] for name, share in shares.items()) + parts["loss/decoder"]
    torch.testing.assert_close(loss.detach(), told)
    learner.begin(6)
    assert "loss/contrast" not in learner(whole)[1]


def test_clips_embedded_already_are_learnt_from_as_the_same_clips_are():
    learner, whole = learner_of(views=0.0), batch()
    learner.begin(6)
    learner.model.calibration.set([0.5, 2.0], [0.5, 0.5])
    z = learner.model.embed(whole.frames).detach()
    found = {}
    for seen in (whole, EmbeddedBatch(z, whole.actions, whole.frames)):
        learner.zero_grad()
        loss, metrics = learner(seen)
        loss.backward()
        assert all(parameter.grad is None for parameter in learner.model.encoder.parameters())
        gradient = learner.model.head.linear.weight.grad.clone()
        found[type(seen)] = metrics["loss/nll"], gradient
    for one, other in zip(found[ClipBatch], found[EmbeddedBatch], strict=True):
        torch.testing.assert_close(one, other)
    learner.after_update(6)
    assert learner.model.calibration.told["scales"] == [1.0]  # it was of other weights


def learner_of(
    encoder=None, frozen=False, name="gje_conditional", belief="diagonal", objective=None, **config
) -> VideoLearner:
    """A learner of ten updates, the last four of which the encoder rests in."""
    torch.manual_seed(0)
    encoder = encoder or ConvEncoder(3, 8, 16, 4)
    model = VideoModel(encoder, PredictorConfig(history=2, hidden=8, heads=2), belief=belief, frozen=frozen)
    made = make_objective(name, 8, **(objective or {}))
    return VideoLearner(model, made, Decoder(8, 3, 16, 4), LearningConfig(**config), 10)


def batch() -> ClipBatch:
    frames = torch.randint(256, (4, 5, 3, 16, 16), dtype=torch.uint8)
    return ClipBatch(frames, torch.zeros(4, 4, 0), torch.zeros(4, 5, 0))


@pytest.mark.parametrize("target", ["online", "stop_gradient", "momentum"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"vi_simsiam", "consistency"}))
def test_every_objective_of_a_world_learns_from_clips_and_views_alike(name, target):
    belief = "mixture" if name == "gmje_mdn" else "diagonal"
    learner = learner_of(name=name, belief=belief, objective={"target": target})
    seen: list[torch.Size] = []
    told = learner.objective.predict
    learner.objective.predict = lambda belief, z: seen.append(z.shape) or told(belief, z)
    loss, metrics = learner(batch())
    loss.backward()
    assert all(value.isfinite() for value in metrics.values()) and "loss/views" in metrics
    assert seen == [torch.Size((4, 4, 8))]  # what may keep a memory is not told of views
    assert all(p.grad is not None for p in learner.view_predictor.parameters())


def test_a_moving_average_moves_once_in_an_update_however_many_parts_that_has():
    learner = learner_of(objective={"target": "momentum", "momentum": 0.5})
    average = learner.target_encoder.module
    first = [p.clone() for p in average.parameters()]
    with torch.no_grad():
        for p in learner.model.encoder.parameters():
            p.add_(1.0)
    learner(batch())
    learner(batch())
    assert all(torch.equal(a, b) for a, b in zip(first, average.parameters(), strict=True))
    learner.after_update(0)  # begins as a copy
    with torch.no_grad():
        for p in learner.model.encoder.parameters():
            p.add_(1.0)
    learner.after_update(1)
    for a, b in zip(first, average.parameters(), strict=True):
        torch.testing.assert_close(a + 1.5, b.detach())
    learner.begin(6)
    before = [p.clone() for p in average.parameters()]
    with torch.no_grad():
        for p in learner.model.encoder.parameters():
            p.add_(1.0)
    learner.after_update(6)  # at rest
    assert all(torch.equal(a, b) for a, b in zip(before, average.parameters(), strict=True))


def test_the_resolution_falls_between_updates_and_not_within_one():
    learner = learner_of(objective={"resolution": 0.4}, settle=0.4, finest=0.1)
    found = []
    for update in range(10):
        found.append(learner.objective.resolution)
        learner(batch())
        assert learner.objective.resolution == found[-1]
        learner.after_update(update)
    assert found[:7] == [0.4] * 7 and found[7] < 0.4 and found[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("objective", [{}, {"target": "momentum"}])
def test_batch_norms_of_an_encoder_that_is_frozen_or_rests_stay_as_they_are(objective):
    def moved(learner):
        before = {name: value.clone() for name, value in learner.model.encoder.named_buffers()}
        learner.eval()
        learner.train()
        learner(batch())
        after = dict(learner.model.encoder.named_buffers())
        return not all(torch.equal(value, after[name]) for name, value in before.items())

    learner = learner_of(make_encoder("resnet18", 3, 8, 16, width=2), objective=objective)
    assert moved(learner)
    learner.after_update(5)
    assert not moved(learner)
    if learner.target_encoder is not None:
        assert not any(part.training for part in learner.target_encoder.modules())
    resumed = learner_of(make_encoder("resnet18", 3, 8, 16, width=2), objective=objective)
    resumed(batch())  # a moving average begins
    resumed.load_state_dict(learner.state_dict())
    assert not moved(resumed)
    frozen = learner_of(make_encoder("resnet18", 3, 8, 16, width=2), frozen=True, objective=objective)
    assert not frozen.model.encoder.training and not moved(frozen)


@pytest.mark.parametrize("options", [{}, {"views": 0.0}, {"objective": {"target": "momentum"}}])
def test_every_parameter_has_a_gradient_for_which_ranks_wait(monkeypatch, options):
    monkeypatch.setattr("gje_world.video.learner.distributed", lambda: True)
    learner = learner_of(**options)
    for update in (0, 6):
        learner.begin(update)
        learner.zero_grad()
        learner(batch())[0].backward()
        missing = [n for n, p in learner.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


def test_where_nothing_changes_what_the_belief_rests_on_is_nowhere_however_it_is_estimated(clips):
    torch.manual_seed(0)
    model = VideoModel(ConvEncoder(3, 8, 16, 4), PredictorConfig(history=2, hidden=8, heads=2), 2, "mixture")
    torch.nn.init.zeros_(model.encoder.project.weight)  # all looks the same to it
    config = VideoEvaluationConfig(clips=4, horizon=1)
    evaluation = VideoEvaluation(model, Decoder(8, 3, 16, 4), *Clips.open(clips).split(0.5), config)
    with torch.no_grad():
        heat = evaluation.heat(evaluation.embedded(evaluation.held_out, evaluation.rows, evaluation.length))
    assert heat.abs().max() == 0


class Corner(torch.nn.Module):
    """A model that is the less sure the brighter a corner of the newest frame is, and blind to all else."""

    frame_stack, history, dim = 2, 2, 1

    def __init__(self):
        super().__init__()
        self.offset = torch.zeros(1)

    def embed(self, frames):
        return frames[:, 1:, 0, :2, :2].float().mean((-2, -1)).unsqueeze(-1) / 255

    def believe(self, z, action):
        return DiagonalGaussian(torch.zeros_like(z[:, -1]), z[:, -1].exp())


def test_what_a_belief_rests_on_is_where_hiding_it_from_the_newest_frame_changes_its_entropy(tmp_path):
    with ClipWriter(tmp_path / "clips", (3, 16, 16)) as made:
        for _ in range(4):
            frames = np.full((6, 3, 16, 16), 200, np.uint8)
            frames[2, :, :8, :8] = 0  # of the newest of a history: two frames in each of two embeddings
            made.append(frames)
    config = VideoEvaluationConfig(clips=2, horizon=3)
    evaluation = VideoEvaluation(Corner(), Decoder(1, 3, 16, 1), *made.split(0.5), config)
    heat = evaluation.heat(evaluation.embedded(evaluation.held_out, evaluation.rows, evaluation.length))
    assert (heat[:, 0, 0] > 0.2).all()  # what hides it is brighter than black: less sure
    assert (heat[:, 8:, 8:] == 0).all()


class MeanLevels(torch.nn.Module):
    """Embeds the mean level of each channel by a linear map."""

    dim = 2

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(4, 2)

    def forward(self, obs):
        return self.map(obs.float().mean((-2, -1)) / 128 - 1)


def test_what_moves_has_its_share_of_the_embedding_beside_what_is_constant_in_a_clip():
    """Two levels of a clip are constant, and so predicted at no cost; two change by chance."""
    shares = []
    for within in (0.0, 0.2):
        torch.manual_seed(0)
        model = VideoModel(MeanLevels(), PredictorConfig("mlp", history=2, hidden=16, layers=1))
        config = LearningConfig(within_clip=within, views=0.0)
        learner = VideoLearner(
            model, make_objective("gje_conditional", 2), Decoder(2, 4, 16, 1), config, 1000
        )
        optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
        for _ in range(120):
            optimizer.zero_grad()
            levels = [torch.randint(256, (32, moments, 2)).expand(32, 5, 2) for moments in (1, 5)]
            frames = torch.cat(levels, -1).to(torch.uint8)[..., None, None].expand(32, 5, 4, 16, 16)
            learner(ClipBatch(frames, torch.zeros(32, 4, 0), torch.zeros(32, 5, 0)))[0].backward()
            optimizer.step()
        with torch.no_grad():
            shares.append(1 - between_clips(model.embed(frames)))
    assert shares[0] < 0.05
    assert 0.1 < shares[1] < 0.3


def test_what_moves_is_how_embeddings_deviate_from_all_that_is_seen_of_their_clip():
    torch.manual_seed(0)
    model = VideoModel(MeanLevels(), PredictorConfig("mlp", history=2, hidden=16, layers=1))
    objective = make_objective("gje_conditional", 2)
    config = LearningConfig(within_clip=0.25, windows_per_clip=2, views=0.0)
    learner = VideoLearner(model, objective, Decoder(2, 4, 16, 1), config, 1000)
    frames = torch.randint(256, (8, 5, 4, 1, 1), dtype=torch.uint8).expand(8, 5, 4, 16, 16)
    told = learner(ClipBatch(frames, torch.zeros(8, 4, 0), torch.zeros(8, 5, 0)))[1]["loss/within_clip"]
    z = model.embed(frames)
    deviations = [z[i : i + 2] - z[i : i + 2].mean((0, 1)) for i in range(0, 8, 2)]
    expected = objective.marginal(2 * torch.cat(deviations).flatten(0, 1))
    torch.testing.assert_close(told, expected.detach())


def refused(capsys, *arguments: str) -> str:
    """The one line that the command prints before it exits with 2."""
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "option, words",
    [
        ("predictor=lstm", ["predictor=lstm", "mlp", "transformer"]),
        ("data=films", ["data.path must be given"]),
        ("data.path=films", ["data.path=films is not read by data=world", "data=films"]),
        ("films", ["films: options are written name=value", "subcommands"]),
        ("data.world=jungle", ["data.world=jungle", "junction_2"]),
        ("belief=point", ["belief=point", "density"]),
        ("learning.horizon=1", ["learning.open_loop=0.5", "learning.horizon=2", "got 1"]),
        ("objective=gmje_mdn", ["learning.open_loop=0.5 must be 0", "belief=mixture", "got belief=pool"]),
        ("objective.fit=composite", ["learning.open_loop=0.5 needs objective.fit=likelihood", "composite"]),
        ("encoder.frozen=true", ["encoder.path"]),
        ("encoder.name=vgg", ["vgg", "conv"]),
        ("predictor.heads=3", ["hidden", "heads=3"]),
        ("learning.lr=0", ["learning.lr=0.0", "above 0"]),
        ("encoder.hidden=9", ["encoder.hidden=9 is of keypoints; give encoder.hidden=null", "name=conv"]),
        ("data.seed=-1", ["data.seed=-1 must be at least 0"]),
        ("learning.settle=0.99", ["learning.settle=0.99 leaves an encoder none of engine.updates="]),
        ("data.length=5", ["evaluation.horizon=5 needs clips of 9 frames", "has 5"]),
        ("data.image_size=40", ["40", "multiple of 16"]),
        ("learning.shift=128", ["learning.shift=128", "below data.image_size"]),
        ("learning.windows_per_clip=5", ["learning.windows_per_clip=5", "must divide"]),
        ("encoder.path=/nowhere", ["/nowhere"]),
    ],
)
def test_what_cannot_work_is_named_with_its_value(capsys, tmp_path, option, words):
    line = refused(capsys, *TINY, f"run_dir={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", option)
    assert [word for word in words if word not in line] == [], line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["encoder.name=vgg", "predictor.heads=3", "encoder.path=/nowhere"])
def test_what_cannot_work_is_found_before_anything_is_decoded(capsys, tmp_path, option):
    films = tmp_path / "films"
    films.mkdir()
    (films / "broken.mp4").write_bytes(b"nothing")
    where = [f"data.path={films}", f"data.cache={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    line = refused(capsys, *TINY, "data=films", *where, option)
    assert option.partition("=")[2] in line
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_a_belief_without_density_is_refused_though_it_can_be_learnt():
    config = VideoConfig(objective=ObjectiveConfig("consistency", "none"), belief=BeliefConfig("point"))
    with pytest.raises(ConfigError, match="belief=point has no density, by which futures are scored"):
        check(config)


def test_a_contrast_is_refused_where_the_encoder_never_rests():
    config = VideoConfig(objective=ObjectiveConfig(contrast=0.8), learning=LearningConfig(settle=1e-9))
    with pytest.raises(ConfigError, match=r"objective.contrast=0.8 must be 0 with learning.settle=1e-09"):
        check(config)


def test_a_batch_that_ranks_cannot_share_is_refused():
    config = VideoConfig(learning=LearningConfig(batch_size=8))
    check_share(config, 4)
    config.learning.windows_per_clip = 2
    check_share(config, 4)
    config.learning.windows_per_clip = 4
    with pytest.raises(ConfigError, match=r"learning.windows_per_clip=4 must divide the 2 windows"):
        check_share(config, 4)
    with pytest.raises(ConfigError, match=r"learning.batch_size=8 must be a multiple of the 3 devices"):
        check_share(config, 3)


def test_clips_shorter_than_a_window_are_refused(capsys, tmp_path):
    with ClipWriter(tmp_path / "short", (3, 16, 16)) as made:
        for _ in range(3):
            made.append(np.zeros((4, 3, 16, 16), np.uint8))
    line = refused(capsys, *options(tmp_path / "run", tmp_path / "short"))
    assert "evaluation.horizon=5 needs clips of 9 frames" in line and "the longest has 4" in line


def test_clips_too_short_for_a_window_are_left_out(capsys, clips, tmp_path):
    path = tmp_path / "mixed"
    shutil.copytree(clips, path)
    append(path, 4)
    assert run(*options(tmp_path / "run", path)) == 0
    assert "too short for a window: 1 of 61 clips" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 30])
def test_what_is_held_out_does_not_depend_on_how_far_ahead_is_evaluated(tmp_path, count):
    """Else a run that goes on with another horizon is measured on clips that it has learnt from."""
    with ClipWriter(tmp_path, (3, 16, 16)) as made:
        for clip in range(count):
            made.append(np.zeros((200 if count == 1 else 8 + clip, 3, 16, 16), np.uint8), source=str(clip))
    learnt, held = [], []
    for horizon in (1, 5, 9):
        config = VideoConfig(evaluation=VideoEvaluationConfig(horizon=horizon))
        seen, held_out = split_clips(config, made)
        before = config.frame_stack - 1 + config.predictor.history
        assert seen.lengths.min() >= before + config.learning.horizon
        assert held_out.lengths.min() >= before + horizon
        learnt.append({tuple(rows) for rows in seen.intervals.tolist()})
        held.append({tuple(rows) for rows in held_out.intervals.tolist()})
    assert learnt[0] == learnt[1] == learnt[2]
    assert held[0] >= held[1] >= held[2] and not learnt[0] & held[0]


def test_it_is_told_which_part_of_the_clips_is_too_short(tmp_path):
    with ClipWriter(tmp_path, (3, 16, 16)) as made:
        for length in (40, 12, 12, 12):
            made.append(np.zeros((length, 3, 16, 16), np.uint8))
    config = VideoConfig(evaluation=VideoEvaluationConfig(horizon=20))
    with pytest.raises(
        ConfigError, match=r"evaluation\.horizon=20 needs .* that is (held out .*|learnt from) has 12"
    ):
        split_clips(config, made)


def test_a_run_among_the_films_it_learns_from_is_refused(capsys, tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    arguments = [*TINY, "data=films", f"data.path={films}", f"data.cache={tmp_path / 'cache'}"]
    line = refused(capsys, *arguments, f"run_dir={films / 'run'}")
    assert f"run_dir={films / 'run'} must not lie in data.path={films}" in line
    assert not (films / "run").exists()


def test_what_is_learnt_fits_the_dimension_of_a_loaded_encoder(tmp_path):
    for dim in (1, 6):
        make_encoder("conv", 9, dim, 64, width=4).save(tmp_path / str(dim))
    config = VideoConfig(belief=BeliefConfig("polar"))
    check(config)
    config.encoder.path = str(tmp_path / "1")
    with pytest.raises(ConfigError, match="belief=polar needs an embedding dimension of at least 2, got 1"):
        check(config)
    config.encoder.path, config.encoder.dim = str(tmp_path / "6"), 1
    check(config)


def test_a_folder_without_a_readable_film_is_refused(capsys, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/broken.mp4").write_bytes(b"nothing")
    arguments = [*TINY, "data=films", f"data.path={tmp_path / 'films'}", f"data.cache={tmp_path / 'cache'}"]
    assert run(*arguments, f"run_dir={tmp_path / 'run'}") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "holds no readable clip; broken.mp4: it cannot be decoded" in last


def test_a_random_policy_does_not_act_by_the_numbers_that_an_episode_begins_with():
    pytest.importorskip("dm_control")
    env, begin, _ = environment_and_policy(RecordConfig(task="dmc/cartpole-swingup", image_size=16))
    env.close()
    policy, (start, _) = begin(7), gymnasium.utils.seeding.np_random(7)
    acted = np.concatenate([policy(None) for _ in range(3)])
    assert not np.isclose(acted, start.uniform(-1, 1, 3)).any()


def test_recordings_go_on_where_they_stopped_and_hold_actions_and_states(tmp_path, capsys):
    pytest.importorskip("dm_control")
    config = RecordConfig(task="dmc/cartpole-swingup", episodes=1, image_size=16, action_repeat=100)
    config.out = str(tmp_path / "parts")
    record(config)
    config.episodes = 2
    record(config)
    config.out = str(tmp_path / "whole")
    record(config)
    one, other = (Clips.open(tmp_path / name) for name in ("parts", "whole"))
    assert one.lengths.tolist() == other.lengths.tolist() == [11, 11]
    for a, b in zip(one.window(1, 0, 11), other.window(1, 0, 11), strict=True):
        assert torch.equal(a, b)
    assert one.window(0, 0, 11).actions.abs().max() <= 1 and one.action_dim == 1
    assert len(one.state_names) == one.window(0, 0, 11).states.shape[-1] > 0
    assert (
        json.loads((tmp_path / "whole/index.json").read_text())["sources"]
        == ["dmc/cartpole-swingup random seed 1 action_repeat 100 length all"] * 2
    )
    with pytest.raises(ClipsError, match=r"out=.* holds 2 episodes already, more than episodes=1"):
        record(dataclasses.replace(config, episodes=1))
    (tmp_path / "a.txt").write_text("notes")
    with pytest.raises(ConfigError, match=r"out=.*a\.txt is a file; it must be a folder, or end in \.h5"):
        record(dataclasses.replace(config, out=str(tmp_path / "a.txt")))
    (tmp_path / "precious.h5").write_bytes(b"of another")
    with pytest.raises(
        ConfigError, match=r"out=.*precious\.h5 is there already, without the clips .*precious"
    ):
        record(dataclasses.replace(config, out=str(tmp_path / "precious.h5")))
    assert (tmp_path / "precious.h5").read_bytes() == b"of another"
    for option, value in (("length", 5), ("action_repeat", 50)):
        with pytest.raises(ClipsError, match=rf"holds clips of .*, not of .* {option} {value}"):
            record(dataclasses.replace(config, episodes=3, **{option: value}))
