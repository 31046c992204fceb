"""Encoders and perceptrons against plain formulas."""

import pytest
import torch
import torch.nn.functional as F

from gje_world.networks import ConvEncoder, EnsembleMLP, NormedLinear, mlp, simplicial
from gje_world.networks.encoder import channels_last


def pixels(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("image_size", [16, 32, 64])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_the_encoder_keeps_leading_dimensions(image_size, lead):
    encoder = ConvEncoder(6, dim=10, image_size=image_size, width=4)
    z = encoder(pixels(*lead, 6, image_size, image_size))
    assert z.shape == (*lead, 10)
    assert z.dtype == torch.float32


@pytest.mark.parametrize("image_size", [0, 8, 60, -16])
def test_an_image_size_that_cannot_be_halved_four_times_is_refused(image_size):
    with pytest.raises(ValueError, match=f"image_size must be a positive multiple of 16, got {image_size}"):
        ConvEncoder(3, dim=4, image_size=image_size)


def test_centred_pixels_have_mean_zero_at_each_place_and_deviation_one_overall():
    encoder = ConvEncoder(3, dim=4, image_size=16, width=4)
    obs = pixels(50, 3, 16, 16) // 4 + pixels(3, 16, 16, seed=1) // 2
    encoder.centre_on(obs)
    centred = (obs.float() - encoder.mean_frame) * encoder.inverse_std
    torch.testing.assert_close(centred.mean(0), torch.zeros(3, 16, 16), rtol=0, atol=1e-5)
    assert float(centred.std()) == pytest.approx(1, abs=1e-4)


def test_a_still_scene_is_not_amplified():
    encoder = ConvEncoder(3, dim=4, image_size=16, width=4)
    encoder.centre_on(pixels(3, 16, 16).expand(10, 3, 16, 16))
    assert float(encoder.inverse_std) <= 0.5  # a grey level stays below half a unit


def test_the_encoder_is_its_convolutions_over_centred_pixels():
    torch.manual_seed(0)
    encoder = ConvEncoder(3, dim=8, image_size=32, width=4)
    obs = pixels(20, 3, 32, 32)
    encoder.centre_on(obs)
    x = (obs.float() - encoder.mean_frame) * encoder.inverse_std
    expected = encoder.project(encoder.rest(encoder.first(x)).flatten(1))
    torch.testing.assert_close(encoder(obs), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_gives_nearly_the_same_float32_embedding():
    torch.manual_seed(0)
    encoder = ConvEncoder(3, dim=8, image_size=32, width=8)
    obs = pixels(20, 3, 32, 32)
    encoder.centre_on(obs)
    exact = encoder(obs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(obs)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.03 * exact.norm()


def test_pixels_that_are_not_whole_are_centred_before_they_are_rounded():
    torch.manual_seed(0)
    encoder = ConvEncoder(3, dim=8, image_size=32, width=8)
    obs = 200 + 0.8 * torch.rand(20, 3, 32, 32)  # bfloat16 knows no level between 200 and 201
    encoder.centre_on(obs)
    exact = encoder(obs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(obs)
    spread = (exact - exact.mean(0)).norm()
    assert (rounded - exact).norm() < 0.1 * spread


def test_the_memory_layout_of_the_pixels_makes_no_difference():
    encoder = ConvEncoder(3, dim=8, image_size=16, width=4)
    obs = pixels(5, 3, 16, 16)
    strided = obs.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    before = obs.clone()
    torch.testing.assert_close(encoder(strided), encoder(obs))
    assert torch.equal(obs, before)


def test_the_centring_travels_with_the_weights():
    encoder, other = (ConvEncoder(3, dim=4, image_size=16, width=4) for _ in range(2))
    obs = pixels(50, 3, 16, 16)
    encoder.centre_on(obs)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(obs), encoder(obs))


def test_all_of_the_encoder_learns():
    encoder = ConvEncoder(3, dim=4, image_size=16, width=4)
    encoder(pixels(8, 3, 16, 16)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def member(ensemble, e):
    """Member `e` of an ensemble as a perceptron of torch's own layers."""
    layers = []
    for i, layer in enumerate((ensemble.first, ensemble.second)):
        linear = torch.nn.Linear(*layer.weight.shape[1:])
        linear.load_state_dict({"weight": layer.weight[e].mT, "bias": layer.bias[e, 0]})
        norm = torch.nn.LayerNorm(linear.out_features)
        norm.load_state_dict({"weight": ensemble.scales[i, e, 0], "bias": ensemble.shifts[i, e, 0]})
        layers += [linear, norm, torch.nn.SiLU()]
    last = torch.nn.Linear(*ensemble.last.weight.shape[1:])
    last.load_state_dict({"weight": ensemble.last.weight[e].mT, "bias": ensemble.last.bias[e, 0]})
    return torch.nn.Sequential(*layers, last)


@pytest.mark.parametrize("lead", [(7,), (2, 3), (2, 3, 4)])
def test_each_member_of_an_ensemble_is_a_perceptron_of_its_own(lead):
    torch.manual_seed(0)
    ensemble = EnsembleMLP(3, features=5, hidden=8, out=4)
    for parameter in ensemble.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(*lead, 5)
    out = ensemble(x)
    assert out.shape == (3, *lead, 4)
    for e in range(3):
        torch.testing.assert_close(out[e], member(ensemble, e)(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ensemble(x, [2, 0]), out[[2, 0]])


def test_the_members_of_an_ensemble_learn_apart():
    torch.manual_seed(0)
    ensemble = EnsembleMLP(3, features=5, hidden=8, out=4)
    torch.nn.init.normal_(ensemble.last.weight)
    ensemble(torch.randn(7, 5))[1].square().sum().backward()
    for layer in (ensemble.first, ensemble.second, ensemble.last):
        assert layer.weight.grad[1].abs().sum() > 0
        assert not layer.weight.grad[[0, 2]].any()


def test_an_ensemble_begins_at_zero_with_members_that_differ():
    ensemble = EnsembleMLP(3, features=5, hidden=8, out=4)
    assert not ensemble(torch.randn(7, 5)).any()
    assert not torch.equal(ensemble.first.weight[0], ensemble.first.weight[1])


def test_a_normed_layer_is_linear_then_norm_then_silu():
    layer = NormedLinear(5, 8)
    x = torch.randn(3, 5)
    expected = F.silu(F.layer_norm(x @ layer.linear.weight.mT + layer.linear.bias, (8,)))
    torch.testing.assert_close(layer(x), expected)
    assert mlp(5, 8, layers=3)(x).shape == (3, 8)


def test_simplicial_embeddings_lie_on_simplices():
    z = simplicial(10 * torch.randn(5, 32))
    assert z.shape == (5, 32)
    assert (z >= 0).all()
    torch.testing.assert_close(z.unflatten(-1, (4, 8)).sum(-1), torch.ones(5, 4))
    logits = torch.randn(2, 8)
    torch.testing.assert_close(simplicial(logits), logits.softmax(-1))
    with pytest.raises(RuntimeError):
        simplicial(torch.zeros(5, 12))


def test_images_laid_out_channels_last_are_the_same_images():
    images = torch.randint(256, (5, 9, 8, 6), dtype=torch.uint8)
    for lead in ((5,), (1, 5), (5, 1)):
        laid_out = channels_last(images.view(*lead, 9, 8, 6))
        assert torch.equal(laid_out, images)
        assert laid_out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(channels_last(images[0]), images[:1])


def test_an_ensemble_is_no_wider_than_its_layers_under_autocast(monkeypatch):
    seen, silu = [], F.silu
    monkeypatch.setattr(F, "silu", lambda x: seen.append(x.dtype) or silu(x))
    with torch.autocast("cpu", torch.bfloat16):
        EnsembleMLP(3, 4, 8, 2)(torch.randn(5, 4))
    assert seen == [torch.bfloat16] * 2
