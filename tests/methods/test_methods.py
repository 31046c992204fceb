"""Every method takes views, gives every part of it a gradient, and learns the same in chunks."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import configs
from gje_world.methods import METHODS, Method, make_method
from gje_world.networks import make_encoder
from gje_world.predictor import ViewPredictor

CONFIGS = Path(configs.__file__).parent / "pretrain" / "method"

NARROW = {
    "gje": {"dim": 8, "projector_hidden": 16, "hidden": 16},
    "masked_gje": {"dim": 8, "decoder_width": 64, "decoder_depth": 1},
    "simclr": {"dim": 8, "projector_hidden": 16},
    "byol": {"dim": 8, "projector_hidden": 16},
    "simsiam": {"dim": 16},
    "vicreg": {"dim": 16, "projector_hidden": 16},
    "barlow_twins": {"dim": 16, "projector_hidden": 16},
    "dino": {"dim": 8, "projector_hidden": 16, "prototypes": 32},
    "mae": {"decoder_width": 64, "decoder_depth": 1},
}
WITHOUT_GRADIENT = ("target_", "teacher_", "average.")


def narrow(name: str, encoder: str = "conv", **options):
    torch.manual_seed(0)
    if METHODS[name].needs_patches:
        made = make_encoder("vit_tiny", 3, None, 16, depth=1)
    else:
        made = make_encoder(encoder, 3, 16, 16, width=8)
    return make_method(name, made, 10, **NARROW[name] | options)


def views(batch: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, batch, 3, 16, 16, generator=generator)
    return [255 * (0.7 * image + 0.3 * torch.rand(2, batch, 3, 16, 16, generator=generator))]


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_learns_or_follows(name):
    method = narrow(name)
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.1)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    for update in range(2):
        loss, metrics = method(views())
        assert loss.shape == () and all(
            value.ndim == 0 and not value.requires_grad for value in metrics.values()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_update(update)
    for part, parameter in method.named_parameters():
        follows = part.startswith(WITHOUT_GRADIENT)
        assert parameter.requires_grad != follows
        if parameter.ndim > 1:  # a bias that a batch norm follows has no gradient
            assert not torch.equal(parameter, before[part]), f"{part} stayed as it was"


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"mae", "masked_gje"}))
def test_chunks_have_the_gradient_of_the_whole_batch(name):
    gradients = []
    for chunk in (None, 5):
        method = narrow(name, chunk=chunk)
        loss, _ = method(views())
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None]))
    whole, parts = gradients
    assert (parts - whole).norm() < 3e-6 * whole.norm()  # of float32


@pytest.mark.parametrize("name", ["simclr", "byol"])
def test_running_statistics_see_each_chunk_once(name):
    """Not once more while a chunk is encoded again on the way back."""
    method = narrow(name, "resnet18", chunk=4)
    alone = copy.deepcopy(method.encoder)
    (group,) = views()
    loss, _ = method([group])
    loss.backward()
    with torch.no_grad():
        for chunk in group.flatten(0, 1).split(4):
            alone(chunk)
    found, expected = dict(method.encoder.named_buffers()), dict(alone.named_buffers())
    assert all(value == 4 for buffer, value in found.items() if buffer.endswith("num_batches_tracked"))
    torch.testing.assert_close(found, expected)


def signature_defaults(kind: type) -> dict[str, object]:
    return {name: p.default for name, p in inspect.signature(kind).parameters.items()}


@pytest.mark.parametrize("name", METHODS)
def test_the_command_has_the_defaults_of_the_method(name):
    own = signature_defaults(METHODS[name])
    for parent in METHODS[name].__mro__[1:-1]:
        if issubclass(parent, Method):
            own = signature_defaults(parent) | own
    written = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert written.pop("name") == name
    assert {option: own[option] for option in written} == {
        option: pytest.approx(value) for option, value in written.items()
    }


def test_gje_has_the_defaults_of_its_predictor():
    own, predictors = signature_defaults(METHODS["gje"]), signature_defaults(ViewPredictor)
    for option in ("projector_hidden", "hidden", "dim"):
        assert own[option] == predictors[option]


OBJECTIVES = {
    "gje_conditional": ["diagonal", "low_rank", "full", "mixture", "student_t", "flow", "ensemble", "polar"],
    "gje_joint": ["diagonal", "point"],
    "gmje": ["diagonal"],
    "gmje_mdn": ["mixture"],
    "gmje_gng": ["diagonal"],
    "gmje_smc": ["diagonal"],
    "vje": ["diagonal"],
    "vi_simsiam": ["power_spherical"],
    "consistency": ["point"],
}


@pytest.mark.parametrize(("objective", "belief"), [(o, b) for o, names in OBJECTIVES.items() for b in names])
def test_gje_takes_every_objective_and_belief(objective, belief):
    method = narrow("gje", objective={"name": objective}, belief={"name": belief})
    loss, _ = method(views())
    loss.backward()
    assert loss.isfinite() and method.encoder.project.weight.grad.abs().sum() > 0


def test_gje_is_symmetric_in_its_views():
    method = narrow("gje")
    (group,) = views()
    loss, _ = method([group])
    swapped, _ = method([group.flip(0)])
    torch.testing.assert_close(swapped, loss)


def test_momentum_targets_follow():
    method = narrow("gje", objective={"name": "gje_conditional", "target": "momentum", "momentum": 0.5})
    weight = method.encoder.project.weight
    start = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    method.after_update(0)  # its first is a copy
    with torch.no_grad():
        weight += 1
    method.after_update(1)
    torch.testing.assert_close(method.average.module[0].project.weight, start + 1.5)


def test_momentum_targets_of_beliefs_over_directions_are_directions():
    objective = {"name": "gje_conditional", "target": "momentum"}
    method = narrow("gje", objective=objective, belief={"name": "power_spherical"})
    (group,) = views()
    target = method.targets(group, method.encode(group))
    torch.testing.assert_close(target.norm(dim=-1), torch.ones(2, len(group[0])))


MOMENTUM = {"objective": {"name": "gje_conditional", "target": "momentum"}}


@pytest.mark.parametrize(
    ("name", "options", "average"),
    [("byol", {}, "target_encoder"), ("dino", {}, "teacher_encoder"), ("gje", MOMENTUM, "average.module.0")],
)
def test_a_moving_average_begins_with_the_pixels_of_its_encoder(name, options, average):
    method = narrow(name, **options)
    ((images, _),) = views()
    obs = (images / 8).to(torch.uint8)  # dark: far from what is normalised by at first
    before = method.encoder(obs)
    method.centre_on(obs)
    z = method.encode(obs.unsqueeze(0))
    assert not torch.allclose(z[0], before, atol=0.1)
    torch.testing.assert_close(method.encode(obs.unsqueeze(0), method.get_submodule(average)), z)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simclr", {"prototypes": 3}, "method=simclr has no option prototypes"),
        ("moco", {}, "method must be one of gje"),
    ],
)
def test_what_cannot_be_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_method(name, make_encoder("conv", 3, 16, 16), 1, **options)


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_masking_hides_a_patch_and_leaves_one(ratio):
    method = narrow("mae", mask_ratio=ratio)
    seen, hidden = method.split(torch.zeros(2, 3, 16, 16))
    assert seen.shape[1] >= 1 and hidden.shape[1] >= 1 and seen.shape[1] + hidden.shape[1] == method.count


def test_masking_refuses_a_single_patch_and_heads_that_do_not_fit():
    with pytest.raises(ValueError, match=r"encoder\.patch=16 must leave a masked method at least 2 patches"):
        make_method("mae", make_encoder("vit_tiny", 3, None, 16, depth=1, patch=16), 1)
    with pytest.raises(ValueError, match=r"method\.decoder_width=130 must be a multiple of 64"):
        narrow("mae", decoder_width=130)


def test_masking_needs_patches():
    with pytest.raises(ValueError, match="encoder=vit_tiny"):
        make_method("mae", make_encoder("conv", 3, 16, 16), 1)
