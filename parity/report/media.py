"""Videos and sound as a page can hold them: frames in one sprite per side, strips, waveforms, spectrograms.

Frames are stepped through by index on both sides at once, so the two sides cannot drift apart and no codec is asked of the
browser. Sound stays as it was encoded, in a container of its own.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
SPRITE_BYTES = 2_500_000  # of one side's frames; beyond it frames shrink and lose
STRIP_FRAMES = 8
LOSSLESS_PIXELS = 1_000_000
MAX_PIXELS = 12_000_000


class MediaError(ValueError):
    """A file that cannot be shown."""


@dataclass(frozen=True)
class Clip:
    """A decoded video: frames uint8 (F, H, W, 3), sound float32 (channels, samples) or None, rates in Hz."""

    frames: Array
    frame_rate: float
    waveform: Array | None
    sample_rate: int
    sound: bytes  # the sound alone, as encoded, in an m4a


@dataclass(frozen=True)
class Sprite:
    """All frames in one picture, row by row."""

    uri: str
    columns: int
    rows: int
    width: int  # of one frame, pixels
    height: int


def read_clip(path: Path) -> Clip:
    """Decode every frame and the sound. Raises `MediaError` when the file cannot be read or holds no frames."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 24)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        waveform, sample_rate = _sound(path)
        sound = _sound_only(path) if waveform is not None else b""
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise MediaError(f"{path.name} cannot be shown: {error}") from error
    if not frames:
        raise MediaError(f"{path.name} holds no frames")
    return Clip(np.stack(frames), rate, waveform, sample_rate, sound)


def _sound(path: Path) -> tuple[Array | None, int]:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None, 0
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=stream.layout.name)
        parts = [part.to_ndarray() for frame in container.decode(stream) for part in resampler.resample(frame)]
        return (np.concatenate(parts, axis=1), int(stream.rate)) if parts else (None, 0)


def _sound_only(path: Path) -> bytes:
    """The sound's packets, copied as they are."""
    buffer = io.BytesIO()
    with av.open(str(path)) as source, av.open(buffer, "w", format="ipod") as target:
        stream = source.streams.audio[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return buffer.getvalue()


def difference_frames(native: Array, reference: Array) -> tuple[Array, int]:
    """(|native − reference| × gain as grey frames, gain): gain is a power of two that makes the largest difference visible."""
    count = min(len(native), len(reference))
    gap = np.abs(native[:count].astype(np.int16) - reference[:count].astype(np.int16)).max(axis=-1)
    top = int(gap.max()) if gap.size else 0
    gain = 1 if top == 0 else 2 ** max(0, int(math.log2(255 / top)))
    grey = np.minimum(gap * gain, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), gain


def sprite(frames: Array, budget: int = SPRITE_BYTES) -> Sprite:
    """One picture of all frames: lossless while it is small, else shrunk and compressed until it fits the budget."""
    count, height, width, _ = frames.shape
    columns = max(1, math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / columns)
    scale = min(1.0, math.sqrt(MAX_PIXELS / (columns * rows * width * height)))
    while True:
        size = max(1, int(width * scale)), max(1, int(height * scale))
        sheet = _sheet(frames, columns, rows, size)
        data, kind = _encode(sheet)
        if len(data) <= budget or scale < 0.1:
            return Sprite(_uri(data, kind), columns, rows, *size)
        scale *= max(0.5, math.sqrt(budget / len(data)) * 0.95)


def strip(sides: Sequence[Array], height: int = 96) -> tuple[str, list[int]]:
    """(picture, frame numbers): the same frames of every side, side by side in time, side under side."""
    count = min(len(frames) for frames in sides)
    chosen = sorted({round(i * (count - 1) / max(1, STRIP_FRAMES - 1)) for i in range(STRIP_FRAMES)})
    scale = min(1.0, height / sides[0].shape[1])
    size = max(1, round(sides[0].shape[2] * scale)), max(1, round(sides[0].shape[1] * scale))
    picked = [frames[i] for frames in sides for i in chosen]
    data, kind = _encode(_sheet(picked, len(chosen), len(sides), size, gap=2))
    return _uri(data, kind), chosen


def _sheet(frames: Iterable[Array], columns: int, rows: int, size: tuple[int, int], gap: int = 0) -> Image.Image:
    step = size[0] + gap, size[1] + gap
    sheet = Image.new("RGB", (columns * step[0] - gap, rows * step[1] - gap), (128, 128, 128))
    for index, frame in enumerate(frames):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        if picture.size != size:
            larger = size[0] > picture.size[0]
            picture = picture.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)
        sheet.paste(picture, (index % columns * step[0], index // columns * step[1]))
    return sheet


def _encode(picture: Image.Image) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    if picture.width * picture.height <= LOSSLESS_PIXELS:
        picture.save(buffer, "PNG", optimize=True)
        return buffer.getvalue(), "image/png"
    picture.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue(), "image/jpeg"


def png(array: Array) -> str:
    """Data URI of an 8-bit picture, (H, W) or (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", optimize=True)
    return _uri(buffer.getvalue(), "image/png")


def sound_uri(clip: Clip) -> str:
    return _uri(clip.sound, "audio/mp4") if clip.sound else ""


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def envelope(waveform: Array, bins: int = 600) -> tuple[Array, Array]:
    """(lowest, highest) sample of each of `bins` stretches, all channels together."""
    samples = waveform.shape[-1]
    bins = min(bins, samples)
    starts = np.linspace(0, samples, bins + 1).astype(int)[:-1]
    low, high = waveform.min(axis=0), waveform.max(axis=0)
    return np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)


def spectrogram_db(waveform: Array, rate: int, columns: int = 300, size: int = 1024) -> tuple[Array, float]:
    """(level in dB re full scale, (size/2 + 1, columns), low frequencies first; seconds): Hann windows, channels averaged."""
    mono = waveform.mean(axis=0, dtype=np.float64)
    size = min(size, max(64, 2 ** int(math.log2(max(64, len(mono) // 4)))))
    mono = np.pad(mono, (0, max(0, size - len(mono))))
    starts = np.linspace(0, len(mono) - size, min(columns, len(mono) - size + 1)).astype(int)
    window = np.hanning(size)
    spectra = np.abs(np.fft.rfft(np.stack([mono[s : s + size] for s in starts]) * window, axis=1)) * 2 / window.sum()
    return 20 * np.log10(np.maximum(spectra.T, 1e-6)), waveform.shape[-1] / rate
