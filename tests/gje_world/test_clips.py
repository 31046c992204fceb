"""Clips on disk: windows lie in episodes, batches depend on seed and number, a killed build goes on."""

import json
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

import gje_world.data.clip_writer as clip_writer
import gje_world.data.world as world_module
from gje_world.data.clip_writer import ClipWriter
from gje_world.data.clips import Clips, ClipsError
from gje_world.data.worlds import make_world

SHAPE = (1, 2, 2)


def numbered(lengths, path, action_dim=2):
    """Clips whose state is (episode, time), whose pixels hold the episode, and whose actions the time."""
    with ClipWriter(path, SHAPE, action_dim, ("episode", "time")) as clips:
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
    every=st.integers(1, 4),
    most=st.integers(1, 100),
    part=st.booleans(),
)
def test_distinct_windows_are_all_that_there_are_or_some_of_them(lengths, length, stride, every, most, part):
    with tempfile.TemporaryDirectory() as folder:
        clips, numbers = numbered(lengths, folder), np.arange(len(lengths))
        if part and len(lengths) > 1:
            names = {f"clip {number}": "" for number in numbers[::-2]}  # some of them, in another order
            clips, numbers = clips.of_sources(names), numbers[::-2]
        span = (length - 1) * stride + 1
        there = {
            (number, start)
            for number in numbers.tolist()
            for start in range(0, lengths[number] - span + 1, every)
        }
        if not there:
            with pytest.raises(ClipsError, match=f"needs {span} frames"):
                clips.distinct(np.random.default_rng(0), most, length, stride, every)
            return
        rows = clips.distinct(np.random.default_rng(0), most, length, stride, every)
        states = clips.windows(rows, length, stride).states
        assert (numbers[clips.group_of(rows)] == states[:, 0, 0].numpy()).all()
    assert (states[..., 0] == states[:, :1, 0]).all() and (states[..., 1].diff(dim=1) == stride).all()
    found = [(int(episode), int(start)) for episode, start in states[:, 0]]
    assert len(set(found)) == len(found) == min(most, len(there)) and set(found) <= there


def test_parts_of_one_film_are_one_group(tmp_path):
    with ClipWriter(tmp_path, SHAPE) as clips:
        for source in "aabca":
            clips.append(np.zeros((4, *SHAPE), np.uint8), source=source)
    assert clips.groups.tolist() == [0, 0, 1, 2, 0]
    assert clips.group_of(np.array([19, 3, 4, 8, 12])).tolist() == [0, 0, 0, 1, 2]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    length=st.integers(1, 5),
    stride=st.integers(1, 3),
    together=st.sampled_from([1, 2, 8]),
    seed=st.integers(0, 1000),
)
def test_windows_never_cross_an_episode(lengths, length, stride, together, seed):
    with tempfile.TemporaryDirectory() as folder:
        clips = numbered(lengths, folder)
        span = (length - 1) * stride + 1
        if max(lengths) < span:
            with pytest.raises(ClipsError, match=f"needs {span} frames"):
                clips.sample(np.random.default_rng(seed), 4, length, stride)
            return
        frames, actions, states = clips.sample(np.random.default_rng(seed), 16, length, stride, together)
    episode, moment = states.unbind(-1)
    assert (episode == episode[:, :1]).all()
    side_by_side = episode.unflatten(0, (-1, together))
    assert (side_by_side == side_by_side[:, :1]).all()
    assert (frames.flatten(2) == episode.to(torch.uint8).unsqueeze(-1)).all()
    assert (moment.diff(dim=1) == stride).all()
    assert actions.shape == (16, length - 1, 2 * stride)
    torch.testing.assert_close(actions[..., ::2], moment[:, :-1, None] + torch.arange(stride))


@pytest.mark.parametrize("together", [1, 2])
def test_every_window_is_equally_likely(tmp_path, together):
    clips = numbered([3, 1, 6, 4], tmp_path)
    states = clips.sample(np.random.default_rng(0), 14_000, 3, together=together).states
    windows, counts = states[:, 0].unique(dim=0, return_counts=True)
    assert windows.tolist() == [[0, 0], [2, 0], [2, 1], [2, 2], [2, 3], [3, 0], [3, 1]]
    assert counts.numpy() == pytest.approx(np.full(7, 2000), abs=200)


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
    with ClipWriter(tmp_path, SHAPE) as clips:
        for name in "abcde":
            for _ in range(4):
                clips.append(np.zeros((3, *SHAPE), np.uint8), source=name)
    before, after = clips.split(0.2)
    assert (before.episodes, after.episodes) == (16, 4)
    assert len(set(after.sources)) == 1 and not set(before.sources) & set(after.sources)


def test_bad_input_is_named(tmp_path):
    clips = ClipWriter(tmp_path, SHAPE, state_names=("x",))
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
    clips.close()
    with pytest.raises(ClipsError, match="open for reading only"):
        clips.append(np.zeros((4, *SHAPE), np.uint8), states=np.zeros((4, 1)))
    with pytest.raises(ClipsError, match=r"frame_shape=\(1, 2, 2\), not \(3, 2, 2\)"):
        ClipWriter(tmp_path, (3, 2, 2), state_names=("x",))
    with pytest.raises(ClipsError, match="holds no clips"):
        Clips.open(tmp_path / "elsewhere")
    whole = (tmp_path / "frames.bin").read_bytes()
    (tmp_path / "frames.bin").write_bytes(whole[:-1])
    with pytest.raises(ClipsError, match=r"frames\.bin holds 15 bytes of 16: make the clips anew"):
        Clips.open(tmp_path)
    with pytest.raises(ClipsError, match="holds no clips"):
        Clips.open(tmp_path / "frames.bin")
    whole = json.loads((tmp_path / "index.json").read_text())
    needed = ("version", "frame_shape", "action_dim", "state_names", "lengths")
    without = [{k: v for k, v in whole.items() if k != name} for name in needed]
    for text in ("{", *map(json.dumps, without)):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(ClipsError, match="cannot be read"):
            Clips.open(tmp_path)


def test_what_cannot_be_read_is_remembered(tmp_path):
    with ClipWriter(tmp_path, SHAPE) as clips:
        clips.skip("a.mp4", "no video stream")
    assert Clips.open(tmp_path).skipped == {"a.mp4": "no video stream"}


BUILD = textwrap.dedent(
    """
    import sys
    import numpy as np
    from gje_world.data import ClipWriter

    with ClipWriter(sys.argv[1], (1, 64, 64), 0, ("episode",)) as clips:
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


def test_the_index_is_written_once_in_so_many_episodes_and_at_the_end(tmp_path, monkeypatch):
    written = []
    write = ClipWriter._write_index
    monkeypatch.setattr(ClipWriter, "_write_index", lambda self: written.append(self.episodes) or write(self))
    numbered([2] * 200, tmp_path)
    assert written == [0, 64, 128, 192, 200]
    assert Clips.open(tmp_path).episodes == 200
    with pytest.raises(KeyboardInterrupt), ClipWriter(tmp_path, SHAPE, 2, ("episode", "time")) as clips:
        clips.append(np.zeros((2, *SHAPE), np.uint8), np.zeros((1, 2)), np.zeros((2, 2)))
        raise KeyboardInterrupt
    assert Clips.open(tmp_path).episodes == 201
    monkeypatch.setattr(clip_writer, "INDEX_SECONDS", 0.0)
    written.clear()
    numbered([2] * 3, tmp_path / "slow")
    assert written == [0, 1, 2, 3]


SLOW = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import gje_world.data.world as world_module
    from gje_world.data.worlds import make_world

    world_module.BATCH = 16
    world, folder, go = make_world("junction_2", 32), Path(sys.argv[1]), Path(sys.argv[2])
    generate = world.generate

    def waits(generator, episodes, length):
        (go.parent / "begun").touch()
        while not go.exists():
            time.sleep(0.01)
        return generate(generator, episodes, length)

    world.generate = waits
    print(world_module.write_clips(world, folder, 40, 6, seed=5).episodes)
    """
)


def test_two_processes_that_make_the_same_clips_take_turns(tmp_path):
    world, alone, shared = make_world("junction_2", 32), tmp_path / "alone", tmp_path / "shared"
    go = tmp_path / "go"
    command = [sys.executable, "-c", SLOW, shared, go]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = second.stderr.readline()  # before the first is allowed to write anything
    assert f"{shared} is being written by process {first.pid}: waiting" in said
    go.touch()
    assert [process.communicate(timeout=60)[0].strip() for process in (first, second)] == ["40", "40"]
    assert first.returncode == second.returncode == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(world_module, "BATCH", 16)
        world_module.write_clips(world, alone, 40, 6, seed=5)
    for name in ("frames.bin", "states.bin", "index.json"):
        assert (alone / name).read_bytes() == (shared / name).read_bytes()


def test_clips_of_other_frames_are_told_apart(tmp_path):
    told = []
    for name, value in (("one", 1), ("same", 1), ("other", 2)):
        with ClipWriter(tmp_path / name, SHAPE) as clips:
            clips.append(np.full((3, *SHAPE), value, np.uint8), source="film")
        told.append(clips.description())
    assert told[0] == told[1] != told[2]


def test_clips_of_some_sources_come_in_their_order_by_their_names(tmp_path):
    with ClipWriter(tmp_path, SHAPE) as clips:
        for value, source in enumerate(["b 1", "a 1", "b 2", "a 1"]):
            clips.append(np.full((3, *SHAPE), value, np.uint8), source=source)
        clips.skip("c 1", "broken")
        clips.skip("d 1", "broken")
    part = clips.of_sources({"a 1": "a", "b 2": "b", "c 1": "c"})
    assert part.sources == ["a", "a", "b"] and part.skipped == {"c": "broken"}
    assert [int(part.window(e, 0, 3).frames[0, 0, 0, 0, 0]) for e in range(3)] == [1, 3, 2]
    seen, held_out = part.split(0.5)
    assert {*seen.sources, *held_out.sources} == {"a", "b"} and not {*seen.sources} & {*held_out.sources}
    assert part.description()["episodes"] == 3 and clips.description()["episodes"] == 4
    assert clips.of_sources({"z": "z"}).episodes == 0
