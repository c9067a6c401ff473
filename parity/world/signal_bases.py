"""The buffers of the vocoder that are not learned: resampling filters, the windowed DFT and the mel filterbank."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def kaiser_sinc(ratio: int = 2, size: int = 12) -> Array:
    """The low-pass filter (1, 1, size) of a resampler by `ratio`: a sinc under a Kaiser window, unit sum."""
    cutoff, half_width = 0.5 / ratio, 0.6 / ratio
    attenuation = 2.285 * (size // 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * max(attenuation - 21, 0) ** 0.4 + 0.07886 * max(attenuation - 21, 0)
    time = np.arange(size) - (size - 1) / 2
    taps = np.sinc(2 * cutoff * time) * np.kaiser(size, beta)
    return (taps / taps.sum()).reshape(1, 1, size)


def binomial_blur() -> Array:
    """The anti-aliasing kernel (1, 1, 5, 5) of the rational resampler."""
    row = np.array([1.0, 4.0, 6.0, 4.0, 1.0])
    return (np.outer(row, row) / row.sum() ** 2).reshape(1, 1, 5, 5)


def dft_bases(size: int, hop: int) -> tuple[Array, Array]:
    """Forward and inverse STFT bases, each (2 · bins, 1, size): cosines, then sines, under a periodic Hann window."""
    bins = size // 2 + 1
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(size)) / size
    rows = np.concatenate([np.cos(angle), -np.sin(angle)])
    weight = np.where((np.arange(bins) == 0) | (np.arange(bins) == bins - 1), 1.0, 2.0) / size
    inverse = rows * np.concatenate([weight, weight])[:, None] * window * hop / np.sum(window**2)
    return (rows * window)[:, None], inverse[:, None]


def slaney_mels(rate: int, size: int, mels: int) -> Array:
    """Mel filterbank (mels, bins): Slaney's scale, linear to 1 kHz and logarithmic above, triangles of unit area."""
    step = math.log(6.4) / 27

    def to_hz(mel: Array) -> Array:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))

    top = 15 + math.log(rate / 2 / 1000) / step
    edges = to_hz(np.linspace(0, top, mels + 2))
    bins = np.linspace(0, rate / 2, size // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
