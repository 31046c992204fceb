"""Nothing already computed is ever lost: a run that was killed ends as one that never was."""

import random
import signal
import subprocess
import sys
import time

import pytest
import tiny

from gje_world.training.checkpoint import CheckpointStore

TRAINING = ("train", "episode")  # what a run with other evaluations must have in common


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed, and the seconds it trained."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run = tiny.Run(path)
    run.wait_for("run_dir=")
    started = time.monotonic()
    run.finish()
    return path, time.monotonic() - started


def test_ten_sigkills_at_random_moments_change_nothing(whole, tmp_path):
    undisturbed, seconds = whole
    chance = random.Random(0)
    for step in sorted(chance.randrange(0, 240) for _ in range(10)):
        run = tiny.Run(tmp_path / "run")
        run.wait_for("run_dir=")
        run.wait_until_saved(step)
        time.sleep(chance.uniform(0, seconds / 12))  # the time from one checkpoint to the next
        run.signal(signal.SIGKILL)
        assert run.end() == -signal.SIGKILL, run.errors.read_text()
    tiny.Run(tmp_path / "run").finish()
    tiny.assert_same_run(undisturbed, tmp_path / "run")


def test_the_worst_moments_for_a_sigkill_change_nothing(whole, tmp_path):
    deaths = [
        ("agents.online:Online.agent_step", 10, "before"),  # no checkpoint yet
        ("gje_world.training.checkpoint:commit", 3, "before"),  # written, not yet in its place
        ("gje_world.training.metrics:_cut", 1, "after"),  # the log shortened, no new row in it
        ("gje_world.training.checkpoint:commit", 2, "after"),  # in its place, the oldest not yet removed
        ("agents.replay:Replay.flush", 1, "after"),
        ("agents.online:film_episode", 1, "before"),
        ("agents.online:write_report", 1, "after"),  # an evaluation logged after the last checkpoint
        ("agents.online:write_report", 3, "before"),  # all done but the last report
    ]
    for *death, side in deaths:
        run = tiny.Run(tmp_path / "run", death=(*death, side, signal.SIGKILL))
        assert run.end() == -signal.SIGKILL, (death, run.errors.read_text())
    tiny.Run(tmp_path / "run").finish()
    tiny.assert_same_run(whole[0], tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "where, nth, step",
    [
        ("agents.online:Online.agent_step", 130, 130),  # in an episode, far from a checkpoint
        ("agents.agent:Agent.decide", 100, 150),  # in the evaluation at 150: 90 decisions were before it
    ],
)
def test_a_polite_signal_saves_at_once_and_the_run_goes_on(whole, tmp_path, number, where, nth, step):
    rare = {"checkpoint_every": 100_000}
    run = tiny.Run(tmp_path / "run", rare, death=(where, nth, "after", number))
    errors = run.finish(128 + number)
    assert f"stopped by {number.name}" in errors
    assert "the same command goes on" in errors
    assert tiny.final_state(tmp_path / "run")["progress"]["step"] == step
    errors = tiny.Run(tmp_path / "run", rare).finish()
    assert f"going on at {step} of 300 frames from " in errors
    tiny.assert_same_run(whole[0], tmp_path / "run")


def damage(path):
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("options", [{}, {"replay_capacity": 40}])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(tmp_path, options):
    tiny.Run(tmp_path / "whole", options).finish()
    run = tiny.Run(
        tmp_path / "run", options, death=("agents.online:Online.save", 10, "after", signal.SIGKILL)
    )
    assert run.end() == -signal.SIGKILL
    *_, before, newest = CheckpointStore(tmp_path / "run" / "checkpoints").paths()
    damage(newest)
    errors = tiny.Run(tmp_path / "run", options).finish()
    assert newest.name in errors and "damaged" in errors
    assert f"frames from {before}" in errors
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_longer_run_of_the_same_directory_is_the_run_asked_from_the_start(whole, tmp_path):
    tiny.Run(tmp_path / "run", {"steps": 170}).finish()
    tiny.Run(tmp_path / "run").finish()
    tiny.assert_same_run(whole[0], tmp_path / "run", TRAINING)


def test_a_finished_run_asked_for_again_stays_as_it_is(whole):
    before = (whole[0] / "metrics.jsonl").read_bytes()
    tiny.Run(whole[0]).finish()
    assert (whole[0] / "metrics.jsonl").read_bytes() == before


def test_how_often_a_run_is_evaluated_does_not_change_it(whole, tmp_path):
    tiny.Run(tmp_path / "run", {"evaluation.every": 40, "evaluation.episodes": 1}).finish()
    assert len(tiny.metrics(tmp_path / "run", ("eval",))) == 8
    tiny.assert_same_run(whole[0], tmp_path / "run", TRAINING)


def test_a_replay_that_was_removed_is_missed(tmp_path):
    tiny.Run(tmp_path / "run", {"steps": 80}).finish()
    for path in (tmp_path / "run" / "replay").iterdir():
        path.unlink()
    run = tiny.Run(tmp_path / "run")
    assert run.end() == 2
    assert "has lost what the checkpoint remembers" in run.errors.read_text()


def test_the_real_command_on_a_task_of_the_suite_goes_on_after_a_sigkill(tmp_path):
    options = {"task": "dmc/cartpole-swingup", "steps": 1600, "prefill": 400, "env.image_size": 32}
    options |= {"checkpoint_every": 200, "evaluation.every": 1600, "evaluation.episodes": 1}
    arguments = [f"{name}={value}" for name, value in (tiny.OPTIONS | options).items()]

    def command(name):
        program = [sys.executable, "-m", "agents.train", f"run_dir={tmp_path / name}", *arguments]
        return subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    killed, whole = command("killed"), command("whole")
    while len(CheckpointStore(tmp_path / "killed" / "checkpoints").paths()) < 3:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    time.sleep(0.2)
    killed.kill()
    killed.communicate()
    resumed = command("killed")
    for process in (whole, resumed):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert "going on at " in errors
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "killed")
