"""Reading mp4 boxes and audio lengths without decoding, against what PyAV and ffmpeg say."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from reference_bridge.audio import duration_s
from reference_bridge.boxes import Mp4Error, read_movie


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """A video as an encoder writes it: h264 and aac, by PyAV."""
    path = tmp_path / "encoded.mp4"
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        sound = file.add_stream("aac", rate=48000, layout="stereo")
        for index in range(17):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), index * 9, np.uint8), format="rgb24")
            file.mux(video.encode(frame))
        tone = av.AudioFrame.from_ndarray(np.zeros((2, 32640), np.float32), format="fltp", layout="stereo")
        tone.sample_rate = 48000
        file.mux(sound.encode(tone))
        file.mux(video.encode(None))
        file.mux(sound.encode(None))
    return path


def test_tracks_of_an_encoded_file(encoded: Path) -> None:
    movie = read_movie(encoded)
    assert (movie.video.samples, movie.video.width, movie.video.height) == (17, 96, 64)
    assert movie.video.duration_s == pytest.approx(0.68)
    assert movie.audio is not None
    assert (movie.audio.rate, movie.audio.channels) == (48000, 2)


@pytest.mark.parametrize("flags", ["+faststart", "frag_keyframe+empty_moov"])
def test_other_orders_of_boxes_are_read(flags: str, encoded: Path, tmp_path: Path) -> None:
    out = tmp_path / "other.mp4"
    ffmpeg = shutil.which("ffmpeg")
    assert ffmpeg is not None
    subprocess.run([ffmpeg, "-v", "error", "-i", encoded, "-c", "copy", "-movflags", flags, out], check=True)
    assert read_movie(out).video.width == 96


def test_every_truncation_is_noticed(encoded: Path, tmp_path: Path) -> None:
    data, cut = encoded.read_bytes(), tmp_path / "cut.mp4"
    lengths = [*range(64), *random.Random(1).sample(range(64, len(data)), 120), len(data) - 1]
    for length in lengths:
        cut.write_bytes(data[:length])
        with pytest.raises(Mp4Error):
            read_movie(cut)


def test_damage_is_an_error_or_a_movie_never_a_crash(encoded: Path, tmp_path: Path) -> None:
    data, broken, chance = encoded.read_bytes(), tmp_path / "broken.mp4", random.Random(2)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 30)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        broken.write_bytes(changed)
        with contextlib.suppress(Mp4Error):
            read_movie(broken)


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", "the file is empty"), (b"RIFF....AVI LIST" * 4, "does not begin with an ftyp box"), (b"<html>404</html>", "ftyp")],
)
def test_other_files_are_no_movies(data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(Mp4Error, match=text):
        read_movie(tmp_path / "x")


def test_sound_alone_is_no_movie(encoded: Path, tmp_path: Path) -> None:
    ffmpeg = shutil.which("ffmpeg")
    assert ffmpeg is not None
    subprocess.run([ffmpeg, "-v", "error", "-i", encoded, "-c", "copy", "-vn", tmp_path / "a.mp4"], check=True)
    with pytest.raises(Mp4Error, match="no video track"):
        read_movie(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "name",
    [
        "a.wav",
        "float.wav",
        "a.flac",
        "vorbis.ogg",
        "opus.ogg",
        "a.m4a",
        "cbr.mp3",
        "vbr.mp3",
        "low.mp3",
        "a.aac",
        "a.mka",
        "a.aiff",
    ],
)
def test_length_of_audio(name: str, tmp_path: Path) -> None:
    ffmpeg = shutil.which("ffmpeg")
    assert ffmpeg is not None
    options = {
        "float.wav": ["-c:a", "pcm_f32le"], "vorbis.ogg": ["-c:a", "libvorbis"], "opus.ogg": ["-c:a", "libopus"],
        "cbr.mp3": ["-b:a", "128k"], "vbr.mp3": ["-q:a", "4"], "low.mp3": ["-ar", "22050"],
    }  # fmt: skip
    command = [ffmpeg, "-v", "error", "-f", "lavfi", "-i", "sine=440:duration=2.5:sample_rate=44100"]
    subprocess.run([*command, *options.get(name, []), tmp_path / name], check=True)
    by_header = duration_s(tmp_path / name, {"PATH": "/nowhere"})
    by_probe = duration_s(tmp_path / name, {"PATH": str(Path(ffmpeg).parent)})
    # Encoders pad to whole frames: up to 60 ms of silence at 22050 Hz, never less than the sound.
    assert by_probe == pytest.approx(2.5, abs=0.12)
    if name in ("a.aac", "a.mka", "a.aiff"):
        assert by_header is None
    else:
        assert by_header == pytest.approx(2.5, abs=0.12)
        assert by_header is not None
        assert by_header >= 2.4999


def test_length_of_what_is_no_audio(tmp_path: Path, inputs: dict[str, str]) -> None:
    (tmp_path / "x.wav").write_bytes(b"RIFF\0\0\0\0WAVEjunk")
    assert duration_s(tmp_path / "x.wav", {"PATH": "/nowhere"}) is None
    assert duration_s(Path(inputs["image_path"]), {"PATH": "/nowhere"}) is None
    assert duration_s(Path(inputs["source_video_path"]), {"PATH": "/nowhere"}) == pytest.approx(17 / 24, abs=1e-3)


def test_the_stand_ins_own_movie_decodes(inputs: dict[str, str]) -> None:
    with av.open(inputs["source_video_path"]) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == 17
    assert frames[0].shape == (64, 64, 3)
    with av.open(inputs["source_video_path"]) as file:
        assert sum(frame.samples for frame in file.decode(audio=0)) == round(17 / 24 * 48000)


def test_names_are_never_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin: Callable[..., Path]) -> None:
    ffmpeg = shutil.which("ffmpeg")
    assert ffmpeg is not None
    monkeypatch.chdir(tmp_path)
    subprocess.run([ffmpeg, "-v", "error", "-f", "lavfi", "-i", "sine=440:duration=1", "file:-x.mka"], check=True)
    assert duration_s(Path("-x.mka"), {"PATH": str(Path(ffmpeg).parent)}) == pytest.approx(1.0, abs=0.1)
