"""Calibration after learning: wider beliefs, mixtures of them, and what finds them on data kept for it."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as td

from gje_world.beliefs import HEADS, DiagonalGaussian, Ensemble, Mixture, ScaleMixture, fuse, make_head
from gje_world.beliefs.scale_mixture import fit_weights
from gje_world.calibration import NOTHING, Calibration
from gje_world.evaluation.foresight import region_mass
from gje_world.evaluation.scores import coverage_error
from gje_world.networks import ConvEncoder
from gje_world.video.calibration import SCALES, calibrate, calibrate_ahead
from gje_world.video_model import PredictorConfig, VideoModel

B, D = 5, 4
RESCALED = [name for name in HEADS if name not in ("point", "power_spherical")]


def believe(name, dim=D, rows=B):
    torch.manual_seed(0)
    head = make_head(name, 8, dim, **({"components": 3} if name == "mixture" else {}))
    with torch.no_grad():
        return head(2 * torch.randn(rows, 8)).translate(torch.randn(rows, dim))


@pytest.mark.parametrize("name", RESCALED)
def test_a_rescaled_belief_has_the_density_of_its_own_samples(name):
    with torch.no_grad():
        wider = believe(name).rescale(torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0]))
        assert wider.batch_shape == (B,) and wider.rsample((3,)).shape == (3, B, D)
        drawn = wider.rsample((2_000,))
        assert coverage_error(wider.coverage(drawn).flatten()).amax() < 0.06  # ranks among 199 draws
        off = (drawn.mean(0) - wider.mean) / drawn.std(0)
        assert off.abs().max() < (1.0 if name == "flow" else 0.1)  # whose mean is estimated from 32 draws
        again, centre = wider.draw((2_000,))
        torch.testing.assert_close(again.std(0), drawn.std(0), atol=0.1, rtol=0.15)
        assert centre.shape == again.shape


def test_a_scale_that_would_have_one_draw_stand_for_several_is_refused():
    flow = make_head("flow", 4, 3)(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"scale \[5\] must not repeat a belief of \[1\]"):
        flow.rescale(torch.ones(5))
    assert flow.rescale(torch.ones(5, 1)).rsample().std(0).min() > 0  # five draws of it


@pytest.mark.parametrize("name", [name for name in RESCALED if name not in ("mixture", "flow", "ensemble")])
def test_a_rescaled_belief_is_the_same_law_in_other_units(name):
    with torch.no_grad():
        belief, scale = believe(name), torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0])
        value = belief.rsample((4,))
        wider = belief.rescale(scale)
        moved = belief.mean + scale.unsqueeze(-1) * (value - belief.mean)
        expected = belief.log_prob(value) - D * scale.log()
        torch.testing.assert_close(wider.log_prob(moved), expected, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(wider.variance, belief.variance * scale.square().unsqueeze(-1))
        many = belief.rescale(torch.rand(7, 1) + 0.5)
        assert many.batch_shape == (7, B) and many.rsample().shape == many.mean.shape == (7, B, D)


@pytest.mark.parametrize("name", RESCALED)
def test_densities_at_several_scales_are_those_of_each(name):
    with torch.no_grad():
        belief, scales = believe(name), torch.tensor([0.5, 1.0, 2.5])
        value = belief.rsample((6,))
        found = belief.log_prob_at_scales(value, scales)
        assert found.shape == (6, B, 3)
        for place, scale in enumerate(scales):
            torch.testing.assert_close(
                found[..., place], belief.rescale(scale).log_prob(value), atol=2e-4, rtol=1e-4
            )


def test_components_of_a_rescaled_mixture_stay_where_they_are():
    mixture = believe("mixture")
    wider = mixture.rescale(torch.tensor(2.0))
    torch.testing.assert_close(wider.means.expand_as(mixture.means), mixture.means)
    torch.testing.assert_close(wider.components.variance, 4 * mixture.components.variance)
    drawn, centre = mixture.draw((1_000,))
    nearest = (centre.unsqueeze(-2) - mixture.means).norm(dim=-1).amin(-1)
    assert nearest.max() < 1e-6
    spread = (drawn - centre).var((0, 1))
    assert (spread < mixture.variance.amax(0)).all()


def test_members_of_a_rescaled_ensemble_stay_where_they_are():
    apart = Ensemble([DiagonalGaussian(torch.full((B, D), m), torch.ones(B, D)) for m in (-3.0, 3.0)])
    wider = apart.rescale(torch.tensor(0.1))
    assert (wider.rsample((500,)).abs() - 3).abs().max() < 0.6
    torch.testing.assert_close(wider.draw((500,))[1].abs(), torch.full((500, B, D), 3.0))


def mixed(name="diagonal"):
    return ScaleMixture(believe(name), torch.tensor([0.5, 1.0, 3.0]), torch.tensor([0.2, 0.5, 0.3]).log())


def test_a_scale_mixture_agrees_with_torch():
    belief = mixed()
    scales, weights = belief.scales, belief.log_weights.exp()
    each = td.Normal(belief.base.mean.unsqueeze(1), belief.base.std.unsqueeze(1) * scales[:, None])
    oracle = td.MixtureSameFamily(td.Categorical(weights.expand(B, -1)), td.Independent(each, 1))
    value = belief.rsample((200,))
    torch.testing.assert_close(belief.log_prob(value), oracle.log_prob(value))
    torch.testing.assert_close(belief.mean, oracle.mean)
    torch.testing.assert_close(belief.variance, oracle.variance)
    torch.testing.assert_close(belief.covariance_matrix.diagonal(dim1=-2, dim2=-1), oracle.variance)
    assert coverage_error(belief.coverage(belief.rsample((3_000,))).flatten()).amax() < 0.02


@pytest.mark.parametrize("name", ["diagonal", "mixture", "full"])
def test_a_scale_mixture_fuses_as_the_mixture_that_it_is(name):
    belief, goal = mixed(name), DiagonalGaussian(torch.zeros(B, D), torch.ones(B, D))
    fused = fuse(belief, goal)
    value = torch.randn(50, B, D)
    product = belief.log_prob(value) + goal.log_prob(value)
    constant = product - fused.log_prob(value)  # of normalisation, the same wherever it is looked at
    torch.testing.assert_close(constant, constant[:1].expand_as(constant), atol=1e-3, rtol=1e-3)
    assert isinstance(fused, Mixture)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scales=st.integers(2, 6), prior=st.floats(0.0, 20))
def test_fitted_weights_are_where_no_scale_would_tell_more(seed, scales, prior):
    """The conditions of a maximum: each kept scale tells as much as its weight, one left out no more."""
    generator = torch.Generator().manual_seed(seed)
    densities = 3 * torch.randn(200, scales, generator=generator).double()
    held = torch.zeros(scales).double()
    held[0] = prior
    weights = fit_weights(densities, held).double()
    gain = (densities - (densities + weights.log()).logsumexp(-1, keepdim=True)).exp().sum(0)
    gain += held / weights.clamp(min=1e-12)
    total = 200 + prior
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert (gain <= 1.02 * total).all()
    assert ((gain > 0.98 * total) | (weights < 0.01)).all()


class Still(torch.nn.Module):
    """Head of a belief that all stays as it is, give or take as much in each dimension."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, features):
        still = torch.zeros(*features.shape[:-1], D)
        return DiagonalGaussian(still, torch.full_like(still, self.width))


def model_of(width) -> VideoModel:
    torch.manual_seed(0)
    model = VideoModel(ConvEncoder(3, D, 16, 4), PredictorConfig("mlp", 2, 8, 1))
    model.head = Still(width)
    return model.eval()


def parts(z):
    return [(part, part.new_zeros(len(part), part.shape[1] - 1, 0)) for part in z.split(200)]


def walks(rows=1_000):
    """Random walks, a fifth of which take steps three times as long."""
    size = torch.where(torch.rand(rows, 1, 1) < 0.2, 3.0, 1.0)
    return (size * torch.randn(rows, 7, D)).cumsum(1)


def test_calibrated_beliefs_hold_what_they_promise_of_data_that_they_were_not_fitted_to():
    model = model_of(0.5)
    torch.manual_seed(1)
    calibrate(model, parts(walks()))
    z = walks(3_000)
    action = z.new_zeros(len(z), 6, 0)
    one = model.believe_each(z[:, :-1], action).coverage(z[:, 1:])[:, 1:].flatten()
    assert coverage_error(one).amax() < 0.02
    futures = model.imagine(z[:, :2], action, particles=200)  # [H, P, N, D]
    distance = (futures[-1] - z[:, 1]).square().sum(-1)
    happened = (z[:, -1] - z[:, 1]).square().sum(-1)
    mass = (distance < happened).float().mean(0)
    assert coverage_error(mass).amax() < 0.05  # futures keep the scale that they have drawn


def test_what_is_right_already_stays_nearly_as_it_is():
    model = model_of(1.0)
    torch.manual_seed(1)
    calibrate(model, parts(torch.randn(1_000, 7, D).cumsum(1)))
    told = model.calibration.told
    mean = sum(s**2 * w for s, w in zip(told["scales"], told["weights"], strict=True))
    assert mean == pytest.approx(1, abs=0.03)
    assert set(told["scales"]) <= set(SCALES) and sum(told["weights"]) == pytest.approx(1)


def noisy_walks(rows):
    """Steps of one width, each on its own."""
    return torch.randn(rows, 7, D).cumsum(1)


def details(rows):
    """Embeddings that change at random about a place that stays: what is told too finely to be predicted."""
    return torch.randn(rows, 1, D) + torch.randn(rows, 7, D) / 2**0.5


def drifts(rows):
    """Each goes on as it began: what a predictor that takes it for noise errs by lasts."""
    return torch.randn(rows, 1, D) * torch.arange(7.0)[:, None]


@pytest.mark.parametrize(
    "worlds, factors",  # after k steps sqrt(1 + f_2^2 + … + f_k^2) is the width that is right
    [
        (noisy_walks, [1.0, 1.0, 1.0, 1.0]),
        (walks, [1.0, 1.0, 1.0, 1.0]),  # whose futures keep the scale that they have drawn
        (details, [0.0, 0.0, 0.0, 0.0]),
        (drifts, [3**0.5, 5**0.5, 7**0.5, 3.0]),
    ],
)
def test_regions_at_every_step_ahead_hold_what_they_promise_however_errors_add_up(worlds, factors):
    model = model_of(1.0)
    torch.manual_seed(1)
    kept, z = parts(worlds(2_000)), worlds(2_000)
    calibrate(model, kept)
    calibrate_ahead(model, kept)
    assert model.calibration.told["later"] == pytest.approx(factors, rel=0.15, abs=0.35)
    action = z.new_zeros(len(z), 6, 0)
    beliefs = model.propagate(z[:, :2], action, particles=64)
    draws = model.imagine(z[:, :2], action, 64)
    generator = torch.Generator().manual_seed(0)
    for belief, drawn, value in zip(beliefs, draws, z[:, 2:].unbind(1), strict=True):
        assert coverage_error(region_mass(belief, drawn, value, generator)).amax() < 0.06


class Moved(torch.nn.Module):
    """Predictor of what the last action says: embeddings go where they are told to."""

    def forward(self, z, action):
        return action


class Told(torch.nn.Module):
    """Head that believes its features."""

    def forward(self, features):
        return DiagonalGaussian(features, torch.ones_like(features))


def test_beliefs_ahead_are_of_the_actions_on_the_way():
    model = VideoModel(ConvEncoder(3, D, 16, 4), PredictorConfig("mlp", 2, 8, 1), D).eval()
    model.predictor, model.head = Moved(), Told()
    torch.manual_seed(1)
    action = 20 * torch.randn(512, 6, D)
    moved = torch.cat([torch.zeros(512, 1, D), action + torch.randn(512, 6, D)], 1).cumsum(1)
    state = torch.get_rng_state()
    calibrate_ahead(model, [(moved, action)])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.calibration.told["later"] == pytest.approx([1.0] * 4, rel=0.25)


def test_one_step_ahead_there_is_nothing_that_follows_a_sampled_embedding():
    with pytest.raises(ValueError, match="a history and two steps ahead at least, got 1"):
        calibrate_ahead(model_of(1.0), parts(torch.randn(20, 3, D)))


def test_who_leaves_half_way_finds_the_calibration_as_it_was():
    model, calls = model_of(0.5), []
    model.calibration.set([0.5, 2.0], [0.5, 0.5])
    before = model.calibration.told

    def leave():
        calls.append(model.calibration.told)
        if len(calls) in (3, 5):
            raise InterruptedError

    torch.manual_seed(1)
    with pytest.raises(InterruptedError):
        calibrate(model, parts(walks()), leave)
    assert model.calibration.told == before and before not in calls
    with pytest.raises(InterruptedError):
        calibrate_ahead(model, parts(walks()), leave)  # after the second of its steps
    assert model.calibration.told == before and len(calls) == 5


def test_what_has_no_density_tells_nothing():
    model, z = model_of(1.0), torch.randn(1_000, 7, D).cumsum(1)
    z[3, 4] = torch.inf
    torch.manual_seed(1)
    calibrate(model, parts(z))
    assert sum(model.calibration.told["weights"]) == pytest.approx(1)
    calibrate(model, parts(torch.full_like(z, torch.nan)))
    assert model.calibration.told == NOTHING
    calibrate_ahead(model, parts(torch.full_like(z, torch.nan)))
    assert model.calibration.told == NOTHING
    for later in ([], [0.0], [1.0, torch.inf], [torch.nan]):
        with pytest.raises(ValueError, match="later must be factors above 0, and one at least"):
            model.calibration.set([1.0], [1.0], later)
    for scales in ([], [0.0], [1.0, torch.nan], [torch.inf]):
        with pytest.raises(ValueError, match="scales must be above 0, and one at least"):
            model.calibration.set(scales, [1.0])
    for weights in ([], [0.5, 0.6], [1.0, 0.0], [torch.nan, 0.5]):
        with pytest.raises(ValueError, match="weights must be shares of the scales"):
            model.calibration.set([1.0, 2.0], weights)


def test_beliefs_learn_as_they_are_and_a_new_model_corrects_nothing():
    model = model_of(1.0)
    z, action = torch.randn(3, 4, D), torch.zeros(3, 4, 0)
    assert model.calibration.told == NOTHING
    assert isinstance(model.believe_each(z, action), DiagonalGaussian)
    model.calibration.set([0.5, 2.0], [0.5, 0.5])
    assert isinstance(model.believe_each(z, action), ScaleMixture)
    model.train()
    assert isinstance(model.believe_each(z, action), DiagonalGaussian)
    assert model.unroll(z, torch.zeros(3, 5, 0), 2)[0].name == "diagonal"


def test_a_calibration_is_kept_with_the_weights():
    made = Calibration().eval()
    made.set([0.7, 1.3], [0.25, 0.75], [0.8, 1.1])
    other = Calibration().eval()
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    assert other.told == made.told and other.corrects
    assert str(other) == "Calibration(scales=[0.7, 1.3], weights=[0.25, 0.75], later=[0.8, 1.1])"
    torch.testing.assert_close(other.law(torch.device("cpu"))[1].exp(), torch.tensor([0.25, 0.75]))
