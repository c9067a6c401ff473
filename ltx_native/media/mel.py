"""The log-mel spectrogram that the audio encoder reads, as torchaudio computes it (float32, Slaney scale and norm)."""

from __future__ import annotations

import math

import numpy as np

from ltx_native.config import AudioVAEConfig
from ltx_native.errors import UserError
from ltx_native.media.audio import Audio, resample
from ltx_native.media.pixels import Float

SMALLEST = np.float32(1e-5)


def log_mel(audio: Audio, config: AudioVAEConfig) -> Float:
    """(channels, samples) at any rate -> (1, frames, mel bins, channels), frames = samples at the VAE's rate // hop + 1.

    Raises UserError when the sound is too short for one window.
    """
    rate, n_fft, hop = config.sampling_rate, config.filter_length, config.hop_length
    x = resample(audio.waveform, audio.sampling_rate, rate)
    if x.shape[-1] <= n_fft // 2:
        needed = f"more than {n_fft // 2 / rate:.3f} seconds"
        raise UserError("The sound is too short", "audio", f"{audio.duration:.3f} seconds", needed, "Use a longer sound")
    x = np.pad(x, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft, axis=-1)[:, ::hop]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)  # Hann, periodic
    magnitude = np.abs(np.fft.rfft(frames * window, axis=-1))  # (channels, frames, bins), float32
    mel = magnitude @ mel_filters(n_fft // 2 + 1, config.mel_bins, rate)
    return np.ascontiguousarray(np.log(np.maximum(mel, SMALLEST)).transpose(1, 2, 0)[None], dtype=np.float32)


def mel_filters(n_freqs: int, n_mels: int, rate: int) -> Float:
    """Triangles (n_freqs, n_mels) between 0 Hz and half the rate, equal in area, linear below 1 kHz and logarithmic above."""
    log_step = math.log(6.4) / 27
    top = 15 + math.log(rate / 2 / 1000) / log_step if rate >= 2000 else rate / 2 * 3 / 200
    mels = np.linspace(0, top, n_mels + 2, dtype=np.float32)
    above = np.float32(1000) * np.exp(np.float32(log_step) * (mels - np.float32(15)))
    points = np.where(mels >= 15, above, np.float32(200 / 3) * mels)
    freqs = np.linspace(0, rate // 2, n_freqs, dtype=np.float32)

    widths = np.diff(points)
    slopes = points[None] - freqs[:, None]  # (n_freqs, n_mels + 2)
    triangles = np.maximum(np.float32(0), np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))
    return np.asarray(triangles * (np.float32(2) / (points[2:] - points[:-2])), dtype=np.float32)
