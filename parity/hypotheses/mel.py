"""The log-mel spectrogram that the audio encoder reads, as torchaudio defines it, and how front ends differ from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from parity.hypotheses.base import Array

RATE, WINDOW, HOP, BINS, FLOOR = 16000, 1024, 160, 64, 1e-5


@dataclass(frozen=True)
class LogMel:
    """A sound (channels, samples) at any rate. A resampling of its own makes the result near the official one, not equal."""

    sound: Array
    rate: int

    def made(
        self,
        shape: tuple[int, ...],
        window: int = WINDOW,
        htk: bool = False,
        slaney_norm: bool = True,
        centred: bool = True,
        power: int = 1,
        peak: bool = False,
        logarithm: float = 1.0,
        symmetric: bool = False,
        late: int = 0,
        padding: str = "reflect",
        mono: bool = False,
    ) -> Array:
        """(1, frames, bins, channels), cut or padded with its last frame to the frames of ``shape``."""
        x = self.sound.astype(np.float64)
        x = np.broadcast_to(x.mean(axis=0, keepdims=True), x.shape) if mono else x
        if self.rate != RATE:
            common = math.gcd(self.rate, RATE)
            x = resample_poly(x, RATE // common, self.rate // common, axis=-1)
        x = x / max(np.abs(x).max(), 1e-9) if peak else x
        x = np.pad(x, ((0, 0), (window // 2,) * 2), mode=padding) if centred else x  # type: ignore[call-overload]
        frames = np.lib.stride_tricks.sliding_window_view(x, window, axis=-1)[:, ::HOP]
        steps = window - 1 if symmetric else window
        spectrum = np.abs(np.fft.rfft(frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / steps)), axis=-1)) ** power
        mel = spectrum @ filters(window // 2 + 1, htk, slaney_norm)
        found = np.log(np.maximum(mel, FLOOR)).transpose(1, 2, 0)[None] / logarithm
        found = np.roll(found, late, axis=1)
        missing = shape[1] - found.shape[1]
        found = np.pad(found, [(0, 0), (0, max(0, missing)), (0, 0), (0, 0)], mode="edge")[:, : shape[1]]
        return np.asarray(found)

    def edits(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(cause, words, changed arguments of `made`)."""
        for late in (0, -3, -4):
            delay = f", {-late} frames early (no centring)" if late else ""
            yield (
                "mel.scale",
                f"mel bins on the HTK scale without area norm{delay}",
                {"htk": True, "slaney_norm": False, "late": late},
            )
            yield "mel.scale", f"mel bins on the HTK scale{delay}", {"htk": True, "late": late}
        yield "mel.norm", "mel filters without their area norm", {"slaney_norm": False}
        yield "mel.padding", "frames not centred: no padding", {"centred": False}
        yield "mel.padding", "borders padded with zeros instead of mirrored", {"padding": "constant"}
        yield "sound.channels", "both channels the mean of both", {"mono": True}
        yield "mel.padding", "frames 3 early", {"late": -3}
        yield "mel.window", "a window of 512 samples", {"window": 512}
        yield "mel.window", "a window of 2,048 samples", {"window": 2048}
        yield "mel.window", "a symmetric Hann window", {"symmetric": True}
        yield "sound.power", "the power instead of the magnitude", {"power": 2}
        yield "sound.logarithm", "log10 instead of the natural logarithm", {"logarithm": math.log(10)}
        yield "sound.scaled", "a sound scaled to a peak of 1 before its spectrogram", {"peak": True}


def filters(bins: int, htk: bool, slaney_norm: bool) -> Array:
    """Triangles (frequencies, mel bins) between 0 Hz and half the rate."""
    if htk:
        top = 2595 * math.log10(1 + RATE / 2 / 700)
        points = 700 * (10 ** (np.linspace(0, top, BINS + 2) / 2595) - 1)
    else:
        step = math.log(6.4) / 27
        mels = np.linspace(0, 15 + math.log(RATE / 2 / 1000) / step, BINS + 2)
        points = np.where(mels >= 15, 1000 * np.exp(step * (mels - 15)), 200 / 3 * mels)
    slopes, widths = points[None] - np.linspace(0, RATE / 2, bins)[:, None], np.diff(points)
    triangles = np.maximum(0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))
    return np.asarray(triangles * (2 / (points[2:] - points[:-2]) if slaney_norm else 1.0))
