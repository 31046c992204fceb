"""One rank speaks for all; any that breaks is heard; devices that cannot be had are named."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from gje_world.options import ConfigError
from gje_world.training import ranks
from gje_world.training.devices import Precision

SECOND = """
import sys
from types import SimpleNamespace
from gje_world.command import fail
from gje_world.training.ranks import silence

silence(SimpleNamespace(is_global_zero=False))
print("a line of the second rank")
print("its progress", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "breaks, words",
    [
        ('raise RuntimeError("out of memory")', "RuntimeError: out of memory\n"),
        ('sys.exit(fail("the process 12 died"))', "error: the process 12 died\n"),
    ],
)
def test_only_what_a_rank_breaks_on_is_heard_of_any_but_the_first(breaks, words):
    command = [sys.executable, "-c", SECOND + breaks]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode > 0 and ended.stdout == ""
    assert ended.stderr.endswith(words)
    assert "progress" not in ended.stderr


def test_the_first_rank_is_not_silenced(capfd):
    ranks.silence(SimpleNamespace(is_global_zero=True))
    print("heard")
    assert capfd.readouterr().out == "heard\n"


@pytest.mark.parametrize(
    "device, devices, message",
    [
        ("cuda:1", 2, "engine.devices=2 must be 1 with engine.device=cuda:1"),
        ("cuda", 3, "engine.devices=3 must be at most the 2 GPUs there are"),
        ("tpu", 1, "engine.device='tpu' is not on this machine"),
    ],
)
def test_devices_that_cannot_be_had_are_named(monkeypatch, device, devices, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if device != "tpu":
        monkeypatch.setattr(ranks, "choose_device", torch.device)
    with pytest.raises(ConfigError, match=message):
        ranks.make_fabric(device, devices, 1, Precision.float32)


@pytest.mark.parametrize(
    "started, devices, nodes, message",
    [
        (2, 1, 1, "engine.devices=1 with engine.nodes=1 must be the 2 processes that torchrun started"),
        (2, 4, 1, "engine.devices=4 with engine.nodes=1 must be the 2 processes that torchrun started"),
        (None, 1, 2, "engine.nodes=2 needs its processes to be started on each node"),
    ],
)
def test_processes_that_are_not_as_many_as_asked_are_told(monkeypatch, started, devices, nodes, message):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
        if started:
            monkeypatch.setenv(name, str(started))
    with pytest.raises(ConfigError, match=message):
        ranks.make_fabric("cpu", devices, nodes, Precision.float32)
