"""Options that cannot work are refused before any work, each by its name, its value and what would do."""

import re
from dataclasses import fields, is_dataclass

import pytest

from agents.agent import EncoderMode
from agents.config import (
    ConfigError,
    ObjectiveConfig,
    TrainConfig,
    check,
    check_against_episode,
    run_path,
)
from gje_world.command import configuration
from gje_world.objectives import OBJECTIVES, objective_options
from gje_world.options import plain_value, value_of


def changed(**options):
    """The default configuration with dotted options (dots as double underscores) set to other values."""
    config = TrainConfig()
    for name, value in options.items():
        put(config, name.replace("__", "."), value)
    return config


def put(config, name, value):
    *path, last = name.split(".")
    for part in path:
        config = getattr(config, part)
    assert hasattr(config, last)
    setattr(config, last, value)


def with_option(name):
    """The default configuration, but for an objective that takes the option `name`, if it is one of those."""
    config, word = TrainConfig(), name.removeprefix("objective.")
    if word != name and word not in objective_options(config.objective.name):
        owner = next(objective for objective in OBJECTIVES if word in objective_options(objective))
        config.objective = ObjectiveConfig(name=owner)
    return config


def numbers(config, prefix=""):
    """Dotted names of all options that are or may be numbers."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from numbers(value, f"{prefix}{field.name}.")
        elif re.search(r"\b(int|float)\b", str(field.type)):
            yield prefix + field.name


FREE = {"planner.kappa", "belief.log_std_bounds"}  # may be negative
NUMBERS = sorted(set(numbers(TrainConfig())) - FREE)
FLOATS = sorted(
    name for name in [*NUMBERS, "planner.kappa"] if isinstance(value_of(with_option(name), name), float)
)


def refusal(config):
    with pytest.raises(ConfigError) as error:
        check(config)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_the_defaults_are_accepted():
    check(TrainConfig())


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_negative(name):
    config = with_option(name)
    put(config, name, -1)
    message = refusal(config)
    assert f"{name}=-1 " in message
    assert re.search(r"must be (at least|above|between|a multiple|below|one of)", message)


@pytest.mark.parametrize("name", [*NUMBERS, "planner.kappa"])
def test_no_number_may_be_nan(name):
    config = with_option(name)
    put(config, name, float("nan"))
    assert f"{name}=nan " in refusal(config)


@pytest.mark.parametrize("name", FLOATS)
def test_no_number_may_be_infinite(name):
    config = with_option(name)
    put(config, name, float("inf"))
    assert f"{name}=inf " in refusal(config)


@pytest.mark.parametrize(
    "name",
    [
        "steps",
        "batch_size",
        "updates_per_step",
        "replay_capacity",
        "threads",
        "env.action_repeat",
        "env.frame_stack",
        "env.image_size",
        "world.dim",
        "world.hidden",
        "world.encoder_width",
        "agent.hidden",
        "agent.critics",
        "agent.bins",
        "agent.horizon",
        "agent.lr",
        "agent.encoder_lr",
        "agent.discount",
        "planner.horizon",
        "planner.candidates",
        "planner.elites",
        "planner.iterations",
        "planner.particles",
        "planner.min_std",
        "planner.cvar_share",
        "log_every",
        "checkpoint_every",
        "evaluation.every",
        "evaluation.episodes",
    ],
)
def test_sizes_and_rates_may_not_be_zero(name):
    config = TrainConfig()
    put(config, name, 0)
    assert f"{name}=0 " in refusal(config)


@pytest.mark.parametrize(
    "name",
    [
        "seed",
        "prefill",
        "agent.shift",
        "agent.entropy",
        "objective.marginal_weight",
        "planner.policy_candidates",
    ],
)
def test_what_can_be_left_out_may_be_zero(name):
    config = TrainConfig()
    put(config, name, 0)
    check(config)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"objective__name": "byol"},
            "objective=byol must be one of gje_conditional, gje_joint, .* consistency",
        ),
        ({"belief__name": "cauchy"}, "belief=cauchy must be one of point, diagonal, low_rank"),
        (
            {"belief__name": "point"},
            "belief=point has no density, .*gje_conditional needs; use belief=diagonal",
        ),
        (
            {"objective__name": "consistency", "world__simplicial": True},
            "objective=consistency needs belief=point; got belief=student_t",
        ),
        ({"world__simplicial": True}, "belief=student_t must be point where world.simplicial=true"),
        ({"objective__name": "vi_simsiam", "belief__name": "power_spherical"}, "a world model needs another"),
        (
            {
                "objective__name": "consistency",
                "belief__name": "point",
                "world__simplicial": True,
                "world__dim": 60,
            },
            "world.dim=60 must be a multiple of 8",
        ),
        ({"belief__name": "power_spherical"}, "power_spherical is over directions alone; .*belief=polar"),
        (
            {"belief__name": "low_rank", "belief__rank": 65},
            "belief.rank=65 must be from 1 to the 64 dimensions of the belief",
        ),
        ({"objective__name": "gmje_mdn"}, "objective=gmje_mdn needs belief=mixture; got belief=student_t"),
        (
            {"objective__name": "vje", "belief__name": "flow"},
            "objective=vje needs belief=diagonal; got belief=flow",
        ),
        (
            {"objective__name": "vi_simsiam"},
            "objective=vi_simsiam is over directions alone, for views of images",
        ),
        (
            {"objective__beta": 0.5, "belief__name": "low_rank"},
            "objective.beta=0.5 needs belief=diagonal; got belief=low_rank",
        ),
        (
            {"objective__fit": "composite", "belief__name": "student_t"},
            "fit=composite needs belief one of .*; for belief=student_t give objective.fit=likelihood",
        ),
        ({"objective__beta": 2.0}, "objective.beta=2.0 must be between 0 and 1"),
        (
            {"objective__fit": "moments", "objective__resolution": 0.35},
            "objective.resolution=0.35 must be 0 where fit=moments",
        ),
        ({"objective__contrast": 0.5}, "objective.contrast=0.5 must be 0 in an agent's world model"),
        ({"objective__temperature": 0.5}, "objective.temperature=0.5 needs objective.contrast above 0"),
        (
            {"objective__fit": "squares"},
            "objective.fit=squares must be one of likelihood, composite, moments",
        ),
        ({"objective__marginal": "vicreg"}, "objective.marginal=vicreg must be one of gaussian_kl, sigreg"),
        ({"objective__target": "ema"}, "objective.target=ema must be one of online, stop_gradient, momentum"),
        ({"objective__momentum": 1.0}, "objective.momentum=1.0 must be at least 0 and below 1"),
        (
            {"objective__name": "gje_joint", "objective__form": "dual"},
            "objective.form=dual must be one of scale_free",
        ),
        ({"belief__rank": 4}, "belief=student_t has no option rank; it takes df, log_std_bounds"),
        (
            {"belief__name": "ensemble", "belief__member": "cauchy"},
            "belief.member=cauchy must be one of diagonal, ",
        ),
        (
            {"belief__name": "ensemble", "belief__member": "ensemble"},
            "member=ensemble must be one of diagonal",
        ),
        ({"belief__name": "low_rank", "belief__rank": 0}, "belief.rank=0 must be at least 1"),
        ({"objective__momentum": 0.9}, "objective.momentum=0.9 needs objective.target=momentum"),
        ({"belief__log_std_bounds": [1.0, 0.0]}, "log_std_bounds must be .* with low < high, got"),
        ({"batch_size": 16}, "batch_size=16 gives 64 embeddings .* more than world.dim=64"),
        ({"env__image_size": 60}, "env.image_size=60 must be a multiple of 16"),
        (
            {"planner__policy_candidates": 256},
            "planner.policy_candidates=256 must be below planner.candidates=256",
        ),
        ({"planner__elites": 300}, "planner.elites=300 must be at most planner.candidates=256"),
        ({"planner__min_std": 3.0}, "planner.min_std=3.0 must be at most planner.max_std=2.0"),
        ({"planner__cvar_share": 1.5}, "planner.cvar_share=1.5 must be at most 1"),
        ({"agent__discount": 1.0}, "agent.discount=1.0 must be between 0 and 1, or null"),
        ({"agent__target_rate": 1.5}, "agent.target_rate=1.5 must be at most 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    assert re.search(message, refusal(changed(**options)))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 17},
        {"batch_size": 2, "objective__marginal_weight": 0.0},
        {
            "objective__name": "consistency",
            "belief__name": "point",
            "world__simplicial": True,
            "batch_size": 2,
        },
        {"objective__fit": "moments"},
        {"objective__fit": "composite", "belief__name": "low_rank"},
        {"agent__discount": 0.5},
        {"planner__elites": 256},
        {"planner__kappa": -2.0},
        {"env__image_size": 16, "agent__shift": 4},
    ],
)
def test_options_that_do_go_together_are_accepted(options):
    check(changed(**options))


@pytest.mark.parametrize("name", ["agent.horizon", "planner.horizon"])
def test_a_horizon_longer_than_an_episode_is_refused(name):
    config = TrainConfig()
    put(config, name, 126)
    with pytest.raises(
        ConfigError, match=rf"{name}=126 must be at most the 125 agent steps .*cartpole-swingup"
    ):
        check_against_episode(config, 125)
    check_against_episode(config, 126)
    with pytest.raises(ConfigError, match=r"env\.time_limit must be set"):
        check_against_episode(config, None)  # episodes of unknown length


def test_the_default_run_directory_tells_task_objective_and_seed():
    path = run_path(changed(task="dmc/walker-walk", seed=3))
    assert path.parts == ("runs", "dmc-walker-walk", "gje_conditional-seed3")
    assert run_path(changed(run_dir="elsewhere")).parts == ("elsewhere",)


def test_a_plain_configuration_is_nested_plain_values():
    values = plain_value(TrainConfig())
    assert values["planner"]["risk"] == "mean"
    assert values["agent"]["weights"]["reward"] == value_of(TrainConfig(), "agent.weights.reward")

    def leaves(value):
        return [leaf for v in value.values() for leaf in leaves(v)] if isinstance(value, dict) else [value]

    assert {type(leaf) for leaf in leaves(values)} <= {str, int, float, bool, type(None)}


@pytest.mark.parametrize("preset", ["default", "debug"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES.keys() - {"vi_simsiam"}))
def test_every_preset_and_objective_composes_to_what_fits(preset, objective):
    config = configuration("train", TrainConfig, f"preset={preset}", f"objective={objective}")
    check(config)
    own = {"consistency": "point", "gmje_mdn": "mixture", "vje": "diagonal"}
    belief = own.get(objective, TrainConfig().belief.name)
    assert (config.objective.name, config.belief.name) == (objective, belief)
    assert config.world.simplicial is (objective == "consistency")


def test_debug_runs_of_other_words_stand_in_other_directories():
    found = set()
    for words in ([], ["belief=low_rank"], ["objective=gmje"], ["seed=2"], ["task=dmc/walker-walk"]):
        config = configuration("train", TrainConfig, "preset=debug", *words)
        assert config.run_dir.startswith("runs/debug/")
        found.add(config.run_dir)
    assert len(found) == 5


def test_a_word_where_a_group_must_stand_is_told_how_it_is_written():
    message = refusal(TrainConfig(belief="low_rank"))
    assert message.startswith("belief='low_rank' must be") and "BeliefConfig(name='low_rank')" in message


@pytest.mark.parametrize("mode", [EncoderMode.frozen, EncoderMode.init])
def test_a_mode_of_an_encoder_that_is_not_given_is_refused(mode):
    assert refusal(TrainConfig(encoder_mode=mode)).startswith(f"encoder_mode={mode.value} needs encoder=")
