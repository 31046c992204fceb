"""Clips embedded once: they hold what the encoder says, and batches depend on their number alone."""

import itertools

import numpy as np
import pytest
import torch

import gje_world.video.embedded as embedded_module
from gje_world.data import Clips, ClipWriter
from gje_world.networks import ConvEncoder
from gje_world.video.embedded import PICTURED, EmbeddedClips, learning_batches
from gje_world.video_model import PredictorConfig, VideoModel


@pytest.fixture
def clips(tmp_path) -> Clips:
    """Clips of noise, of 3 to 29 frames; those learnt from do not begin at the first row."""
    chance = np.random.default_rng(0)
    with ClipWriter(tmp_path, (3, 16, 16), 2) as made:
        for length in (29, 3, 20, 11):
            frames = chance.integers(256, size=(length, 3, 16, 16), dtype=np.uint8)
            made.append(frames, chance.normal(size=(length - 1, 2)), source=str(length))
    return made.of_sources({name: name for name in ("20", "3", "11")})


def model_of(stack: int, stride: int) -> VideoModel:
    torch.manual_seed(0)
    encoder = ConvEncoder(3 * stack, 4, 16, 4)
    return VideoModel(encoder, PredictorConfig("mlp", 2, 8, 1), 2 * stride, frame_stack=stack).eval()


@pytest.mark.parametrize(("stack", "stride"), [(1, 1), (2, 1), (3, 2), (1, 3)])
def test_windows_are_those_of_frames_embedded(monkeypatch, clips, stack, stride):
    monkeypatch.setattr(embedded_module, "AT_ONCE", 4)
    model, length = model_of(stack, stride), 3
    seen = clips.sample(np.random.default_rng(1), 50, stack - 1 + length, stride)
    z, actions, newest = EmbeddedClips(clips, model, stride, lambda: None).sample(
        np.random.default_rng(1), 50, length
    )
    torch.testing.assert_close(z, model.embed(seen.frames))
    assert torch.equal(actions, seen.actions[:, stack - 1 :])
    assert torch.equal(newest, seen.frames[:PICTURED, stack - 1 :])


def test_a_batch_depends_on_the_seed_and_its_number_alone_in_either_phase(clips):
    model = model_of(stack=2, stride=1)

    def batches(start, seed=3):
        made = learning_batches(clips, model, seed, 4, 3, 1, 2, phases=(2, 4), check=lambda: None)
        return list(itertools.islice(made(start), 6 - start))

    whole = batches(0)
    assert [len(batch[0].shape) for batch in whole] == [5, 5, 3, 3, 3, 3]  # frames, then embeddings
    for start in (1, 2, 4):
        for expected, found in zip(whole[start:], batches(start), strict=True):
            assert all(torch.equal(*parts) for parts in zip(expected, found, strict=True))
    assert not torch.equal(batches(4, seed=4)[0].z, whole[4].z)


def test_clips_are_not_embedded_where_few_of_them_would_be_learnt_from(clips):
    made = learning_batches(clips, model_of(1, 1), 0, 4, 3, 1, 1, phases=(0, 2), check=lambda: None)
    assert len(clips) > 2 * 4 * 3
    assert all(batch.frames.dtype == torch.uint8 for batch in itertools.islice(made(0), 3))


def test_who_waits_for_clips_to_be_embedded_may_leave(clips):
    def leave():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        EmbeddedClips(clips, model_of(1, 1), 1, leave)
