"""Sound in: read from any file FFmpeg knows, resampled as torchaudio does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from typing import Any

import av
import numpy as np

from ltx_native.errors import UserError
from ltx_native.media.pixels import Float

#: Full scale of the integer sample formats.
INTEGER_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0}


@dataclass(frozen=True)
class Audio:
    waveform: Float  # (channels, samples) in [-1, 1]
    sampling_rate: int  # Hz

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.waveform.shape[-1] / self.sampling_rate


def read_audio(path: str | PathLike[str], start_time: float = 0.0, max_duration: float | None = None) -> Audio | None:
    """The first sound stream from `start_time` (seconds) on, at most `max_duration`; None if there is none there.

    Raises UserError when the file cannot be read.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                return None
            return _decode(container, container.streams.audio[0], start_time, max_duration)
    except (av.FFmpegError, OSError) as error:
        found = f"{type(error).__name__}: {error}"
        expected = "a sound or video file that FFmpeg decodes"
        raise UserError("The sound cannot be read", str(path), found, expected, "Check the path and the file") from error


def _decode(container: Any, stream: Any, start_time: float, max_duration: float | None) -> Audio | None:
    rate = stream.rate
    end_time = math.inf if max_duration is None else start_time + max_duration
    container.seek(int(start_time / stream.time_base), stream=stream)

    parts: list[Float] = []
    first_time = 0.0
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        time = float(frame.pts * stream.time_base)
        if time + frame.samples / frame.sample_rate < start_time:
            continue
        if time > end_time:
            break
        if not parts:
            first_time = time
        parts.append(_to_float(frame))
    if not parts:
        return None

    # Codecs decode in whole frames: the first may begin before the range and the last end after it.
    samples = np.concatenate(parts, axis=-1)[:, max(0, round((start_time - first_time) * rate)) :]
    if max_duration is not None:
        samples = samples[:, : round(max_duration * rate)]
    return Audio(np.ascontiguousarray(samples), rate)


def _to_float(frame: Any) -> Float:
    """One decoded frame as (channels, samples) in [-1, 1]."""
    samples = frame.to_ndarray().astype(np.float32)
    name = frame.format.name.removesuffix("p")
    if name in INTEGER_SCALE:
        samples = samples / np.float32(INTEGER_SCALE[name])
    if name == "u8":
        samples = samples - np.float32(1.0)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    return np.asarray(samples, dtype=np.float32)


def to_stereo(audio: Audio) -> Audio:
    """Two channels: one is doubled, of more the first two (front left and right) are kept."""
    waveform = audio.waveform
    return Audio(np.repeat(waveform, 2, axis=0) if waveform.shape[0] == 1 else waveform[:2], audio.sampling_rate)


def resample(waveform: Float, rate: int, new_rate: int) -> Float:
    """(…, samples) at `rate` Hz to `new_rate`: windowed sinc, 6 zero crossings, Hann window, rolloff 0.99.

    As `torchaudio.functional.resample` in float32, the kernel included.
    """
    if rate == new_rate:
        return waveform
    common = math.gcd(rate, new_rate)
    old, new = rate // common, new_rate // common
    zeros, base = np.float32(6), np.float32(min(old, new) * 0.99)
    width = math.ceil(6 * old / (min(old, new) * 0.99))

    places = np.arange(-width, width + old, dtype=np.float32) / np.float32(old)
    time = (np.arange(0, -new, -1, dtype=np.float32)[:, None] / np.float32(new) + places) * base
    time = np.clip(time, -zeros, zeros)
    window = np.cos(time * np.float32(math.pi) / zeros / np.float32(2)) ** 2
    angle = time * np.float32(math.pi)
    with np.errstate(invalid="ignore", divide="ignore"):
        sinc = np.where(angle == 0, np.float32(1), np.sin(angle) / angle)
    kernel = sinc * (window * np.float32(min(old, new) * 0.99 / old))  # (new, 2 * width + old)

    length = waveform.shape[-1]
    flat = np.pad(waveform.reshape(-1, length), ((0, 0), (width, width + old)))
    windows = np.lib.stride_tricks.sliding_window_view(flat, kernel.shape[1], axis=-1)[:, ::old]
    out = (windows @ kernel.T).reshape(flat.shape[0], -1)[:, : math.ceil(new * length / old)]
    return np.ascontiguousarray(out, dtype=np.float32).reshape(*waveform.shape[:-1], -1)
