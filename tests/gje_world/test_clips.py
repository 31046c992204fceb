"""Clips on disk: windows lie in episodes, batches depend on seed and number, a killed build goes on."""

import itertools
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gje_world.data.clips import Clips, ClipsError, clip_batches

SHAPE = (1, 2, 2)


def numbered(lengths, path, action_dim=2):
    """Clips whose state is (episode, time), whose pixels hold the episode, and whose actions the time."""
    clips = Clips.create(path, SHAPE, action_dim, ("episode", "time"))
    for episode, length in enumerate(lengths):
        frames = np.full((length, *SHAPE), episode, np.uint8)
        steps = np.arange(length, dtype=np.float32)
        states = np.stack([np.full(length, episode), steps], 1)
        clips.append(frames, np.repeat(steps[:-1, None], action_dim, 1), states, source=f"clip {episode}")
    return clips


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    length=st.integers(1, 5),
    stride=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_windows_never_cross_an_episode(lengths, length, stride, seed):
    with tempfile.TemporaryDirectory() as folder:
        clips = numbered(lengths, folder)
        span = (length - 1) * stride + 1
        if max(lengths) < span:
            with pytest.raises(ClipsError, match=f"needs {span} frames"):
                clips.sample(np.random.default_rng(seed), 4, length, stride)
            return
        frames, actions, states = clips.sample(np.random.default_rng(seed), 16, length, stride)
    episode, moment = states.unbind(-1)
    assert (episode == episode[:, :1]).all()
    assert (frames.flatten(2) == episode.to(torch.uint8).unsqueeze(-1)).all()
    assert (moment.diff(dim=1) == stride).all()
    assert actions.shape == (16, length - 1, 2 * stride)
    torch.testing.assert_close(actions[..., ::2], moment[:, :-1, None] + torch.arange(stride))


def test_every_window_is_equally_likely(tmp_path):
    clips = numbered([3, 1, 6, 4], tmp_path)
    states = clips.sample(np.random.default_rng(0), 14_000, 3).states
    windows, counts = states[:, 0].unique(dim=0, return_counts=True)
    assert windows.tolist() == [[0, 0], [2, 0], [2, 1], [2, 2], [2, 3], [3, 0], [3, 1]]
    assert counts.numpy() == pytest.approx(np.full(7, 2000), abs=200)


def test_a_batch_depends_on_the_seed_and_its_number_alone(tmp_path):
    clips = numbered([20, 30], tmp_path)
    batches = clip_batches(clips, seed=3, batch=4, length=5)
    whole = list(itertools.islice(batches(0), 6))
    later = list(itertools.islice(clip_batches(Clips.open(tmp_path), 3, 4, 5)(4), 2))
    for expected, found in zip(whole[4:], later, strict=True):
        assert all(torch.equal(*parts) for parts in zip(expected, found, strict=True))
    other = next(clip_batches(clips, seed=4, batch=4, length=5)(0))
    assert not torch.equal(other.states, whole[0].states)


def test_clips_come_apart_by_episode_and_a_single_one_in_time(tmp_path):
    clips = numbered([5] * 10, tmp_path / "many")
    train, held_out = clips.split(0.2)
    assert (train.episodes, held_out.episodes) == (8, 2)
    seen = [
        {int(e) for e in part.sample(np.random.default_rng(0), 500, 2).states[..., 0].flatten()}
        for part in (train, held_out)
    ]
    assert seen[0] | seen[1] == set(range(10)) and not seen[0] & seen[1]
    before, after = numbered([10], tmp_path / "one").split(0.3)
    assert (len(before), len(after)) == (7, 3)
    assert before.window(0, 6, 1).states[0, 0, 1] == 6 and after.window(0, 0, 3).states[0, 0, 1] == 7


def test_no_film_lies_on_both_sides_of_a_split(tmp_path):
    clips = Clips.create(tmp_path, SHAPE)
    for name in "abcde":
        for _ in range(4):
            clips.append(np.zeros((3, *SHAPE), np.uint8), source=name)
    before, after = clips.split(0.2)
    assert (before.episodes, after.episodes) == (16, 4)
    assert len(set(after.sources)) == 1 and not set(before.sources) & set(after.sources)


def test_bad_input_is_named(tmp_path):
    clips = Clips.create(tmp_path, SHAPE, state_names=("x",))
    with pytest.raises(ClipsError, match="there is no clip"):
        clips.sample(np.random.default_rng(0), 1, 2)
    with pytest.raises(ClipsError, match=r"frames of b\.mp4 are \[1, 3, 3\], the others \[1, 2, 2\]"):
        clips.append(np.zeros((4, 1, 3, 3), np.uint8), states=np.zeros((4, 1)), source="b.mp4")
    with pytest.raises(ClipsError, match=r"states must be \[4, 1\] beside 4 frames, got \[4, 0\]"):
        clips.append(np.zeros((4, *SHAPE), np.uint8))
    with pytest.raises(ClipsError, match="frames must be uint8"):
        clips.append(np.zeros((4, *SHAPE)), states=np.zeros((4, 1)))
    clips.append(np.zeros((4, *SHAPE), np.uint8), states=np.zeros((4, 1)))
    with pytest.raises(ClipsError, match=r"needs 9 frames \(length 5, stride 2\); the longest of 1 has 4"):
        clips.sample(np.random.default_rng(0), 1, 5, stride=2)
    with pytest.raises(ClipsError, match=r"frame_shape=\(1, 2, 2\), not \(3, 2, 2\)"):
        Clips.create(tmp_path, (3, 2, 2), state_names=("x",))
    with pytest.raises(ClipsError, match="holds no clips"):
        Clips.open(tmp_path / "elsewhere")
    whole = (tmp_path / "frames.bin").read_bytes()
    (tmp_path / "frames.bin").write_bytes(whole[:-1])
    with pytest.raises(ClipsError, match=r"frames\.bin holds 15 bytes of 16: make the clips anew"):
        Clips.open(tmp_path)
    with pytest.raises(ClipsError, match="holds no clips"):
        Clips.open(tmp_path / "frames.bin")
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ClipsError, match="cannot be read"):
        Clips.open(tmp_path)


def test_what_cannot_be_read_is_remembered(tmp_path):
    Clips.create(tmp_path, SHAPE).skip("a.mp4", "no video stream")
    assert Clips.open(tmp_path).skipped == {"a.mp4": "no video stream"}


BUILD = textwrap.dedent(
    """
    import sys
    import numpy as np
    from gje_world.data.clips import Clips

    clips = Clips.create(sys.argv[1], (1, 64, 64), 0, ("episode",))
    for episode in range(clips.episodes, int(sys.argv[2])):
        length = 40 + episode % 7
        frames = np.full((length, 1, 64, 64), episode % 251, np.uint8)
        clips.append(frames, states=np.full((length, 1), episode), source=str(episode))
    """
)


def test_a_killed_build_goes_on_after_its_last_whole_episode(tmp_path):
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", BUILD, killed, "100000"])
        before = Clips.open(killed).episodes if (killed / "index.json").exists() else 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if (killed / "index.json").exists() and Clips.open(killed).episodes > before + 5:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    episodes = Clips.open(killed).episodes
    with (killed / "frames.bin").open("ab") as file:  # half an episode, as a kill may leave it
        file.write(b"\x07" * 100_000)
    for folder in (killed, straight):
        subprocess.run([sys.executable, "-c", BUILD, folder, str(episodes + 3)], check=True)
    for name in ("frames.bin", "states.bin", "index.json"):
        assert (killed / name).read_bytes() == (straight / name).read_bytes()
