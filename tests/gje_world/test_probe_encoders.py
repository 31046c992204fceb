"""`gje-probe encoders`: its measures on data whose answer is known, and the command from folder to page."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gje_world import probe
from gje_world.beliefs import HEADS, DiagonalGaussian
from gje_world.data.image_sources import DataConfig
from gje_world.data.images import Images, Split
from gje_world.evaluation.heatmap import occlusion_heatmap
from gje_world.methods import over_ranks
from gje_world.networks import Encoder, make_encoder
from gje_world.objectives import statistics
from gje_world.options import ConfigError
from gje_world.plots.encoders import FIGURES, write_report
from gje_world.predictor import ViewPredictor
from gje_world.pretrained import Pretrained
from gje_world.probing import encoders
from gje_world.probing.data import ProbeData, hold_out_classes, probe_data, with_unlike
from gje_world.probing.encoder import images_to_embed, patch_side, probe_encoder
from gje_world.probing.encoders import short_names
from gje_world.probing.subject import Subject
from gje_world.probing.table import markdown

SIDE = 16
SMALL = DataConfig(frames=60, frame_stack=1)


class MeanColour(Encoder):
    """Sees nothing but the mean of each channel, which is all that the coloured images differ in."""

    name = "mean_colour"

    def __init__(self):
        super().__init__(3, 3, SIDE)

    def forward(self, obs: Tensor) -> Tensor:
        return obs.float().mean((-2, -1)) / 64


class SureOfItself(nn.Module):
    """Believes that the other view is as this one is; less surely where there is much red."""

    architecture = {"belief": {"name": "diagonal"}}  # noqa: RUF012

    def project(self, z: Tensor) -> Tensor:
        return z

    def believe(self, v: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(v, (0.02 + 0.1 * v[..., :1]).expand_as(v))


def _coloured(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images of four colours that overlap a little."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=generator)
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [130, 130, 130]]).float()
    tint = colours[y] + 25 * torch.randn(count, 3, generator=generator)
    images = tint[:, :, None, None] + 10 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return images.clamp(0, 255).to(torch.uint8), y


@pytest.fixture(scope="module")
def data() -> ProbeData:
    (train, y_train), (test, y_test) = _coloured(1200, 1), _coloured(400, 2)
    classes = ("red", "green", "blue", "grey")
    return with_unlike(ProbeData("colours", train, test, y_train, y_test, classes), 100)


@pytest.fixture(scope="module")
def found(data):
    pretrained = Pretrained(MeanColour(), SureOfItself(), {"method": "none"})
    seen: list[int] = []
    findings = probe_encoder(pretrained, data, batch_size=128, advance=seen.append)
    assert sum(seen) == images_to_embed(pretrained, data)
    return findings


def test_classes_that_can_be_read_off_are(found) -> None:
    row = found.row
    for name in (
        "linear", "linear_tempered", "linear_uncertain", "knn", "projection", "projection_marginalised",
    ):  # fmt: skip
        assert row[f"{name}/accuracy"] > 0.95
        assert row[f"{name}/ece"] < 0.05
    assert row["linear/nll"] < 0.2


def test_uncertainty_ranks_errors_where_it_should(found) -> None:
    assert row_has(found.row, "aurc/confidence") < 0.02
    assert row_has(found.row, "rank/confidence_of_class_loss") > 0.5


def test_what_is_unlike_the_data_is_found_by_features_and_by_the_marginal(found) -> None:
    for name in ("textures", "digits"):
        for score in ("mahalanobis", "neighbours", "marginal"):
            assert row_has(found.row, f"ood/{name}/{score}/auroc") > 0.6
    assert {name.split("/")[2] for name in found.row if name.startswith("ood/noise")} == {
        "mahalanobis", "neighbours", "confidence", "marginal", "entropy", "surprise", "joint",
    }  # fmt: skip


def row_has(row: dict, name: str) -> float:
    assert name in row, sorted(row)
    return row[name]


def test_without_a_belief_there_are_no_scores_of_one(data) -> None:
    row = probe_encoder(Pretrained(MeanColour()), data).row
    assert row["belief"] is None and "linear/accuracy" in row
    assert not any("entropy" in name or "surprise" in name or "projection" in name for name in row)


def test_the_same_is_found_twice_whatever_was_drawn_before(data, found) -> None:
    torch.manual_seed(99)
    pretrained = Pretrained(MeanColour(), SureOfItself(), {"method": "none"})
    again = probe_encoder(pretrained, data, batch_size=128, heatmaps=0)
    assert "images" in found.arrays and "images" not in again.arrays
    assert {**again.row, "seconds": 0} == {**found.row, "seconds": 0}


def _small(data: ProbeData) -> ProbeData:
    """Some of the data, one set outside, no labels: what beliefs alone are measured on."""
    outside = {"noise": data.outside["noise"][:20]}
    return ProbeData("small", data.train[:100], data.test[:40], outside=outside)


def _untrained(belief: str, **provenance) -> Pretrained:
    torch.manual_seed(3)
    return Pretrained(MeanColour(), ViewPredictor(3, 4, belief={"name": belief}), provenance)


@pytest.mark.parametrize("belief", ["mixture", "ensemble"])
def test_what_is_estimated_from_draws_is_found_twice(data, belief) -> None:
    pretrained = _untrained(belief)
    findings = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        findings.append(probe_encoder(pretrained, _small(data), heatmaps=1))
    first, second = findings
    assert {**first.row, "seconds": 0} == {**second.row, "seconds": 0}
    assert np.array_equal(first.arrays["occlusion"], second.arrays["occlusion"])
    assert ("ood/noise/epistemic/auroc" in first.row) == (belief == "ensemble")


def test_hiding_what_is_not_looked_at_changes_no_estimate(data) -> None:
    """An occlusion in the image's mean colour leaves what this encoder sees as it was."""
    flat = (
        _small(data).train[:8].float().mean((-2, -1), keepdim=True).to(torch.uint8).expand(-1, -1, SIDE, SIDE)
    )
    subject = Subject(_untrained("mixture"))
    _, score = subject.uncertainty(subject.embed(flat))
    assert occlusion_heatmap(score, flat).abs().max() < 1e-6


def test_a_point_has_no_scores_of_a_density(data) -> None:
    pretrained = _untrained("point")
    seen: list[int] = []
    row = probe_encoder(pretrained, data, advance=seen.append).row
    assert sum(seen) == images_to_embed(pretrained, data)
    assert row["belief"] == "point" and "linear/accuracy" in row
    assert not any("entropy" in name or "surprise" in name or "projection" in name for name in row)


def test_an_ensemble_is_at_odds_over_what_it_has_not_seen() -> None:
    predictor = ViewPredictor(3, 2, belief={"name": "ensemble"})
    subject = Subject(Pretrained(MeanColour(), predictor))
    z = torch.randn(50, 3)
    belief = predictor.eval().believe(predictor.project(z))
    means = torch.stack([member.mean for member in belief.members])
    torch.testing.assert_close(subject.epistemic(z), means.var(0, correction=0).mean(-1))
    assert Subject(Pretrained(MeanColour(), SureOfItself())).epistemic(z) is None


def test_views_are_drawn_as_in_training_where_the_export_says_how(data) -> None:
    """Views without crop and colours are the image, which is what is believed; those of other colours not."""
    still = {"crop": [1.0, 1.0], "aspect": 1.0, "flip": 0.0, "jitter_probability": 0.0, "grey": 0.0}
    coloured = still | {"jitter_probability": 1.0, "jitter": [0.8, 0.0, 0.0, 0.0]}
    images, errors = data.test[:50], {}
    for name, augment in (("still", still), ("coloured", coloured)):
        subject = Subject(Pretrained(MeanColour(), SureOfItself(), {"augment": augment}))
        errors[name] = subject.foresee(images, subject.embed(images)).error
    assert errors["still"].max() < 1e-6
    assert errors["coloured"].mean() > 0.1
    with pytest.raises(ConfigError, match=r"provenance has an augment that cannot be: .*crop"):
        Subject(Pretrained(MeanColour(), SureOfItself(), {"augment": {"crop": [2.0, 1.0]}}))
    with pytest.raises(ConfigError, match="augment that cannot be"):
        Subject(Pretrained(MeanColour(), SureOfItself(), {"augment": {"colour": 1}}))


def test_a_probe_of_images_heeds_the_entropy_of_the_images_as_they_are(data) -> None:
    """Views of other colours have beliefs of another entropy; what a probe of images is told must not turn
    on them."""
    plain = {"crop": [1.0, 1.0], "aspect": 1.0, "flip": 0.0, "jitter_probability": 0.0, "grey": 0.0}
    coloured = plain | {"jitter_probability": 1.0, "jitter": [0.9, 0.0, 0.9, 0.3]}
    rows = []
    for augment in (plain, coloured):
        pretrained = Pretrained(MeanColour(), SureOfItself(), {"augment": augment})
        rows.append(probe_encoder(pretrained, replace(data, outside={}), heatmaps=0).row)
    still, moved = rows
    of_images = [name for name in still if name.startswith(("linear", "aurc/", "projection"))]
    of_images.append("rank/entropy_of_class_loss")
    assert "linear_uncertain/ece" in of_images and "aurc/entropy" in of_images
    assert {name: moved[name] for name in of_images} == {name: still[name] for name in of_images}
    assert moved["rank/entropy_of_view_error"] != still["rank/entropy_of_view_error"]


@pytest.mark.parametrize("belief", sorted(set(HEADS) - {"point"}))
def test_every_belief_has_moments_to_average_over(data, belief) -> None:
    subject = Subject(_untrained(belief))
    for part in subject.moments(subject.embed(data.test[:10])):
        assert part.shape == (10, 4) and part.isfinite().all()


def test_no_other_rank_is_waited_for(data, monkeypatch) -> None:
    def wait(*_) -> None:
        raise AssertionError("waits for ever")

    predictor = ViewPredictor(3, 4)
    over_ranks(predictor)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_object", "barrier"):
        monkeypatch.setattr(dist, name, wait)
    monkeypatch.setattr(statistics.dist_functional, "all_reduce", wait)
    monkeypatch.setattr(statistics.dist_functional, "all_gather", wait)
    with pytest.raises(AssertionError):
        statistics.moments(torch.randn(20, 3))
    labelled = replace(
        _small(data), y_train=data.y_train[:100], y_test=data.y_test[:40], classes=data.classes
    )
    probe_encoder(Pretrained(MeanColour(), predictor), labelled)


def test_the_state_is_read_off(data) -> None:
    def states(images: Tensor) -> Tensor:
        return torch.stack([images[:, 0].float().mean((1, 2)), images[:, 0, 0, 0].float()], -1)

    frames = ProbeData(
        "frames", data.train, data.test, states_train=states(data.train), states_test=states(data.test),
        state_names=("redness", "corner"),
    )  # fmt: skip
    row = probe_encoder(Pretrained(MeanColour()), frames).row
    assert row["state/r2/redness"] == pytest.approx(1, abs=1e-3)
    assert row["state/r2"] == pytest.approx((row["state/r2/redness"] + row["state/r2/corner"]) / 2)
    assert "linear/accuracy" not in row


def test_held_out_classes_are_outside_and_nowhere_else(data) -> None:
    left = hold_out_classes(data, ["green"])
    assert left.classes == ["red", "blue", "grey"]
    assert len(left.outside["held_out_classes"]) == int((data.y_test == 1).sum())
    for images, y, whole, y_whole in (
        (left.train, left.y_train, data.train, data.y_train),
        (left.test, left.y_test, data.test, data.y_test),
    ):
        assert torch.equal(images, whole[y_whole != 1])
        assert [left.classes[i] for i in y] == [data.classes[i] for i in y_whole if i != 1]
    with pytest.raises(
        ConfigError, match=r"held_out_classes=\[cyan\] must be among .*red, green, blue, grey"
    ):
        hold_out_classes(data, ["cyan"])
    with pytest.raises(ConfigError, match="must leave at least 2 of 4 classes"):
        hold_out_classes(data, ["red", "green", "blue"])


def test_where_one_part_has_no_labels_none_are_told() -> None:
    pixels = torch.zeros(8, 3, SIDE, SIDE, dtype=torch.uint8)
    labels = torch.arange(8) % 2
    train, test = (Images(pixels, each, ("a", "b")) for each in (labels, torch.full((8,), -1)))
    told = probe_data(Split(train, test), "flat", 8, 8)
    assert told.y_train is None and told.y_test is None and not told.classes and len(told.test) == 8
    assert probe_data(Split(train, train), "both", 8, 4).classes == ("a", "b")
    for count, classes in ((3, False), (4, True)):  # three are too few to fit a probe to
        told = probe_data(Split(train, train), "few", count, 4)
        row = probe_encoder(_untrained("diagonal"), told, heatmaps=0).row
        assert bool(told.classes) == classes == (row.get("linear/accuracy") is not None)


def test_images_of_another_shape_are_refused(data) -> None:
    encoder = make_encoder("conv", 9, 4, 64, width=8)
    with pytest.raises(ConfigError, match="images of 3x16x16, the encoder takes 9x64x64"):
        probe_encoder(Pretrained(encoder), data)


def test_the_page_shows_every_figure(found, data, tmp_path) -> None:
    plain = probe_encoder(Pretrained(MeanColour()), data)
    rows = [{"encoder": "gje", **found.row}, {"encoder": "simclr", **plain.row}]
    arrays = {"gje": found.arrays, "simclr": plain.arrays}
    text = write_report(tmp_path, rows, arrays, "seed: <b>").read_text()
    names = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert names == {"accuracies", "reliability", "risk_coverage", "detection", "heatmaps"}
    assert text.count("<img") == 5 and "seed: <b>" not in text and "seed: &lt;b&gt;" in text


def test_a_table_marks_the_best_and_leaves_out_what_nobody_has() -> None:
    rows = [{"a": 0.5, "b": 1.0, "n": "x|y"}, {"a": 0.7, "b": None, "n": "z"}]
    table = markdown(rows, {"n": "name", "a": "acc ↑", "b": "err ↓", "c": "none ↑"})
    assert table.splitlines() == [
        "| name | acc ↑ | err ↓ |",
        "| --- | --- | --- |",
        "| x\\|y | 0.500 | 1.000 |",
        "| z | **0.700** | – |",
    ]


@pytest.mark.parametrize("side, patch", [(64, 8), (32, 4), (84, 12), (31, 1), (2, 1)])
def test_heatmaps_have_patches_of_about_an_eighth_that_fit(side, patch) -> None:
    assert patch_side(side) == patch


def test_names_are_as_short_as_they_differ() -> None:
    assert short_names(["runs/gje/encoder", "runs/vicreg/encoder"]) == ["gje/encoder", "vicreg/encoder"]
    assert short_names(["runs/gje"]) == ["gje"]


def _command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gje-probe", "encoders", *arguments])
    with pytest.raises(SystemExit) as ended:
        probe.main()
    return ended.value.code


def test_the_command_measures_each_encoder_once(tmp_path, monkeypatch, capsys) -> None:
    paths = [str(tmp_path / name / "encoder") for name in ("gje", "plain")]
    learnt = {"method": {"name": "gje"}, "objective": {"name": "gje_conditional"}}  # as gje-pretrain tells it
    Pretrained(make_encoder("conv", 3, 8, SIDE, width=8), ViewPredictor(8, 4), learnt).save(paths[0])
    make_encoder("conv", 3, 8, SIDE, width=8).save(paths[1])
    # the frames are rendered once, and the figures have tests of their own
    frames = encoders.load_images(replace(SMALL, image_size=SIDE), 0, encoders.make_env)
    monkeypatch.setattr(encoders, "load_images", lambda *_: frames)
    monkeypatch.setattr("gje_world.plots.encoders.FIGURES", FIGURES[:1])
    options = ["data.frames=60", "outside_images=20", f"run_dir={tmp_path / 'run'}"]
    assert _command(monkeypatch, f"encoders=[{paths[0]}]", *options) == 0
    first = (tmp_path / "run" / "table.csv").read_text().splitlines()[1]
    assert first.startswith("encoder,")
    assert _command(monkeypatch, f"encoders=[{paths[1]}]", *options) == 0
    assert "plain/encoder:" in capsys.readouterr().err
    with (tmp_path / "run" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["encoder"] for row in rows] == ["gje/encoder", "plain/encoder"]  # each told from the other
    assert rows[0]["seconds"] in first.split(",")  # not measured again
    assert rows[0]["state/r2"] and rows[1]["belief"] == ""
    assert "| gje/encoder |" in (tmp_path / "run" / "table.md").read_text()
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_a_table_goes_on_with_the_same_images_alone(tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "encoder"
    make_encoder("conv", 3, 8, SIDE, width=8).save(path)
    pixels = torch.randint(256, (40, 3, SIDE, SIDE), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    found = {"images": pixels}
    parts = lambda: Images(found["images"], labels, ("a", "b"))  # noqa: E731
    monkeypatch.setattr(encoders, "load_images", lambda *_: Split(parts(), parts()))
    monkeypatch.setattr("gje_world.plots.encoders.FIGURES", FIGURES[:1])
    (tmp_path / "images.zip").write_bytes(b"")
    options = ["data=zip", f"data.path={tmp_path / 'images.zip'}", "outside_images=20"]
    command = (f"encoders=[{path}]", *options, f"run_dir={tmp_path / 'run'}")
    assert _command(monkeypatch, *command) == 0
    found["images"] = pixels.flip(0)
    assert _command(monkeypatch, *command) == 2
    assert "began with other images" in capsys.readouterr().err


def test_errors_come_in_one_line_before_any_work(tmp_path, monkeypatch, capsys) -> None:
    make_encoder("conv", 3, 8, SIDE, width=8).save(tmp_path / "whole")
    whole = f"encoders=[{tmp_path}/whole]"
    for arguments, words in (
        ((), "encoders must be given"),
        (("encoders=[]",), "encoders=[] must name at least one folder"),
        ((f"encoders=[{tmp_path}/none]",), "holds no encoder.json"),
        ((whole, "test_images=1"), "test_images=1 must be at least 2"),
        ((whole, "data=frames", "data.task=dmc/nothing-here"), "data.task=dmc/nothing-here"),
        ((whole, "data=zip"), "data=zip needs data.path"),
        ((whole, "data.image_size=32"), f"data.image_size=32 must be {SIDE}, which {tmp_path}/whole takes"),
        ((whole, "data=cifar10", f"data.path={tmp_path}"), f"data.image_size=32 must be {SIDE}"),
        ((whole, "data=imagenet"), "imagenet"),
    ):
        assert _command(monkeypatch, f"run_dir={tmp_path / 'run'}", *arguments) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
