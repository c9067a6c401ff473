"""Bandwidth extension: the 16 kHz waveform, resampled to 48 kHz, plus the high band that a second generator adds."""

import mlx.core as mx
import mlx.nn as nn

from ltx_native.audio_vae.generator import Vocoder
from ltx_native.audio_vae.resample import HannUpSample1d
from ltx_native.config import BWEConfig, VocoderConfig


class STFT(nn.Module):
    """Short-time Fourier transform with the checkpoint's windowed bases; causal: padded on the left only."""

    def __init__(self, filter_length: int, hop_length: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        bases = (2 * (filter_length // 2 + 1), filter_length, 1)
        self.forward_basis = mx.zeros(bases)
        self.inverse_basis = mx.zeros(bases)  # in the checkpoint, never used

    def __call__(self, y: mx.array) -> tuple[mx.array, mx.array]:
        """(B, T) waveform -> (B, frames, bins) magnitude and phase; nothing reads the phase, so it is never evaluated."""
        left = max(0, self.forward_basis.shape[1] - self.hop_length)
        y = mx.pad(y, [(0, 0), (left, 0)])[..., None]
        real, imag = mx.split(mx.conv1d(y, self.forward_basis, stride=self.hop_length), 2, axis=-1)
        return mx.sqrt(mx.square(real) + mx.square(imag)), mx.arctan2(imag, real)


class MelSTFT(nn.Module):
    def __init__(self, filter_length: int, hop_length: int, n_mel_channels: int) -> None:
        super().__init__()
        self.stft_fn = STFT(filter_length, hop_length)
        self.mel_basis = mx.zeros((n_mel_channels, filter_length // 2 + 1))

    def __call__(self, y: mx.array) -> mx.array:
        """(B, T) waveform -> (B, frames, mel bins) log-mel spectrogram."""
        magnitude, _ = self.stft_fn(y)
        return mx.log(mx.maximum(magnitude @ self.mel_basis.astype(magnitude.dtype).T, 1e-5))


class VocoderWithBWE(nn.Module):
    def __init__(self, vocoder: VocoderConfig, bwe: BWEConfig) -> None:
        super().__init__()
        self.vocoder = Vocoder(vocoder)
        self.bwe_generator = Vocoder(bwe)
        self.mel_stft = MelSTFT(bwe.n_fft, bwe.hop_length, bwe.num_mels)
        self.input_sampling_rate = bwe.input_sampling_rate
        self.output_sampling_rate = bwe.output_sampling_rate
        self.hop_length = bwe.hop_length
        self.resampler = HannUpSample1d(bwe.output_sampling_rate // bwe.input_sampling_rate)

    def __call__(self, mel_spec: mx.array) -> mx.array:
        """(B, T, 64, 2) log-mel spectrogram -> (B, samples, 2) waveform in [-1, 1] at the output rate."""
        x = self.vocoder(mel_spec)
        b, length, channels = x.shape
        x = mx.pad(x, [(0, 0), (0, -length % self.hop_length), (0, 0)])  # whole mel frames

        mel = self.mel_stft(x.swapaxes(1, 2).flatten(0, 1))  # (B*C, frames, bins)
        mel = mel.reshape(b, channels, *mel.shape[1:]).transpose(0, 2, 3, 1)
        x = mx.clip(self.bwe_generator(mel) + self.resampler(x), -1, 1)
        return x[:, : length * self.output_sampling_rate // self.input_sampling_rate]
