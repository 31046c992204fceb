"""Replay against a plain list: what may be sampled, how frames are stacked, what a restart finds."""

import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.replay import Batch, Replay, ReplayError
from gje_world.training.disk import DiskSpaceError

FRAME, ACTION = (1, 1, 2), 2

Slot = namedtuple("Slot", "episode action reward terminated")


def frame_of(index):
    """A frame that tells which slot it is."""
    return np.array(divmod(index, 256), np.uint8).reshape(FRAME)


def index_of(frames):
    """Slots that `frames [..., 1, 1, 2]` tell, `[...]`."""
    pair = frames.long().flatten(-3)
    return 256 * pair[..., 0] + pair[..., 1]


class Recorder:
    """Writes made-up experience to a replay and to a plain list side by side."""

    def __init__(self, folder, capacity, slack, frame_stack):
        self.arguments = (Path(folder), capacity, slack, FRAME, ACTION, frame_stack)
        self.capacity, self.frame_stack = capacity, frame_stack
        self.replay = Replay(*self.arguments)
        self.slots = []

    def write(self, begins):
        """One more slot, of a new episode or of the one before."""
        index = len(self.slots)
        if begins or not self.slots:
            episode = self.slots[-1].episode + 1 if self.slots else 0
            self.slots.append(Slot(episode, np.zeros(ACTION, np.float32), 0.0, False))
            self.replay.start(frame_of(index))
        else:
            random = np.random.default_rng(index)
            action = random.uniform(-1, 1, ACTION).astype(np.float32)
            slot = Slot(self.slots[-1].episode, action, float(np.float32(random.normal())), index % 3 == 0)
            self.slots.append(slot)
            self.replay.add(frame_of(index), slot.action, slot.reward, slot.terminated)

    def stack(self, newest):
        """Slots whose frames make the stacked observation at `newest`: an episode's first repeats."""
        first = next(i for i, slot in enumerate(self.slots) if slot.episode == self.slots[newest].episode)
        return [max(newest - k, first) for k in reversed(range(self.frame_stack))]

    def starts(self, horizon):
        """Slots at which a sequence may begin: all of it is of one episode and kept, stacked frames too."""
        oldest = max(0, len(self.slots) - self.capacity)
        room = self.frame_stack - 1 if oldest else 0
        return {
            start
            for start in range(oldest + room, len(self.slots) - horizon)
            if self.slots[start].episode == self.slots[start + horizon].episode
        }

    def check(self, batch, horizon):
        """Every row of `batch` is what the list holds; the slots at which the rows begin."""
        windows = index_of(batch.frames)
        for row, window in enumerate(windows.tolist()):
            start = window[self.frame_stack - 1]
            stacked = [window[t : t + self.frame_stack] for t in range(horizon + 1)]
            assert stacked == [self.stack(start + t) for t in range(horizon + 1)]
            for t in range(horizon):
                slot = self.slots[start + t + 1]
                assert np.array_equal(batch.action[t, row].numpy(), slot.action)
                assert batch.reward[t, row] == slot.reward
                assert batch.terminated[t, row] == slot.terminated
        return set(windows[:, self.frame_stack - 1].tolist())


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


experience = st.lists(st.integers(1, 9), min_size=1, max_size=12)  # slots of each episode


@given(experience, st.integers(4, 40), st.integers(0, 10), st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=150)
def test_exactly_the_sequences_of_a_plain_list_are_sampled(episodes, capacity, slack, frame_stack, horizon):
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(folder, capacity, slack, frame_stack)
        for length in episodes:
            for step in range(length):
                recorder.write(begins=step == 0)
        expected = recorder.starts(horizon)
        generator = np.random.default_rng(0)
        assert len(recorder.replay) == min(len(recorder.slots), capacity)
        if not expected:
            with pytest.raises(ReplayError, match=f"no episode of {horizon} steps"):
                recorder.replay.sample(generator, 4, horizon)
            return
        # so many rows that one start out of all is missed once in 10^17 times
        batch = recorder.replay.sample(generator, 40 * len(expected), horizon)
        assert recorder.check(batch, horizon) == expected


@given(experience, st.lists(st.booleans(), max_size=10), st.integers(8, 30), st.integers(1, 3))
@settings(deadline=None, max_examples=75)
def test_a_restart_within_the_slack_finds_all_that_a_checkpoint_could_sample(
    episodes, later, capacity, frame_stack
):
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(folder, capacity, slack=10, frame_stack=frame_stack)
        for length in [*episodes, 9]:  # the last is long enough for the horizon
            for step in range(length):
                recorder.write(begins=step == 0)
        state = recorder.replay.state()
        recorder.replay.flush()
        before = recorder.replay.sample(np.random.default_rng(1), 64, 2)
        newest = recorder.replay.newest_frame()
        for begins in later:  # lost when the run is killed
            recorder.write(begins)
        restarted = Replay(*recorder.arguments)
        restarted.load_state(state)
        assert restarted.state() == state
        assert same(restarted.sample(np.random.default_rng(1), 64, 2), before)
        assert np.array_equal(restarted.newest_frame(), newest)


def filled(folder, episodes=(5, 9), capacity=100, frame_stack=3):
    recorder = Recorder(folder, capacity, 0, frame_stack)
    for length in episodes:
        for step in range(length):
            recorder.write(begins=step == 0)
    return recorder


def test_a_batch_has_the_shapes_and_types_of_the_legend(tmp_path):
    batch = filled(tmp_path).replay.sample(np.random.default_rng(0), 7, horizon=4)
    assert batch.frames.shape == (7, 3 + 4, *FRAME)
    assert batch.frames.dtype == torch.uint8
    assert batch.action.shape == (4, 7, ACTION)
    assert batch.reward.shape == batch.terminated.shape == (4, 7)
    assert batch.action.dtype == batch.reward.dtype == batch.terminated.dtype == torch.float32


def test_all_sequences_are_equally_likely(tmp_path):
    recorder = filled(tmp_path)
    starts = recorder.starts(2)
    batch = recorder.replay.sample(np.random.default_rng(0), 400 * len(starts), horizon=2)
    counts = index_of(batch.frames)[:, 2].bincount()[list(starts)]
    assert (counts - 400).abs().max() < 5 * 400**0.5


def test_the_same_generator_draws_the_same_batch(tmp_path):
    replay = filled(tmp_path).replay
    batches = [replay.sample(np.random.default_rng(seed), 16, 2) for seed in (0, 0, 1)]
    assert same(batches[0], batches[1])
    assert not same(batches[0], batches[2])


def test_a_batch_is_a_copy(tmp_path):
    recorder = filled(tmp_path)
    recorder.replay.sample(np.random.default_rng(0), 16, 2).frames.zero_()
    recorder.check(recorder.replay.sample(np.random.default_rng(0), 16, 2), 2)


def test_recent_frames_are_stacked_observations_spread_over_what_is_kept(tmp_path):
    recorder = filled(tmp_path, episodes=(5, 9, 20), capacity=20)
    frames = recorder.replay.recent_frames(6)
    assert frames.shape == (6, 3 * FRAME[0], *FRAME[1:])
    newest = index_of(frames.unflatten(1, (3, FRAME[0])))
    assert newest.tolist() == [recorder.stack(i) for i in newest[:, -1].tolist()]
    assert newest[0, -1] == 34 - 20 + 2
    assert newest[-1, -1] == 33
    assert len(recorder.replay.recent_frames(1000)) == 18


def test_a_longer_replay_keeps_what_a_shorter_one_held(tmp_path):
    recorder = filled(tmp_path, capacity=100)
    position = recorder.replay.state()
    recorder.replay.flush()
    longer = Replay(tmp_path, 300, 0, FRAME, ACTION, 3)
    longer.load_state(position)
    first = recorder.replay.sample(np.random.default_rng(0), 16, 2)
    again = longer.sample(np.random.default_rng(0), 16, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    needed = Replay.disk_bytes(1000, (3, 64, 64), 6)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskSpaceError, match=r"the replay needs 12\.3 MB .*only 12\.3 MB"):
        Replay(tmp_path / "replay", 900, 100, (3, 64, 64), 6, 3)
    assert not list(tmp_path.rglob("*.bin"))


def test_reopening_asks_for_no_more_room(tmp_path, monkeypatch):
    filled(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    Replay(tmp_path, 100, 0, FRAME, ACTION, 3)


def test_the_disk_asked_for_is_what_the_maps_take(tmp_path):
    Replay(tmp_path, 900, 100, (3, 64, 64), 6, 3)
    files = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert files == Replay.disk_bytes(1000, (3, 64, 64), 6)
    assert Replay.disk_bytes(1, (3, 64, 64), 1) < 12_400  # about 12.3 kB a step


def test_a_filled_replay_of_another_size_is_refused(tmp_path):
    recorder = filled(tmp_path, episodes=(30,), capacity=20)
    recorder.replay.flush()
    smaller = Replay(tmp_path, 15, 0, FRAME, ACTION, 3)
    with pytest.raises(ReplayError, match="was filled with 20 slots and cannot have 15"):
        smaller.load_state(recorder.replay.state())


def test_a_black_frame_is_no_sign_of_a_loss(tmp_path):
    replay = Replay(tmp_path, 10, 0, FRAME, ACTION, 3)
    replay.start(np.zeros(FRAME, np.uint8))
    state = replay.state()
    replay.load_state(state)
    assert replay.state() == state


def test_the_only_sequence_among_very_many_short_episodes_is_found(tmp_path):
    recorder = Recorder(tmp_path, 8_000, 0, 1)
    for length in [2] * 1_500 + [5] + [2] * 1_500:
        for step in range(length):
            recorder.write(begins=step == 0)
    batch = recorder.replay.sample(np.random.default_rng(0), 4, 4)
    assert batch.reward.shape[1] == 4
