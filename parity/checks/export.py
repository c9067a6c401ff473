"""The exported file, decoded again: frames, rate, duration, colours, channels, level and pitch of the sound."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from ltx_native.media import write
from parity.checks.exam import Array, Clue, Exam, Problem

RATE = 48000
LEVELS = 6.0  # of 255: what H.264 in yuv420p may move a flat saturated colour
TONES = (440.0, 1760.0)  # left, right
COLOURS = ((230, 20, 30), (20, 220, 40), (30, 40, 225), (250, 250, 250), (5, 5, 5))


def export(exam: Exam) -> Iterator[Problem]:
    """Five flat colours and a tone of its own in each channel, written and read back by FFmpeg."""
    frames = np.concatenate([np.broadcast_to(np.array(c, dtype=np.uint8), (5, 64, 96, 3)) for c in COLOURS])
    time = np.arange(RATE) / RATE
    sound = np.stack([0.5 * np.sin(2 * np.pi * TONES[0] * time), 0.25 * np.sin(2 * np.pi * TONES[1] * time)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with write.VideoWriter(path, 25.0, RATE) as writer:
            writer.add_frames(frames)
            writer.add_audio(sound.astype(np.float32))
        found, rate, heard, heard_rate = _read(path)
    yield from exam.require("export", "export", "export", found.shape == frames.shape, f"{found.shape} for {frames.shape}")
    yield from exam.require("export", "export", "export", (rate, heard_rate) == (25.0, RATE), f"rates {rate}, {heard_rate}")
    middles = [tuple(found[5 * i + 2].reshape(-1, 3).mean(axis=0)) for i in range(min(len(COLOURS), len(found) // 5))]
    colours = Clue(given={"colours": list(zip(middles, COLOURS, strict=False))})
    for index, colour in enumerate(COLOURS):
        middle = found[5 * index + 2].reshape(-1, 3).mean(axis=0)
        off = float(np.abs(middle - np.array(colour)).max())
        yield from exam.require(
            "export", "export", "export", off <= LEVELS, f"colour {colour} came back as {middle.round()}", colours
        )
    for channel, (tone, level) in enumerate(zip(TONES, (0.5, 0.25), strict=True)):
        part = heard[channel, RATE // 4 : RATE // 4 + RATE // 2] if heard.shape[0] > channel else np.zeros(RATE // 2)
        spectrum = np.abs(np.fft.rfft(part * np.hanning(part.size))) / (part.size / 4)
        peak = float(np.argmax(spectrum)) * RATE / part.size
        right = abs(peak - tone) < 5 and abs(spectrum.max() - level) < 0.1 * level
        text = f"channel {channel} has {spectrum.max():.3f} at {peak:.0f} Hz, expected {level} at {tone:.0f} Hz"
        clue = Clue(given={"tone": ((float(spectrum.max()), peak), (level, tone))})
        yield from exam.require("export", "export", "export", right, text, clue)


def _read(path: Path) -> tuple[Array, float, Array, int]:
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        heard_rate = int(container.streams.audio[0].rate)
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=-1)
    return frames.astype(np.float64), rate, heard, heard_rate
