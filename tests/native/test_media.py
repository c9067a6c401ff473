"""Files in and out: what is written is read back, what is damaged is refused in one sentence, nothing is left half-done."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ltx_native.errors import UserError
from ltx_native.media import (
    Audio,
    VideoWriter,
    load_image,
    load_video,
    log_mel,
    normalize,
    read_audio,
    read_frames,
    read_image,
    recompress,
    resample,
    resize_and_center_crop,
    to_stereo,
    to_uint8,
    video_metadata,
    write_video,
)
from ltx_native.media.mel import mel_filters
from ltx_native.media.write import exact_rate
from tests.native.media_networks import AUDIO

RATE = 48000


def moving(count: int = 9, height: int = 64, width: int = 96) -> np.ndarray:
    """Smooth frames that all differ, so that a lost, doubled or swapped frame is seen after compression."""
    y, x = np.mgrid[0:height, 0:width]
    frames = [np.stack([x * 2 + 12 * i, y * 3, 255 - 20 * i + 0 * x], axis=-1) for i in range(count)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def tone(seconds: float, frequency: float = 440.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([np.sin(2 * np.pi * frequency * time), np.cos(2 * np.pi * frequency * time)]).astype(np.float32) * 0.5


def chunks(frames: np.ndarray) -> Iterator[np.ndarray]:
    yield frames[:4]
    yield frames[4:]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, chunks(moving(25)), 25, tone(1.0), RATE)
    return path


# Writing


@pytest.mark.parametrize("frame_rate", [24, 25, 23.976, 29.97, 12.5, 60])
def test_what_is_written_is_what_was_meant(tmp_path: Path, frame_rate: float) -> None:
    path, seconds = tmp_path / "out.mp4", 9 / frame_rate
    assert write_video(path, chunks(moving()), frame_rate, tone(seconds), RATE) == 9
    found = video_metadata(path)
    assert (found.num_frames, found.width, found.height) == (9, 96, 64)
    assert found.frame_rate == pytest.approx(frame_rate, abs=1e-3)
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (sound.codec_context.name, sound.rate, sound.layout.name) == ("aac", RATE, "stereo")
        for stream in (video, sound):
            assert float(stream.duration * stream.time_base) == pytest.approx(seconds, abs=1 / frame_rate)
    decoded = np.stack(list(read_frames(path))).astype(float)
    assert decoded.shape == (9, 64, 96, 3)
    distance = np.abs(decoded[:, None] - moving()[None]).mean(axis=(2, 3, 4))
    assert list(distance.argmin(axis=1)) == list(range(9)), "frames in their order"
    assert distance.diagonal().max() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_sound_survives(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write_video(path, chunks(moving(24)), 24, np.concatenate([tone(1.0)[:1], tone(1.0, 880)[:1]]), RATE)
    sound = read_audio(path)
    assert sound is not None
    assert sound.sampling_rate == RATE
    for channel, frequency in zip(sound.waveform[:, :RATE], (440, 880), strict=True):
        assert np.abs(np.fft.rfft(channel)).argmax() == frequency
        assert np.abs(channel[4096:-4096]).max() == pytest.approx(0.5, abs=0.05)


def test_a_silent_video_has_no_sound_stream(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write_video(path, chunks(moving()), 24)
    assert read_audio(path) is None


def test_only_one_chunk_is_asked_for_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for i in range(3):
            alive.append(i)
            yield moving(2)

    with VideoWriter(tmp_path / "out.mp4", 24) as writer:
        for chunk in source():
            writer.add_frames(chunk)
            assert writer.num_frames == 2 * len(alive)
    assert video_metadata(tmp_path / "out.mp4").num_frames == 6


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield moving(4)
        raise RuntimeError("the decoder gave up")

    with pytest.raises(RuntimeError, match="gave up"):
        write_video(tmp_path / "out.mp4", broken(), 24)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_an_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"yesterday's")
    with pytest.raises(UserError):
        write_video(path, iter([]), 24)
    assert path.read_bytes() == b"yesterday's"
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(
    ("frames", "audio", "match"),
    [
        (np.zeros((0, 64, 64, 3), np.uint8), None, "nothing to write"),
        (np.zeros((2, 63, 64, 3), np.uint8), None, "yuv420p"),
        (np.zeros((2, 64, 64, 3), np.float32), None, "not frames"),
        (moving(), np.zeros((3, 100), np.float32), "not stereo"),
        (moving(), np.full((2, 100), np.nan, np.float32), "not finite"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, frames: np.ndarray, audio: np.ndarray | None, match: str) -> None:
    with pytest.raises(UserError, match=match):
        write_video(tmp_path / "out.mp4", iter([frames]), 24, audio, RATE)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
import numpy as np
from ltx_native.errors import UserError
from ltx_native.media import write_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
noise = np.random.default_rng(0).integers(0, 255, (60, 128, 128, 3), dtype=np.uint8)
try:
    write_video(sys.argv[1], iter([noise]), 24)
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.mp4")], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert "The video cannot be" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_impossible_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder does not exist"):
        write_video(tmp_path / "nowhere" / "out.mp4", chunks(moving()), 24)
    with pytest.raises(UserError, match="output is a folder"):
        write_video(tmp_path, chunks(moving()), 24)
    with pytest.raises(UserError, match="cannot be written"):
        write_video(tmp_path / "out.unheard-of", chunks(moving()), 24)
    for frame_rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="frame rate is out of range"):
            write_video(tmp_path / "out.mp4", chunks(moving()), frame_rate)
    with pytest.raises(UserError, match="change their size"):
        write_video(tmp_path / "out.mp4", iter([moving(), moving(2, 32, 32)]), 24)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "meant"),
    [(24, Fraction(24)), (23.976, Fraction(24000, 1001)), (29.97, Fraction(30000, 1001)), (59.94, Fraction(60000, 1001)),
     (12.5, Fraction(25, 2)), (24.5, Fraction(49, 2)), (1, Fraction(1))],
)  # fmt: skip
def test_the_rate_that_is_meant(given: float, meant: Fraction) -> None:
    assert exact_rate(given) == meant


# Reading


def test_ranges_of_a_video(clip: Path) -> None:
    whole = list(read_frames(clip))
    part = list(read_frames(clip, start=7, count=5))
    assert [np.array_equal(a, b) for a, b in zip(part, whole[7:12], strict=True)] == [True] * 5
    assert len(list(read_frames(clip, start=20))) == 5
    assert list(read_frames(clip, count=0)) == []


def test_a_clip_at_another_size(clip: Path) -> None:
    video = load_video(clip, 32, 32, count=9, start=3)
    assert (video.shape, video.dtype) == ((1, 9, 32, 32, 3), np.float32)
    assert -1 <= video.min() < video.max() <= 1
    expected = normalize(resize_and_center_crop(list(read_frames(clip))[3][None], 32, 32))
    assert np.array_equal(video[0, :1], expected)
    with pytest.raises(UserError, match="no frames in this range"):
        load_video(clip, 32, 32, start=25)


def test_ranges_of_a_sound(clip: Path) -> None:
    whole = read_audio(clip)
    part = read_audio(clip, start_time=0.25, max_duration=0.5)
    assert whole is not None
    assert part is not None
    assert whole.waveform.shape[1] == pytest.approx(RATE, abs=1024)
    assert part.waveform.shape == (2, RATE // 2)
    assert part.duration == 0.5
    assert np.abs(part.waveform - whole.waveform[:, RATE // 4 : 3 * RATE // 4])[:, 2048:].max() < 1e-3
    assert read_audio(clip, start_time=30.0) is None


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_integer_formats_and_channels(tmp_path: Path, width: int, channels: int) -> None:
    path, samples = tmp_path / "in.wav", 0.5 * np.sin(np.arange(4000) * 0.05)
    scale, offset = 2 ** (8 * width - 1) - 1, 128 if width == 1 else 0
    data = np.repeat((samples * scale + offset)[:, None], channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(22050)
        file.writeframes(data.astype({1: np.uint8, 2: "<i2", 4: "<i4"}[width]).tobytes())
    audio = read_audio(path)
    assert audio is not None
    assert (audio.waveform.shape, audio.sampling_rate) == ((channels, 4000), 22050)
    assert np.abs(audio.waveform - samples).max() < max(2 / 2 ** (8 * width - 1), 1e-7)
    assert to_stereo(audio).waveform.shape == (2, 4000)


@pytest.mark.parametrize("content", [b"", b"not a media file at all", None])
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    for read, match in (
        (lambda: read_image(path), "image cannot be read"),
        (lambda: video_metadata(path), "video cannot be read"),
        (lambda: list(read_frames(path)), "video cannot be read"),
        (lambda: load_video(path, 32, 32), "video cannot be read"),
        (lambda: read_audio(path), "sound cannot be read"),
    ):
        with pytest.raises(UserError, match=match) as caught:
            read()
        assert str(path) in str(caught.value)


def test_a_truncated_image_and_a_sound_as_video_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(moving(1, 256, 256)[0]).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="image cannot be read"):
        read_image(path)
    with VideoWriter(tmp_path / "silent.mp4", 24) as writer:
        writer.add_frames(moving(1))
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(3200))
    with pytest.raises(UserError, match="no video stream"):
        video_metadata(tmp_path / "in.wav")


# Images and pixels


def test_images_of_all_kinds_become_rgb(tmp_path: Path) -> None:
    picture = Image.fromarray(moving(1)[0])
    for name, image in {
        "rgb.png": picture,
        "alpha.png": picture.convert("RGBA"),
        "grey.png": picture.convert("L"),
        "palette.gif": picture.convert("P"),
        "photo.jpg": picture,
        "web.webp": picture,
    }.items():
        image.save(tmp_path / name)
        assert read_image(tmp_path / name).shape == (64, 96, 3)
    assert np.array_equal(read_image(tmp_path / "alpha.png"), moving(1)[0])


def test_an_anchor_image_comes_at_the_size_and_range_of_the_encoder(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    Image.fromarray(moving(1, 65, 97)[0]).save(path)
    plain = load_image(path, 32, 64, crf=0)
    assert (plain.shape, plain.dtype) == ((1, 1, 32, 64, 3), np.float32)
    assert -1 <= plain.min() < plain.max() <= 1
    compressed = load_image(path, 32, 64)
    assert 0 < np.abs(compressed - plain).mean() < 0.1
    assert np.abs(load_image(path, 32, 64, crf=51) - plain).mean() > np.abs(compressed - plain).mean()
    with pytest.raises(UserError, match="quality is out of range"):
        load_image(path, 32, 64, crf=52)
    assert recompress(moving(1, 65, 97)[0], 20).shape == (64, 96, 3)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 32), (100, 100), (211, 333)])
def test_resizing_fills_and_cuts_at_the_centre(height: int, width: int) -> None:
    source = moving(2, 64, 96)
    out = resize_and_center_crop(source, height, width)
    assert out.shape == (2, height, width, 3)
    # The red channel rises by 2 a column: interpolation must hit the line, shifted by what is cut off.
    scale = max(height / 64, width / 96)
    new_width = math.ceil(96 * scale)
    left = (new_width - width) // 2
    columns = (np.arange(width) + left + 0.5) * 96 / new_width - 0.5
    inside = (columns > 0) & (columns < 95)
    assert np.allclose(out[0, height // 2, inside, 0], 2 * columns[inside], atol=1e-3)


def test_size_that_fits_is_left_alone() -> None:
    assert np.array_equal(resize_and_center_crop(moving(1), 64, 96), moving(1).astype(np.float32))


def test_pixels_are_cut_not_rounded() -> None:
    pixels = np.array([-2, -1, -1 + 1.99 / 127.5, 0, 0.999, 1, 3], np.float32)
    assert to_uint8(pixels).tolist() == [0, 0, 1, 127, 254, 255, 255]
    levels = np.arange(256, dtype=np.float32)
    assert np.abs(to_uint8(normalize(levels)).astype(int) - levels).max() <= 1


# Sound


@pytest.mark.parametrize("rate", [48000, 44100, 22050, 8000, 16000])
def test_resampling_keeps_a_tone(rate: int) -> None:
    out = resample(tone(0.5, 440, rate), rate, 16000)
    assert (out.shape, out.dtype) == ((2, 8000), np.float32)
    assert np.abs(out - tone(0.5, 440, 16000))[:, 200:-200].max() < 5e-3


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    assert np.abs(resample(tone(0.5, 11000), RATE, 16000))[:, 100:-100].max() < 0.02


def test_mel_filters_are_triangles_of_equal_area() -> None:
    filters = mel_filters(513, 64, 16000)
    assert filters.shape == (513, 64)
    assert (filters >= 0).all()
    assert filters.sum(axis=0)[30:] * (8000 / 512) == pytest.approx(np.ones(34), rel=0.02)
    peaks = filters.argmax(axis=0) * 8000 / 512
    assert (np.diff(peaks) > 0).all()
    assert peaks[-1] > 7000


def test_log_mel_shape_and_where_a_tone_lands() -> None:
    mel = log_mel(Audio(tone(1.0, 1000), RATE), AUDIO)
    assert (mel.shape, mel.dtype) == ((1, 101, 64, 2), np.float32)
    filters = mel_filters(513, 64, 16000)
    assert mel[0, 50, :, 0].argmax() == filters[64].argmax(), "1000 Hz is bin 64 of 513"
    silence = log_mel(Audio(np.zeros((2, 16000), np.float32), 16000), AUDIO)
    assert silence == pytest.approx(math.log(1e-5))
    with pytest.raises(UserError, match="too short"):
        log_mel(Audio(np.zeros((2, 512), np.float32), 16000), AUDIO)


def test_media_needs_no_mlx() -> None:
    code = "import sys, json, ltx_native.media; print(json.dumps(sorted(m for m in sys.modules if m.startswith('mlx'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
