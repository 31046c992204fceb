"""Encoders map pixels to embeddings, and a saved one is the same encoder in any other process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gje_world
from gje_world.evaluation.probe import linear_probe_r2
from gje_world.networks import ENCODERS, Encoder, make_encoder
from gje_world.networks.exported import PretrainedError
from gje_world.networks.vit import ViTEncoder, patch_size
from gje_world.predictor import ViewPredictor
from gje_world.pretrained import Pretrained, load_encoder, load_pretrained
from gje_world.training.content import content_digest

OWN = sorted(ENCODERS.keys() - {"timm"})
SMALL = {
    "conv": {"width": 8},
    "resnet18": {"width": 8},
    "resnet50": {"width": 8},
    "keypoints": {"width": 8, "hidden": 16},
    "vit_tiny": {"depth": 2},
}


def small(name: str, dim: int | None = 12, size: int = 32) -> Encoder:
    torch.manual_seed(0)
    return make_encoder(name, 3, dim, size, **SMALL.get(name, {"depth": 1})).eval()


def images(*lead: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (*lead, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", OWN)
def test_pixels_of_any_leading_shape_become_embeddings(name):
    encoder, obs = small(name), images(2, 3)
    z = encoder(obs)
    assert z.shape == (2, 3, 12) and z.dtype == torch.float32
    torch.testing.assert_close(encoder(obs[1, 2]), z[1, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_images_that_do_not_fit_are_refused_by_their_shape(name):
    encoder = small(name)
    wrong = [(2, 4, 32, 32), (32, 32)] if encoder.any_size else [(2, 4, 32, 32), (2, 3, 32, 48)]
    for shape in wrong:
        with pytest.raises(ValueError, match=r"images must be \[\.\.\., 3, .*\] for this encoder, got \["):
            encoder(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("name", OWN)
def test_floating_pixels_are_the_same_as_whole_ones_and_stay_as_they_were(name):
    encoder, obs = small(name), images(4)
    pixels = obs.float()
    torch.testing.assert_close(encoder(pixels), encoder(obs))
    assert torch.equal(pixels, obs.float())


@pytest.mark.parametrize("name", OWN)
def test_the_embedding_does_not_depend_on_brightness_and_contrast_that_all_images_share(name):
    dim_one, bright = small(name), small(name)
    obs = images(16) // 3
    dim_one.centre_on(obs)
    bright.centre_on(obs * 2 + 40)
    torch.testing.assert_close(bright(obs * 2 + 40), dim_one(obs), rtol=1e-3, atol=1e-4)


def test_a_map_that_is_high_in_one_place_is_told_as_that_place():
    encoder = make_encoder("keypoints", 3, None, 32, width=2)
    logits = torch.zeros(1, 2, 8, 8)
    logits[0, 0, 0, 7] = 100.0  # the upper right corner
    logits[0, 1, :, :] = 5.0  # nowhere more than elsewhere: the middle
    encoder.maps = torch.nn.Sequential()
    expected = torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    torch.testing.assert_close(encoder.features(logits), expected, rtol=0, atol=1e-6)


def test_places_alone_do_not_tell_an_angle_between_them_and_a_perceptron_of_them_does():
    """The cosine of the angle at a middle place, of two sides of length one, from three places."""
    torch.manual_seed(0)
    first, second = 2 * torch.pi * torch.rand(2, 4_000)
    middle = torch.rand(2, 4_000) - 0.5
    ends = (middle + torch.stack([side.cos(), side.sin()]) for side in (first, first + second))
    places, angle = torch.cat([middle, *ends]).T, second.cos()[:, None]
    encoder = make_encoder("keypoints", 3, 16, 32, width=3, hidden=64)
    optimizer = torch.optim.Adam([*encoder.related.parameters(), *encoder.project.parameters()], 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        (encoder.project(encoder.related(places))[:, :1] - angle).square().mean().backward()
        optimizer.step()
    halves = slice(0, 2_000), slice(2_000, None)

    def told(z: torch.Tensor) -> float:
        return float(linear_probe_r2(z[halves[0]], angle[halves[0]], z[halves[1]], angle[halves[1]]))

    torch.testing.assert_close(encoder.related(places)[:, :6], places)  # which stay as readable as they are
    assert told(places) < 0.05
    assert told(encoder.project(encoder.related(places)).detach()) > 0.9


def test_a_small_image_keeps_its_size_in_the_stem_of_a_resnet():
    small_stem, large_stem = small("resnet18", size=64), small("resnet18", size=96)
    assert small_stem.layers[:3](images(1, size=64).float()).shape[-1] == 64
    assert large_stem.layers[:4](images(1, size=96).float()).shape[-1] == 24


def test_resnets_have_as_many_parameters_as_torchvision_says():
    count = {
        name: sum(p.numel() for p in make_encoder(name, 3, None, 224).parameters())
        for name in ("resnet18", "resnet50")
    }
    # of torchvision's models, less their classifiers of 1000 classes
    assert count == {"resnet18": 11_689_512 - 513_000, "resnet50": 25_557_032 - 2_049_000}


@pytest.mark.parametrize(("size", "patch"), [(28, 4), (32, 4), (64, 8), (84, 7), (96, 12), (224, 16)])
def test_patches_follow_the_image(size, patch):
    assert patch_size(size) == patch


def test_a_transformer_may_look_at_some_patches_alone():
    encoder = small("vit_tiny")
    assert isinstance(encoder, ViTEncoder)
    obs = encoder.pixels(images(2))
    kept = torch.tensor([[0, 3, 9], [1, 2, 60]])
    tokens = encoder.tokens(obs, kept)
    changed = obs.clone()
    changed[:, :, 4:8, 28:] += 1  # row 1, column 7: patch 15, which is not kept
    torch.testing.assert_close(encoder.tokens(changed, kept), tokens)
    assert not torch.allclose(encoder.tokens(changed), encoder.tokens(obs))
    patches = encoder.patches(obs)
    torch.testing.assert_close(patches[0, 9].view(3, 4, 4), obs[0, :, 4:8, 4:8])


def test_a_saved_encoder_is_the_same_in_another_process(tmp_path):
    encoder = small("conv")
    encoder.centre_on(images(8))
    predictor = ViewPredictor(12, 6, projector_hidden=16, hidden=8, belief={"name": "mixture"}).eval()
    Pretrained(encoder, predictor, {"data": "noise", "licence": "CC0"}).save(tmp_path / "out")
    obs = images(5)
    torch.save(obs, tmp_path / "obs.pt")
    script = (
        "import sys, torch, gje_world\n"
        "found = gje_world.load_pretrained(sys.argv[1])\n"
        "z = found.encoder(torch.load(sys.argv[2]))\n"
        "torch.save([z, found.believe(z).log_prob(found.project(z))], sys.argv[3])\n"
    )
    paths = [str(tmp_path / name) for name in ("out", "obs.pt", "found.pt")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True, timeout=120)
    z, density = torch.load(tmp_path / "found.pt")
    # close, not equal: the other process may compute on another number of threads
    torch.testing.assert_close(z, encoder(obs), rtol=1e-5, atol=1e-6)
    v = predictor.project(z)
    torch.testing.assert_close(density, predictor.believe(v).log_prob(v), rtol=1e-5, atol=1e-4)
    found = load_pretrained(tmp_path / "out")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(found.encoder.state_dict()[name], tensor), name
    assert found.provenance == {"data": "noise", "licence": "CC0"}


@pytest.mark.parametrize("name", OWN)
def test_every_encoder_comes_back(name, tmp_path):
    encoder = small(name)
    encoder.save(tmp_path, data="noise")
    state = torch.get_rng_state()
    found = gje_world.load_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(found) is type(encoder) and not found.training
    assert torch.equal(found(images(2)), encoder(images(2)))
    assert json.loads((tmp_path / "encoder.json").read_text())["provenance"] == {"data": "noise"}
    assert load_pretrained(tmp_path).believe(torch.zeros(1, 12)) is None


def break_json(folder: Path) -> None:
    file = folder / "encoder.json"
    file.write_text(file.read_text()[:-20])


def break_weights(folder: Path) -> None:
    file = folder / "encoder.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def describe(folder: Path, **changes) -> None:
    file = folder / "encoder.json"
    content = json.loads(file.read_text())
    content["encoder"]["architecture"] |= changes
    file.write_text(json.dumps(content))


def not_safetensors(folder: Path) -> None:
    file = folder / "encoder.safetensors"
    torch.save({"a": torch.zeros(1)}, file)
    text = (folder / "encoder.json").read_text()
    described = json.loads(text)["sha256"]["encoder.safetensors"]
    (folder / "encoder.json").write_text(text.replace(described, content_digest(file)))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_json, "encoder.json is damaged"),
        (break_weights, "does not match the digest"),
        (lambda folder: (folder / "encoder.json").unlink(), "holds no encoder.json"),
        (lambda folder: (folder / "encoder.safetensors").unlink(), "holds no encoder.safetensors"),
        (lambda folder: (folder / "encoder.json").write_text('{"format": "other"}'), "must be of the format"),
        (lambda folder: (folder / "encoder.json").write_text("[" * 100_000), "is damaged"),
        (lambda folder: describe(folder, width=16), r"first.bias is \[4\] there, but \[8\]"),
        (lambda folder: describe(folder, name="os.system"), "encoder must be one of"),
        (lambda folder: describe(folder, name="timm"), "no option width"),
        (lambda folder: describe(folder, image_size=33), "multiple of 16"),
        (lambda folder: describe(folder, dim=10**12), "out of bounds"),
        (lambda folder: describe(folder, dim="12"), "cannot be"),
        (not_safetensors, "cannot be read"),
    ],
)
def test_a_damaged_or_strange_folder_is_refused_in_one_line(damage, reason, tmp_path):
    small("conv").save(tmp_path)
    damage(tmp_path)
    with pytest.raises(PretrainedError, match=reason) as caught:
        load_encoder(tmp_path)
    assert "\n" not in str(caught.value)
