"""Films to clips: what can be decoded is, once; what cannot is named and skipped."""

import numpy as np
import pytest
import torch
from film_files import steps, write_image, write_video

from gje_world.data import ClipsError, ClipWriter, clip_writer, films
from gje_world.data.films import decode_films, read_film
from gje_world.data.hdf5 import export_hdf5
from gje_world.data.sources import DataConfig, check_data, open_clips
from gje_world.options import ConfigError


@pytest.fixture
def decoded(monkeypatch):
    """Names of the films that are opened."""
    opened = []
    monkeypatch.setattr(
        films, "read_film", lambda path, size: opened.append(path.name) or read_film(path, size)
    )
    return opened


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


def test_a_corrupt_file_is_named_and_skipped_and_a_cache_is_not_decoded_again(tmp_path, caplog, decoded):
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / "b.mp4", steps(6))
    (folder / "a.mp4").write_bytes(b"no film at all" * 100)
    clips = decode_films(folder, tmp_path / "cache", 16)
    assert clips.sources == ["b.mp4"] and list(clips.skipped) == ["a.mp4"]
    assert "a.mp4 is skipped: it cannot be decoded" in caplog.text
    write_video(folder / "c.mp4", steps(5))
    decoded.clear()
    assert decode_films(folder, tmp_path / "cache", 16).sources == ["b.mp4", "c.mp4"]
    assert decoded == ["c.mp4"]


def test_a_film_whose_name_is_no_utf8_is_a_film(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / "plain.mp4", steps(6))
    try:
        (folder / "plain.mp4").rename(folder / "caf\udce9.mp4")
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    clips = decode_films(folder, tmp_path / "cache", 16)
    assert clips.episodes == 1 and clips.description()["frames"] == 6
    assert decode_films(folder, tmp_path / "cache", 16).sources == clips.sources


@pytest.mark.parametrize("source", ["films", "hdf5"])
def test_what_has_changed_on_the_disk_is_not_taken_from_the_cache(tmp_path, source):
    def write(count):
        if source == "films":
            (tmp_path / "films").mkdir(exist_ok=True)
            write_video(tmp_path / "films" / "one.mp4", steps(count))
            return tmp_path / "films"
        with ClipWriter(tmp_path / f"{count}", (3, 16, 16)) as made:
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
    monkeypatch.setattr(clip_writer, "LONGEST", 4)
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / "long.mp4", steps(10))
    whole = decode_films(folder, tmp_path / "whole", 16)
    assert whole.lengths.tolist() == [4, 4, 2]
    extend = films.ClipWriter.extend

    def dies(self, *arguments, **keywords):
        if self.episodes == 1:
            raise KeyboardInterrupt
        extend(self, *arguments, **keywords)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(films.ClipWriter, "extend", dies)
        decode_films(folder, tmp_path / "parts", 16)
    decode_films(folder, tmp_path / "parts", 16)
    for name in ("frames.bin", "index.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_of_a_folder_that_changes_only_what_is_new_is_decoded_and_what_is_gone_left_out(tmp_path, decoded):
    folder = tmp_path / "films"
    (folder / "walk").mkdir(parents=True)
    for index, frame in enumerate(steps(3)):
        write_image(folder / "walk" / f"{index}.png", frame)
    write_video(folder / "m.mp4", steps(6))
    (folder / "x.mp4").write_bytes(b"no film")

    def opened():
        return open_clips(DataConfig("films", str(folder), image_size=16, cache=str(tmp_path / "cache")))

    def episodes(clips):
        return dict(zip(clips.sources, clips.lengths.tolist(), strict=True))

    first = opened()
    assert episodes(first) == {"m.mp4": 6, "walk": 3} and decoded == ["m.mp4", "walk", "x.mp4"]
    decoded.clear()
    write_video(folder / "a.mp4", steps(4))
    (folder / "notes.txt").write_text("about them")
    assert list(episodes(opened()).items()) == [("a.mp4", 4), ("m.mp4", 6), ("walk", 3)]
    assert decoded == ["a.mp4"]
    decoded.clear()
    write_video(folder / "m.mp4", steps(8))  # another film of that name
    write_video(folder / "x.mp4", steps(5))  # which can be read now
    write_image(folder / "walk" / "3.png", steps(1)[0])
    (folder / "a.mp4").unlink()
    clips = opened()
    assert list(episodes(clips).items()) == [("m.mp4", 8), ("walk", 4), ("x.mp4", 5)] and not clips.skipped
    assert decoded == ["m.mp4", "walk", "x.mp4"]
    decoded.clear()
    afresh = decode_films(folder, tmp_path / "afresh", 16)
    assert afresh.description() == clips.description()  # whatever was in the cache before
    for episode, length in enumerate(afresh.lengths.tolist()):
        assert torch.equal(afresh.window(episode, 0, length).frames, clips.window(episode, 0, length).frames)


@pytest.mark.parametrize("inside", ["", "runs/clips"])
def test_nothing_is_written_among_the_films(tmp_path, inside, monkeypatch):
    folder = tmp_path / "films"
    folder.mkdir()
    check_data(DataConfig("films", str(folder), cache=str(tmp_path / "films of old")))
    monkeypatch.chdir(folder)
    for path in (".", str(folder), "../films"):
        data = DataConfig("films", path, cache=inside)
        with pytest.raises(ConfigError, match=rf"data\.cache=.* must not lie in data\.path={path}"):
            check_data(data)
    check_data(DataConfig("hdf5", ".", cache=inside))


def test_of_a_film_that_is_damaged_late_what_comes_before_is_kept(tmp_path, caplog, monkeypatch, decoded):
    monkeypatch.setattr(clip_writer, "LONGEST", 4)
    folder = tmp_path / "films" / "walk"
    folder.mkdir(parents=True)
    for index, frame in enumerate(steps(9)):
        write_image(folder / f"{index}.png", frame)
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:40])
    clips = decode_films(folder.parent, tmp_path / "cache", 16)
    assert clips.lengths.tolist() == [4, 3]
    assert [int(clips.window(1, at, 1).frames[0, 0, 0, 8, 8]) for at in range(3)] == steps(9)[
        4:7, 0, 0, 0
    ].tolist()
    assert clips.skipped["walk"].startswith("cut short after frame 7: 7.png: it cannot be decoded")
    assert "walk is cut short after frame 7" in caplog.text
    assert decoded == ["walk"]
    caplog.clear()
    assert decode_films(folder.parent, tmp_path / "cache", 16).lengths.tolist() == [4, 3]
    assert "walk, as before: cut short after frame 7" in caplog.text
    assert decoded == ["walk"]


def test_a_film_whose_last_episode_is_as_long_as_any_is_not_decoded_again(tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(clip_writer, "LONGEST", 4)
    (tmp_path / "films").mkdir()
    write_video(tmp_path / "films" / "one.mp4", steps(8))
    for _ in range(2):
        assert decode_films(tmp_path / "films", tmp_path / "cache", 16).lengths.tolist() == [4, 4]
    assert decoded == ["one.mp4"]


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


@pytest.mark.parametrize("longest", [2, 100])
def test_images_of_mixed_sizes_are_told_by_name_and_those_before_kept(tmp_path, caplog, monkeypatch, longest):
    monkeypatch.setattr(clip_writer, "LONGEST", longest)
    folder = tmp_path / "films" / "odd"
    folder.mkdir(parents=True)
    for index, frame in enumerate(steps(5)):
        write_image(folder / f"{index}.png", frame)
    write_image(folder / "3.png", steps(1, 32, 32)[0])
    clips = decode_films(tmp_path / "films", tmp_path / "cache", 16)
    assert len(clips) == 3
    assert "odd is cut short after frame 3: 3.png: frames of mixed sizes, 64x48 and 32x32" in caplog.text


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
