"""The objectives' identities: what the marginal term is, and why the likelihood needs it."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from gje_world.beliefs import HEADS, DiagonalGaussian, Point, make_head
from gje_world.beliefs.config import BeliefConfig
from gje_world.objectives import (
    MARGINALS,
    OBJECTIVES,
    ConditionalGJE,
    Consistency,
    gaussian_kl,
    make_objective,
    moments,
)
from gje_world.objectives.config import SHARP, ObjectiveConfig, keywords

RIDGE = 1e-4  # the default of gaussian_kl


def correlated(count, dim, seed=0):
    """Float64 samples `[count, dim]` with a mean and correlations."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    return z @ (mixing + torch.eye(dim)) + torch.randn(dim, generator=generator, dtype=torch.float64)


def whitened(count, dim):
    """Float64 samples with mean exactly 0 and covariance exactly I."""
    z = correlated(count, dim)
    mean, covariance = moments(z)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (z - mean).mT, upper=False).mT


def test_moments_run_over_all_leading_dimensions_together():
    z = correlated(60, 4).unflatten(0, (5, 12))
    mean, covariance = moments(z)
    torch.testing.assert_close(mean, z.mean((0, 1)))
    torch.testing.assert_close(covariance, torch.cov(z.flatten(0, 1).mT, correction=0))


@pytest.mark.parametrize("dim", [1, 3, 64])
def test_the_marginal_term_is_the_kl_of_the_batch_gaussian_to_the_standard_normal(dim):
    z = correlated(512, dim)
    eye = torch.eye(dim, dtype=torch.float64)
    batch = MultivariateNormal(z.mean(0), torch.cov(z.mT, correction=0).reshape(dim, dim) + RIDGE * eye)
    expected = kl_divergence(batch, MultivariateNormal(torch.zeros_like(z[0]), eye)) / dim
    torch.testing.assert_close(gaussian_kl(z).double(), expected, rtol=1e-4, atol=1e-5)


def test_the_marginal_term_is_zero_for_a_whitened_batch_and_positive_for_others():
    z = whitened(256, 16)
    assert abs(float(gaussian_kl(math.sqrt(1 - RIDGE) * z))) < 1e-6
    for other in (1.2 * z, 0.8 * z, z + 0.3, torch.cat([z[:, :8], z[:, :8] + 0.1 * z[:, 8:]], 1)):
        assert gaussian_kl(other) > 0.01


def gradient_norm(z, ridge):
    z = z.float().requires_grad_()
    gaussian_kl(z, ridge).backward()
    return float(z.grad.norm())


def test_marginal_loss_and_gradient_grow_without_bound_as_embeddings_shrink():
    z = whitened(256, 8)
    scales = [10.0**-k for k in range(1, 7)]
    losses = [float(gaussian_kl(scale * z, ridge=0.0)) for scale in scales]
    for before, after in pairwise(losses):
        # ½(a² - 1 - log a²) at scale a
        assert after - before == pytest.approx(math.log(10), abs=0.01)
    norms = [gradient_norm(scale * z, ridge=0.0) for scale in scales]
    for before, after in pairwise(norms):
        assert after == pytest.approx(10 * before, rel=0.02)


def test_the_ridge_bounds_the_marginal_gradient_at_its_root_and_it_still_pushes_outward():
    z = whitened(256, 8)
    norms = {scale: gradient_norm(scale * z, RIDGE) for scale in (1e-1, 1e-2, 1e-3, 1e-4)}
    assert norms[1e-2] == max(norms.values())  # sqrt(1e-4)
    small = (1e-4 * z).float().requires_grad_()
    gaussian_kl(small).backward()
    assert (small.grad * small.detach()).sum() < 0


@pytest.mark.parametrize("marginal", ["gaussian_kl", "variance_covariance", "none"])
def test_the_marginal_term_is_in_float32_under_autocast(marginal):
    z = correlated(256, 16).float()
    objective = ConditionalGJE(16, marginal=marginal)
    with torch.autocast("cpu", torch.bfloat16):
        inside = objective.marginal(z)
    assert torch.equal(inside, MARGINALS[marginal](z))


def belief_near(z, std=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return z + std * torch.randn(z.shape, generator=generator), torch.full_like(z, std)


def test_prediction_loss_is_the_negative_log_likelihood_per_dimension():
    z = correlated(24, 5).float().unflatten(0, (4, 6))
    belief = DiagonalGaussian(*belief_near(z))
    loss = ConditionalGJE(5).predict(belief, z)
    assert loss.shape == (4, 6)
    torch.testing.assert_close(loss, -belief.log_prob(z) / 5)


def test_the_likelihood_does_not_grow_with_the_number_of_dimensions():
    z = correlated(64, 4).float()
    mean, std = belief_near(z)
    one = ConditionalGJE(4).predict(DiagonalGaussian(mean, std), z)
    wide = DiagonalGaussian(mean.repeat(1, 16), std.repeat(1, 16))
    torch.testing.assert_close(ConditionalGJE(64).predict(wide, z.repeat(1, 16)), one)


def test_alone_the_likelihood_loss_falls_by_log_a_under_scaling_without_end():
    z = correlated(64, 8).float()
    mean, std = belief_near(z)
    objective = ConditionalGJE(8, marginal_weight=0.0)

    def total(scale):
        belief = DiagonalGaussian(scale * mean, scale * std)
        return float(objective.predict(belief, scale * z).mean() + objective.marginal(scale * z))

    for scale in (1e-2, 1e-4, 1e-8):
        assert total(scale) - total(1.0) == pytest.approx(math.log(scale), rel=1e-4)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_with_the_marginal_term_the_scale_of_embeddings_is_bounded(weight):
    # where predictions scale along, λ a²/2 - (λ - 1) log a is what depends on the scale a. At λ = 1 shrinking
    # gains at most half a nat a dimension; above it the best scale is sqrt(1 - 1/λ)
    z = whitened(256, 8).float()
    mean, std = belief_near(z, std=0.1)
    objective = ConditionalGJE(8)

    def total(scale):
        belief = DiagonalGaussian(scale * mean, scale * std)
        return float(objective.predict(belief, scale * z).mean() + weight * gaussian_kl(scale * z, ridge=0.0))

    for scale in (1e-3, 0.1, 0.5, 2.0):
        expected = weight * (scale**2 - 1) / 2 - (weight - 1) * math.log(scale)
        assert total(scale) - total(1.0) == pytest.approx(expected, abs=2e-3)


def test_with_marginal_weight_one_the_loss_is_minus_the_mutual_information_of_gaussian_pairs():
    count, dim = 20_000, 6
    pair = correlated(count, 2 * dim, seed=3)
    pair = pair - pair.mean(0)
    context, target = pair[:, :dim], pair[:, dim:]
    weights = torch.linalg.lstsq(context, target).solution
    residual = target - context @ weights
    # information does not change under an invertible map of the target: turn it so that what cannot be
    # predicted is uncorrelated, as a diagonal belief assumes
    variances, basis = torch.linalg.eigh(torch.cov(residual.mT, correction=0))
    target, mean = target @ basis, context @ weights @ basis
    belief = DiagonalGaussian(mean.float(), variances.sqrt().float().expand(count, dim))
    objective = ConditionalGJE(dim, marginal_weight=1.0)
    loss = objective.predict(belief, target.float()).mean() + objective.marginal(target)

    directions = [torch.linalg.qr(z).Q for z in (context, target)]
    correlations = torch.linalg.svdvals(directions[0].mT @ directions[1])
    information = -0.5 * (1 - correlations.square()).log().sum()
    anchor = (target.square().mean(0).sum() / dim - 1) / 2
    constant = 0.5 * math.log(2 * math.pi * math.e)
    assert information > 1  # nats: the pairs say something about each other
    torch.testing.assert_close(
        loss.double(), constant + anchor - information / dim, rtol=0, atol=2e-3
    )  # the ridge is what is left


def gradients(objective, belief_of):
    """Whether gradients reach the prediction and the target."""
    mean = torch.randn(4, 8, requires_grad=True)
    target = torch.randn(4, 8, requires_grad=True)
    objective.predict(belief_of(mean), target).mean().backward()
    return mean.grad is not None, target.grad is not None


def unit_gaussian(mean):
    return DiagonalGaussian(mean, torch.ones_like(mean))


def test_gradients_reach_the_target_unless_they_are_stopped():
    assert gradients(ConditionalGJE(8), unit_gaussian) == (True, True)
    assert gradients(ConditionalGJE(8, target="stop_gradient"), unit_gaussian) == (True, False)
    assert gradients(ConditionalGJE(8, target="momentum"), unit_gaussian) == (True, False)
    assert gradients(Consistency(8), Point) == (True, False)
    assert gradients(Consistency(8, target="online"), Point) == (True, True)


def test_stopping_the_gradient_leaves_the_loss_as_it_is():
    z = torch.randn(4, 8)
    belief = unit_gaussian(torch.randn(4, 8))
    stopped = ConditionalGJE(8, target="stop_gradient")
    assert torch.equal(ConditionalGJE(8).predict(belief, z), stopped.predict(belief, z))


def test_consistency_is_the_mean_squared_error_and_has_no_marginal_unless_asked():
    z, mean = correlated(64, 8).float(), torch.randn(64, 8)
    torch.testing.assert_close(
        Consistency(8).predict(Point(mean), z),
        torch.nn.functional.mse_loss(mean, z, reduction="none").mean(-1),
    )
    assert Consistency(8).marginal(z) == 0
    for objective in (
        Consistency(8, marginal="gaussian_kl", marginal_weight=0.5),
        ConditionalGJE(8, marginal_weight=0.5),
    ):
        torch.testing.assert_close(objective.marginal(z), 0.5 * gaussian_kl(z))


def test_only_what_needs_a_density_says_so():
    assert {name for name in OBJECTIVES if not make_objective(name, 8).needs_density} == {"consistency"}


def test_an_unknown_objective_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"gje_conditional, .*, consistency; got 'byol'"):
        make_objective("byol", 8)


def test_an_option_of_another_objective_is_named_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"gje_joint has no option beta; it takes form, marginal, .*shrinkage"
    ):
        make_objective("gje_joint", 8, beta=0.5)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1e3])
def test_the_scale_free_joint_form_is_free_of_scale_as_shipped(scale):
    torch.manual_seed(0)
    context = torch.randn(200, 6)
    target = 0.7 * context + torch.randn(200, 6)
    joint = make_objective("gje_joint", 6)
    expected = joint.couple(context, target).mean()
    torch.testing.assert_close(
        joint.couple(scale * context, scale * target).mean(), expected, rtol=0, atol=1e-4
    )
    assert expected < -0.1


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e3])
@pytest.mark.parametrize("kind", ["few", "rank_one"])
def test_the_marginal_term_is_finite_where_the_covariance_is_singular(scale, kind):
    torch.manual_seed(0)
    z = torch.randn(32, 64) if kind == "few" else torch.randn(256, 1) * torch.randn(64)
    z = (scale * z).requires_grad_()
    loss = make_objective("gje_conditional", 64).marginal(z)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all() and loss > 0


def test_gmje_mdn_takes_no_option_that_its_mixture_cannot_keep():
    with pytest.raises(ValueError, match="objective=gmje_mdn has no option beta"):
        make_objective("gmje_mdn", 4, beta=0.5)


@pytest.mark.parametrize("option", ["resolution", "marginal_weight"])
def test_infinite_weights_are_refused(option):
    with pytest.raises(ValueError, match=f"objective.{option}=inf"):
        make_objective("gje_conditional", 4, **{option: float("inf")})


def test_objectives_go_by_the_names_they_are_made_by():
    assert {name: kind.name for name, kind in OBJECTIVES.items()} == {name: name for name in OBJECTIVES}


@pytest.mark.parametrize(
    ("objective", "right"),
    [
        ("vje", "diagonal"),
        ("gmje_mdn", "mixture"),
        ("vi_simsiam", "power_spherical"),
        ("consistency", "point"),
    ],
)
def test_a_belief_that_an_objective_cannot_learn_is_refused_where_it_is_learnt(objective, right):
    belief = make_head("low_rank", features=4, dim=3)(torch.randn(2, 4)).translate(torch.randn(2, 3))
    with pytest.raises(ValueError, match=f"objective={objective} needs belief={right}; got belief=low_rank"):
        make_objective(objective, dim=3).predict(belief, torch.randn(2, 3))


@pytest.mark.parametrize("weight, variance", [(1.0, 0.02), (2.0, 0.5), (4.0, 0.75)])
def test_a_plain_likelihood_lets_embeddings_shrink_unless_the_marginal_term_weighs_more(weight, variance):
    objective = make_objective("gje_conditional", dim=8, marginal_weight=weight)
    z = whitened(256, 8).float()
    scales = torch.arange(0.02, 1.5, 0.01).sqrt()  # the least of them is the best at a weight of 1
    totals = []
    for scale in scales:
        belief = DiagonalGaussian(torch.zeros_like(z), torch.full_like(z, float(scale)))
        totals.append(objective.predict(belief, scale * z).mean() + objective.marginal(scale * z))
    assert float(scales[torch.stack(totals).argmin()] ** 2) == pytest.approx(variance, abs=0.015)


@pytest.mark.parametrize(
    "objective, belief, resolution, weight",
    [
        ({"name": "gje_conditional"}, {"name": "diagonal"}, 0.35, None),
        ({"name": "gje_conditional"}, {"name": "diagonal"}, 0.0, 2.0),
        ({"name": "gje_conditional", "resolution": 0.0}, {"name": "student_t"}, 0.35, 2.0),
        ({"name": "gje_conditional", "resolution": 0.2}, {"name": "diagonal"}, 0.0, None),
        ({"name": "gje_conditional", "fit": "moments"}, {"name": "diagonal"}, 0.0, None),
        ({"name": "gje_conditional"}, {"name": "polar"}, 0.35, 2.0),
        ({"name": "gje_conditional"}, {"name": "ensemble", "member": "flow"}, 0.35, 2.0),
        ({"name": "gje_conditional"}, {"name": "ensemble"}, 0.35, None),
        ({"name": "gmje_mdn"}, {"name": "mixture"}, 0.0, 2.0),
        ({"name": "gmje"}, {"name": "student_t"}, 0.35, 2.0),
        ({"name": "gje_joint", "form": "conditional"}, {"name": "diagonal"}, 0.35, 2.0),
        ({"name": "gje_joint", "form": "scale_free"}, {"name": "diagonal"}, 0.0, None),
        ({"name": "gje_conditional", "marginal_weight": 0.5}, {"name": "diagonal"}, 0.0, 0.5),
    ],
)
def test_commands_weigh_the_marginal_term_so_that_it_holds_the_scale(objective, belief, resolution, weight):
    found = keywords(ObjectiveConfig(**objective), BeliefConfig(**belief), resolution=resolution)
    assert found.get("marginal_weight") == weight


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ("point", "ensemble")])
def test_the_beliefs_that_count_as_sharp_are_those_that_a_resolution_does_not_blur(name):
    assert make_head(name, 8, 4)(torch.randn(3, 8)).blurs == (name not in SHARP)


def test_the_conditional_form_of_pairs_lets_them_shrink_at_a_weight_of_one_alone():
    z, target = whitened(512, 4).float(), torch.flip(whitened(512, 4), (1,)).float()
    scales = torch.arange(0.05, 1.5, 0.05)
    best = []
    for weight in (1.0, 2.0):
        objective = make_objective("gje_joint", dim=4, form="conditional", marginal_weight=weight)
        totals = [objective.couple(a * z, a * target).mean() + objective.marginal(a * z) for a in scales]
        best.append(float(scales[torch.stack(totals).argmin()]))
    assert best[0] < 0.2 and best[1] == pytest.approx(0.5**0.5, abs=0.06)


@pytest.mark.parametrize("temperature", [1 / 5, 2.0])  # at 1 / D the log-density itself is the critic
def test_the_comparison_is_infonce_with_the_density_of_the_belief_as_critic(temperature):
    belief = make_head("diagonal", 8, 5)(torch.randn(3, 7, 8))
    z = torch.randn(3, 7, 5)
    objective = make_objective("gje_conditional", 5, contrast=0.9, temperature=temperature)
    each = torch.stack([belief.log_prob(z[:, i : i + 1].expand_as(z)) for i in range(7)], 1)  # [3, M, N]
    own = torch.arange(7).expand(3, 7)
    logits = each.flatten(0, 1) / 5 / temperature
    infonce = torch.nn.functional.cross_entropy(logits, own.flatten(), reduction="none") - math.log(7)
    torch.testing.assert_close(objective.compare(belief, z), temperature * infonce.unflatten(0, (3, 7)))


def test_beliefs_that_do_not_heed_the_context_tell_none_from_another():
    belief = DiagonalGaussian(torch.zeros(9, 4), torch.ones(9, 4))
    objective = make_objective("gje_conditional", 4, contrast=0.5)
    torch.testing.assert_close(objective.compare(belief, torch.randn(9, 4)), torch.zeros(9))


def test_where_targets_are_held_the_comparison_teaches_them_nothing():
    belief, z = DiagonalGaussian(torch.zeros(9, 4), torch.ones(9, 4)), torch.randn(9, 4, requires_grad=True)
    for target, learns in (("online", True), ("stop_gradient", False)):
        objective = make_objective("gje_conditional", 4, contrast=0.5, target=target)
        assert objective.compare(belief, z).requires_grad == learns


@pytest.mark.parametrize(
    "named, options",
    [
        ("contrast", {"contrast": 1.0}),
        ("contrast", {"contrast": 0.5, "beta": 0.5}),
        ("contrast", {"contrast": -0.1}),
        ("temperature", {"contrast": 0.5, "temperature": 0.0}),
    ],
)
def test_contrast_that_cannot_work_is_refused(named, options):
    with pytest.raises(ValueError, match=f"objective.{named}"):
        make_objective("gje_conditional", 4, **options)
