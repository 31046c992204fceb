"""`gje-video record policy=RUN_DIR`: what a trained agent does and sees, as clips."""

import sys

import dot  # registers the task
import pytest
import tiny
import torch

from gje_world.data import Clips
from gje_world.video.command import main


def record(out, *arguments: str) -> int:
    sys.argv = ["gje-video", "record", f"task={dot.OPTIONS['task']}", f"out={out}", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_an_agent_is_recorded_in_its_own_images_and_the_same_again(tmp_path, capsys):
    tiny.Run(tmp_path / "agent", {"steps": 80, "evaluation.every": 80, "evaluation.episodes": 1}).finish()
    policy = f"policy={tmp_path / 'agent'}"
    for name, episodes in (("parts", 1), ("parts", 2), ("whole", 2)):
        assert record(tmp_path / name, policy, f"episodes={episodes}", "length=5") == 0
    parts, whole = (Clips.open(tmp_path / name) for name in ("parts", "whole"))
    assert parts.frame_shape == (3, 16, 16)  # one frame, though the agent sees several at once
    assert parts.lengths.tolist() == [5, 5] and parts.action_dim == 1
    (source,) = set(parts.sources)
    assert source.startswith(f"gym/Dot-v0 {tmp_path / 'agent'} step_") and " seed 1 " in source
    for episode in range(2):
        for one, other in zip(parts.window(episode, 0, 5), whole.window(episode, 0, 5), strict=True):
            assert torch.equal(one, other)
    assert whole.window(0, 0, 5).actions.abs().max() <= 1
    assert not torch.equal(whole.window(0, 0, 5).frames, whole.window(1, 0, 5).frames)
    capsys.readouterr()
    assert record(tmp_path / "parts", "episodes=3", "length=5", "image_size=16") == 2
    assert "holds clips of" in capsys.readouterr().err
    assert record(tmp_path / "other", f"policy={tmp_path / 'nowhere'}") == 2
    assert "must be random or a run directory" in capsys.readouterr().err
    for checkpoint in (tmp_path / "agent" / "checkpoints").iterdir():
        checkpoint.write_bytes(b"damaged")
    assert record(tmp_path / "other", policy) == 2
    assert f"{policy} must be random or a run directory" in capsys.readouterr().err
