"""An agent from a pretrained encoder: what is learnt and what stays, what fits, and that runs go on."""

import json
import shutil
import signal
import subprocess
import sys

import dot
import numpy as np
import pytest
import tiny
import torch

import agents
import gje_world
from agents.agent import EncoderMode
from agents.building import make_agent, pretrained_encoder
from agents.config import TrainConfig
from agents.replay import Batch, Replay
from agents.surprise import episode_surprise
from gje_world.networks import AdaptedEncoder, make_encoder
from gje_world.options import ConfigError

SIDE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported encoder of stacked frames, exported by another process."""
    path = tmp_path_factory.mktemp("encoder") / "encoder"
    program = (
        "from gje_world.networks import make_encoder; import torch; torch.manual_seed(7);"
        f"make_encoder('conv', 9, 6, {SIDE}, width=4).save({str(path)!r}, method='gje')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    return path


def _batch(size: int = 8, horizon: int = 3) -> Batch:
    """Transitions of noise."""
    return Batch(
        torch.randint(0, 256, (size, 3 + horizon, 3, SIDE, SIDE), dtype=torch.uint8),
        torch.rand(horizon, size, 1),
        torch.rand(horizon, size),
        torch.zeros(horizon, size),
    )


def _agent(folder, mode: EncoderMode = EncoderMode.finetune, **options):
    config = dot.config("unused", encoder=str(folder), encoder_mode=mode, **options)
    return make_agent(config, 1, 0.95, pretrained_encoder(config, folder.parent))


@pytest.mark.parametrize("mode", EncoderMode)
@pytest.mark.parametrize("target", ["online", "momentum"])
def test_only_a_frozen_encoder_stays_as_it_was(folder, mode, target):
    torch.manual_seed(0)
    agent = _agent(folder, mode, objective__target=target)
    encoder = agent.world.encoder
    assert isinstance(encoder, AdaptedEncoder)
    project = encoder.project.weight.clone()
    for _ in range(2):
        agent.update(_batch(), gauges=True)
    before = gje_world.load_encoder(folder).state_dict()
    learnable = dict(encoder.pretrained.named_parameters())
    for name, value in encoder.pretrained.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (name in learnable and mode is not EncoderMode.frozen), name
    assert not torch.equal(encoder.project.weight, project)


def test_each_mode_has_its_learning_rates(folder):
    fast, slow = 2e-3, 2e-4
    for mode, rates in (
        (EncoderMode.frozen, [fast]),
        (EncoderMode.finetune, [fast, slow]),
        (EncoderMode.init, [fast, fast]),
    ):
        groups = _agent(folder, mode, agent__encoder_lr=fast, agent__finetune_lr=slow).optimizer.param_groups
        assert [group["lr"] for group in groups[:-2]] == rates


def test_a_killed_run_goes_on_bit_by_bit_without_the_encoders_folder_and_its_agent_acts(folder, tmp_path):
    copy = tmp_path / "encoder"
    shutil.copytree(folder, copy)
    options = {"encoder": copy, "encoder_mode": "finetune", "steps": 120}
    tiny.Run(tmp_path / "whole", options).finish()
    death = ("agents.online:Online.agent_step", 90, "before", signal.SIGKILL)
    assert tiny.Run(tmp_path / "run", options, death=death).end() == -signal.SIGKILL
    shutil.rmtree(copy)
    assert "going on at 75" in tiny.Run(tmp_path / "run", options).finish()
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "run")
    rows = [row for row in tiny.metrics(tmp_path / "run", ("episode",)) if row["step"] > 60]
    assert rows and all(np.isfinite(row["ood/score"]) for row in rows)
    assert all(0 <= row["ood/percentile"] <= 100 for row in rows)

    # and the agent acts in a process that never saw the folder
    program = (
        f"import agents, numpy; agent = agents.load({str(tmp_path / 'run')!r}); "
        f"print(agent.act(numpy.zeros((9, {SIDE}, {SIDE}), numpy.uint8)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    action = json.loads(done.stdout)
    assert len(action) == 1 and -1 <= action[0] <= 1


def test_an_encoder_of_single_frames_sees_each_frame_of_the_stack():
    torch.manual_seed(0)
    single = make_encoder("conv", 3, 6, SIDE, width=4)
    adapted = AdaptedEncoder(single, 9, 4, frozen=False)
    obs = torch.randint(0, 256, (5, 2, 9, SIDE, SIDE), dtype=torch.uint8)
    parts = [single(obs[:, :, 3 * i : 3 * i + 3]) for i in range(3)]
    torch.testing.assert_close(adapted(obs), adapted.project(torch.cat(parts, -1)))


def test_where_nothing_is_to_be_adapted_the_map_begins_as_the_identity():
    encoder = make_encoder("conv", 9, 6, SIDE, width=4)
    obs = torch.randint(0, 256, (5, 9, SIDE, SIDE), dtype=torch.uint8)
    torch.testing.assert_close(AdaptedEncoder(encoder, 9, 6, frozen=True)(obs), encoder(obs))


def test_no_gradient_reaches_a_frozen_encoder_and_its_statistics_stay():
    encoder = make_encoder("resnet18", 3, None, 32)
    adapted = AdaptedEncoder(encoder, 3, 4, frozen=True).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    adapted.centre_on(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    adapted(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert adapted.project.weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    "channels, side, options, words",
    [
        (9, 32, {}, "env.image_size=32 would fit"),
        (12, 16, {}, "env.frame_stack=4 would fit"),
        (12, 32, {}, "env.frame_stack=4 and env.image_size=32 would fit"),
        (4, 16, {}, "must take whole frames of 3 colours; it takes images of 4 channels"),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(tmp_path, channels, side, options, words):
    make_encoder("conv", channels, 6, side, width=4).save(tmp_path / "encoder")
    config = dot.config(tmp_path / "run", encoder=str(tmp_path / "encoder"), **options)
    with pytest.raises(ConfigError, match=words) as refused:
        agents.train_agent(config)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    config = dot.config(tmp_path / "run", encoder=str(tmp_path))
    with pytest.raises(ConfigError, match=r"holds no encoder\.json"):
        agents.train_agent(config)
    assert pretrained_encoder(TrainConfig(), tmp_path) is None


def test_surprise_tells_what_the_agent_has_seen_from_what_it_has_not(folder, tmp_path):
    torch.manual_seed(0)
    agent = _agent(folder)
    replay = Replay(tmp_path, 200, 0, (3, SIDE, SIDE), 1, 3)
    generator = np.random.default_rng(0)

    def episode(bright: bool) -> None:
        replay.start(np.full((3, SIDE, SIDE), 40, np.uint8))
        for step in range(20):
            frame = np.full((3, SIDE, SIDE), 40 + step, np.uint8)
            if bright:
                frame = generator.integers(0, 256, frame.shape, np.uint8)
            replay.add(frame, np.zeros(1, np.float32), 0.0, False)

    for _ in range(6):
        episode(bright=False)
    state = torch.get_rng_state()
    usual = episode_surprise(agent, replay, np.random.default_rng(1))
    assert usual["ood/percentile"] == pytest.approx(50, abs=10)
    assert usual == episode_surprise(agent, replay, np.random.default_rng(1))
    assert torch.equal(torch.get_rng_state(), state)  # looking changes nothing
    episode(bright=True)
    strange = episode_surprise(agent, replay, np.random.default_rng(1))
    assert strange["ood/score"] > usual["ood/score"] and strange["ood/percentile"] > 80


def test_there_is_no_surprise_without_a_density_or_without_steps(folder, tmp_path):
    replay = Replay(tmp_path, 50, 0, (3, SIDE, SIDE), 1, 3)
    replay.start(np.ones((3, SIDE, SIDE), np.uint8))
    assert episode_surprise(_agent(folder), replay, np.random.default_rng(0)) == {}
    point = _agent(folder, objective__name="consistency", belief__name="point")
    assert episode_surprise(point, replay, np.random.default_rng(0)) == {}
