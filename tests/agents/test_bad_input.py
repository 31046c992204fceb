"""What cannot work is refused in one line, before any work, and leaves nothing behind."""

import os
import shutil
import sys

import pytest
import torch

from agents import evaluate, train, train_agent
from gje_world import pretrain
from gje_world.training.checkpoint import CheckpointStore

DEBUG = ["preset=debug", "threads=1"]


def refused(capsys, monkeypatch, *options, command=train):
    """The one line that the command prints before it exits with 2."""
    monkeypatch.setattr(sys, "argv", ["gje", *options])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "option, words",
    [
        ("task=dmc/cartpol-swingup", ["dmc/cartpol-swingup", "dmc/cartpole-swingup"]),
        ("task=gym/NoSuchThing-v0", ["gym/NoSuchThing-v0"]),
        ("agent.horizn=3", ["agent.horizn", "agent.horizon"]),
        ("preset=fast", ["preset=fast", "debug", "default"]),
        ("objective=byol", ["objective=byol", "gje_conditional"]),
        ("steps=many", ["steps", "many"]),
        ("steps=0", ["steps=0", "at least 1"]),
        ("batch_size=-3", ["batch_size=-3", "at least 1"]),
        ("agent.lr=0", ["agent.lr=0.0", "above 0"]),
        ("planner.horizon=126", ["planner.horizon=126", "125 agent steps"]),
        ("agent.horizon=126", ["agent.horizon=126", "125 agent steps"]),
        ("env.image_size=50", ["env.image_size=50", "multiple of 16"]),
        ("device=tpu", ["device='tpu'", "cpu"]),
        ("belief=point", ["belief=point", "density", "belief=diagonal"]),
        ("belief=null", ["belief=null", "student_t"]),
        ("belief=[low_rank,diagonal]", ["belief=[low_rank,diagonal]", "low_rank"]),
        ("beleif=low_rank", ["'beleif'", "nearest are belief"]),
        ("rank=4", ["'rank'", "belief.rank"]),
        ("+belief=low_rank", ["+belief=low_rank", "name=value"]),
    ],
)
def test_an_option_that_cannot_work_is_named_with_its_value(capsys, monkeypatch, tmp_path, option, words):
    run_dir = tmp_path / "run"
    line = refused(capsys, monkeypatch, *DEBUG, f"run_dir={run_dir}", option)
    assert line.startswith("error: ")
    assert [word for word in words if word not in line] == []
    assert not (run_dir / "checkpoints").exists() or not any((run_dir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run that has ended."""
    path = tmp_path_factory.mktemp("finished") / "run"
    config = train.TrainConfig(steps=80, prefill=80, run_dir=str(path), threads=1, log_every=5)
    config.env.image_size = 16
    config.world.dim = config.world.hidden = config.agent.hidden = 8
    config.world.encoder_width = 4
    config.evaluation.episodes = 1
    config.planner.candidates, config.planner.policy_candidates, config.planner.elites = 8, 2, 2
    train_agent(config)
    return path


def test_a_run_directory_of_another_task_is_refused(capsys, monkeypatch, finished):
    line = refused(capsys, monkeypatch, f"run_dir={finished}", "task=dmc/reacher-easy")
    assert "task: dmc/cartpole-swingup on disk, dmc/reacher-easy asked" in line
    assert "choose another run_dir" in line


def test_an_end_before_where_the_run_is_is_refused(capsys, monkeypatch, finished):
    before = (finished / "config.yaml").read_text()
    line = refused(capsys, monkeypatch, f"run_dir={finished}", "steps=40", "prefill=40")
    assert "steps=40 must be at least the 80 env frames" in line
    assert (finished / "config.yaml").read_text() == before


def test_a_checkpoint_of_another_shape_is_refused(capsys, monkeypatch, finished, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    store = CheckpointStore(path / "checkpoints")
    state, _ = store.load_latest()
    name = "world.encoder.project.weight"
    state["agent"][name] = torch.zeros(3, 3)
    store.save(state["progress"]["step"], state)
    line = refused(capsys, monkeypatch, f"run_dir={path}", command=evaluate)
    assert "another shape" in line
    assert name in line


def test_a_file_for_a_run_directory_is_refused(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(capsys, monkeypatch, *DEBUG, f"run_dir={tmp_path / 'file'}")
    assert "is a file" in line


def test_a_folder_that_may_not_be_looked_into_is_refused(capsys, monkeypatch, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        line = refused(capsys, monkeypatch, *DEBUG, f"run_dir={closed / 'run'}")
    finally:
        if root:
            os.seteuid(0)
    assert f"run_dir={closed / 'run'} cannot be used: Permission denied" in line


def test_a_full_disk_is_refused(capsys, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    line = refused(capsys, monkeypatch, *DEBUG, f"run_dir={tmp_path / 'run'}")
    assert "replay" in line
    assert "MB" in line


def test_nothing_to_evaluate_is_refused(capsys, monkeypatch, tmp_path):
    assert "no run directory" in refused(capsys, monkeypatch, f"run_dir={tmp_path}", command=evaluate)
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere} does not exist" in refused(capsys, monkeypatch, f"run_dir={nowhere}", command=evaluate)


def test_a_checkpoint_that_would_run_code_is_refused(capsys, monkeypatch, finished, tmp_path):
    path, fuse = tmp_path / "run", tmp_path / "exploded"
    shutil.copytree(finished, path)

    class Bomb:
        def __reduce__(self):
            return (fuse.touch, ())

    store = CheckpointStore(path / "checkpoints")
    monkeypatch.setattr("gje_world.training.checkpoint._storable", lambda value, where: value)
    for old in store.paths():
        old.unlink()
    store.save(1, {"agent": Bomb()})
    line = refused(capsys, monkeypatch, f"run_dir={path}", command=evaluate)
    assert "damaged" in line
    assert not fuse.exists()


def test_a_bug_is_not_disguised_as_bad_input(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gje", *DEBUG])
    monkeypatch.setattr(train, "train_until_stopped", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.main()


@pytest.mark.parametrize(
    "command, option",
    [
        (train, "planner.horizon=3 "),
        (train, "belief.name=student_t "),
        (evaluate, "run_dir=(needed) "),
        (pretrain, "augment.name=frames "),  # as its groups and preset say, not the schema alone
    ],
)
def test_help_tells_options_defaults_and_examples(capsys, monkeypatch, command, option):
    monkeypatch.setattr(sys, "argv", ["gje", "--help"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert option in text
    assert "gje-" in text
    assert all(len(line) < 130 for line in text.splitlines())
