"""Films to clips: what can be decoded is, once; what cannot is named and skipped."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gje_world.data import Clips, ClipsError, films
from gje_world.data.films import decode_films, read_film
from gje_world.data.hdf5 import export_hdf5
from gje_world.data.sources import DataConfig, open_clips


def write_video(path: Path, frames: np.ndarray, codec="mpeg4") -> Path:
    """An encoded video of uint8 `frames [T, H, W, 3]`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_image(path: Path, frame: np.ndarray) -> None:
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def steps(count: int, height=48, width=64) -> np.ndarray:
    """Frames of one grey each, from dark to bright."""
    levels = np.linspace(20, 220, count).round().astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def test_a_video_becomes_a_clip_of_its_middle_square_in_its_order(tmp_path):
    frames = steps(12)
    frames[:, :, :8] = frames[:, :, -8:] = 0  # what the middle square leaves out
    (tmp_path / "films").mkdir()
    write_video(tmp_path / "films" / "one.mp4", frames)
    clips = decode_films(tmp_path / "films", tmp_path / "cache", 32)
    assert clips.episodes == 1 and clips.sources == ["one.mp4"]
    seen = clips.window(0, 0, 12).frames[0].float()
    assert seen.shape == (12, 3, 32, 32)
    np.testing.assert_allclose(seen.mean((1, 2, 3)), frames[:, 0, 32, 0], atol=4)


def test_images_are_read_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "films" / "walk"
    folder.mkdir(parents=True)
    for index, frame in enumerate(steps(11)):
        write_image(folder / f"frame_{index}.png", frame)
    clips = decode_films(tmp_path / "films", tmp_path / "cache", 16)
    seen = clips.window(0, 0, 11).frames[0, :, 0, 8, 8].tolist()
    assert seen == steps(11)[:, 0, 0, 0].tolist()


def test_a_corrupt_file_is_named_and_skipped_and_a_cache_is_not_decoded_again(tmp_path, caplog, monkeypatch):
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / "b.mp4", steps(6))
    (folder / "a.mp4").write_bytes(b"no film at all" * 100)
    clips = decode_films(folder, tmp_path / "cache", 16)
    assert clips.sources == ["b.mp4"] and list(clips.skipped) == ["a.mp4"]
    assert "a.mp4 is skipped: it cannot be decoded" in caplog.text
    write_video(folder / "c.mp4", steps(5))
    opened = []
    monkeypatch.setattr(
        films, "read_film", lambda path, size: opened.append(path.name) or read_film(path, size)
    )
    assert decode_films(folder, tmp_path / "cache", 16).sources == ["b.mp4", "c.mp4"]
    assert opened == ["c.mp4"]


@pytest.mark.parametrize("source", ["films", "hdf5"])
def test_what_has_changed_on_the_disk_is_not_taken_from_the_cache(tmp_path, source):
    def write(count):
        if source == "films":
            (tmp_path / "films").mkdir(exist_ok=True)
            write_video(tmp_path / "films" / "one.mp4", steps(count))
            return tmp_path / "films"
        made = Clips.create(tmp_path / f"{count}", (3, 16, 16))
        made.append(np.zeros((count, 3, 16, 16), np.uint8))
        export_hdf5(made, tmp_path / "episodes.h5")
        return tmp_path / "episodes.h5"

    def opened(path):
        data = DataConfig(source=source, path=str(path), image_size=16, cache=str(tmp_path / "cache"))
        return open_clips(data)

    path = write(6)
    assert opened(path).lengths.tolist() == [6]
    assert opened(path).path == opened(path).path
    assert opened(write(9)).lengths.tolist() == [9]


def test_a_long_film_becomes_several_episodes_and_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "LONGEST", 4)
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / "long.mp4", steps(10))
    whole = decode_films(folder, tmp_path / "whole", 16)
    assert whole.lengths.tolist() == [4, 4, 2]
    extend = films.Clips.extend

    def dies(self, *arguments, **keywords):
        if self.episodes == 1:
            raise KeyboardInterrupt
        extend(self, *arguments, **keywords)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(films.Clips, "extend", dies)
        decode_films(folder, tmp_path / "parts", 16)
    decode_films(folder, tmp_path / "parts", 16)
    assert (tmp_path / "whole/frames.bin").read_bytes() == (tmp_path / "parts/frames.bin").read_bytes()


def test_what_holds_no_readable_clip_is_refused_in_a_line(tmp_path):
    with pytest.raises(ClipsError, match="must be a folder"):
        decode_films(tmp_path / "nowhere", tmp_path / "cache", 16)
    folder = tmp_path / "films"
    folder.mkdir()
    with pytest.raises(ClipsError, match=r"holds no readable clip: no file ends in \.avi"):
        decode_films(folder, tmp_path / "cache", 16)
    (folder / "a.mp4").write_bytes(b"")
    with pytest.raises(ClipsError, match=r"holds no readable clip; a.mp4: it cannot be decoded"):
        decode_films(folder, tmp_path / "cache", 16)


def test_images_of_mixed_sizes_are_refused_by_name(tmp_path):
    folder = tmp_path / "films" / "odd"
    folder.mkdir(parents=True)
    write_image(folder / "0.png", steps(1)[0])
    write_image(folder / "1.png", steps(1, 32, 32)[0])
    with pytest.raises(ClipsError, match="odd: frames of mixed sizes, 64x48 and 32x32"):
        decode_films(tmp_path / "films", tmp_path / "cache", 16)


def test_a_missing_codec_is_told(tmp_path, monkeypatch):
    path = write_video(tmp_path / "x.mp4", steps(3))

    class Stream:
        codec_context = None

    class Container:
        streams = type("Streams", (), {"video": [Stream()]})

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(films.av, "open", lambda name: Container())
    with pytest.raises(films.FilmError, match="the codec it needs is missing from this build of FFmpeg"):
        list(read_film(path, 16))
