"""The online loop learns at the pace that it was told, and what it leaves can be evaluated."""

import dot
import pytest

from agents import evaluate
from agents.building import make_env
from agents.config import CHANGEABLE, check
from agents.online import Online
from gje_world.options import plain_value
from gje_world.training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run's directory, and the updates it made at each of its 100 steps."""
    path, made = tmp_path_factory.mktemp("trained") / "run", []
    config = dot.config(path, steps=100, prefill=60)
    check(config)
    with RunDirectory.open(path, plain_value(config), changeable=CHANGEABLE) as run:
        loop = Online(config, run, make_env(config), lambda: make_env(config))
        learn = loop.learn

        def counted():
            before = loop.updates
            learn()
            made.append(loop.updates - before)

        loop.learn = counted
        loop.train()
        loop.close()
    return path, made


def test_what_the_prefill_owes_is_made_up_at_four_times_the_pace(trained):
    # 59 are owed by the steps before; each further step owes one of its own
    assert trained[1] == [0] * 59 + [4] * 19 + [3] + [1] * 21
    assert sum(trained[1]) == 100


def run_evaluate(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["gje-evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        evaluate.main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_evaluate_tells_returns_and_calibration_and_writes_the_film(trained, tmp_path, monkeypatch, capsys):
    film = tmp_path / "film.mp4"
    arguments = (f"run_dir={trained[0]}", "episodes=3", "device=cpu")
    told = run_evaluate(monkeypatch, capsys, *arguments, f"film={film}")
    returns = next(line for line in told.splitlines() if "eval/returns" in line)
    numbers = [int(word) for word in returns.split() if word.isdigit()]
    assert len(numbers) == 3
    assert all(0 <= number <= 20 for number in numbers)  # at most 1 in each of 20 steps
    assert "calibration error" in told
    assert film.read_bytes()[4:8] == b"ftyp"
    again = run_evaluate(monkeypatch, capsys, *arguments)
    assert returns in again
    other = run_evaluate(monkeypatch, capsys, *arguments, "seed=1")
    assert returns not in other
