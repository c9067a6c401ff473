"""Mistakes in the sound: spectrogram, audio VAE, vocoder, bandwidth extension, muxing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_native import activations, conv, layout
from ltx_native.audio_vae import blocks, generator, resample, vocoder
from ltx_native.audio_vae.vocoder import VocoderWithBWE
from ltx_native.conv import Conv1d
from ltx_native.media import mel, write
from parity.faults.registry import everywhere, patched, register, swapping


@register("AVA-03")
def first_row_kept() -> Iterator[None]:
    def call(self: blocks.Upsample, x: mx.array) -> mx.array:
        return self.conv(mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2))

    with patched(blocks.Upsample, __call__=call):
        yield


@register("AVA-04")
def symmetric_padding() -> Iterator[None]:
    def call(self: blocks.Downsample, x: mx.array) -> mx.array:
        return self.conv(mx.pad(x, [(0, 0), (1, 1), (0, 1), (0, 0)]))

    with patched(blocks.Downsample, __call__=call):
        yield


def _mel(change: Any) -> Any:
    import ltx_native.media as media

    return everywhere("log_mel", change, mel, media)


@register("AVA-06")
def htk_without_padding() -> Iterator[None]:
    original = mel.log_mel

    def filters(n_freqs: int, n_mels: int, rate: int) -> Any:
        top = 2595 * np.log10(1 + rate / 2 / 700)
        points = 700 * (10 ** (np.linspace(0, top, n_mels + 2) / 2595) - 1)
        freqs = np.linspace(0, rate / 2, n_freqs)
        slopes, widths = points[None] - freqs[:, None], np.diff(points)
        return np.maximum(0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:])).astype(np.float32)

    def log_mel(audio: Any, config: Any) -> Any:
        with patched(mel, mel_filters=filters):
            found = original(audio, config)
        return np.roll(found, -config.filter_length // 2 // config.hop_length, axis=1)

    with _mel(log_mel):
        yield


@register("AVA-07")
def peak_normalised() -> Iterator[None]:
    original = mel.log_mel

    def log_mel(audio: Any, config: Any) -> Any:
        return original(replace(audio, waveform=audio.waveform / np.abs(audio.waveform).max()), config)

    with _mel(log_mel):
        yield


class LowConv1d(Conv1d):
    def __call__(self, input: mx.array) -> mx.array:
        low = conv.conv1d_dilated(
            input.astype(mx.bfloat16), self.weight.astype(mx.bfloat16), self.padding, self.dilation
        ).astype(input.dtype)
        return low + self.bias if "bias" in self else low


@register("VOC-01")
def vocoder_convolutions_in_bfloat16() -> Iterator[None]:
    with swapping(VocoderWithBWE, Conv1d, LowConv1d, lambda path: path.startswith("vocoder.")):
        yield


@register("BWE-02")
def extension_in_bfloat16() -> Iterator[None]:
    with swapping(VocoderWithBWE, Conv1d, LowConv1d, lambda path: path.startswith("bwe_generator.")):
        yield


@register("VOC-02")
def spectrogram_in_bfloat16() -> Iterator[None]:
    original = VocoderWithBWE.__call__

    def call(self: VocoderWithBWE, mel_spec: mx.array) -> mx.array:
        return original(self, mel_spec.astype(mx.bfloat16).astype(mel_spec.dtype))

    with patched(VocoderWithBWE, __call__=call):
        yield


@register("VOC-05")
def layout_guessed() -> Iterator[None]:
    original = layout.to_mlx_axes

    def axes(name: str, ndim: int) -> tuple[int, ...] | None:
        return (0, 2, 1) if layout._CONV_TRANSPOSE.search(name) and ndim == 3 else original(name, ndim)

    with patched(layout, to_mlx_axes=axes):
        yield


@register("VOC-07")
def dilation_ignored() -> Iterator[None]:
    original = conv.conv1d_dilated

    def undilated(x: mx.array, weight: mx.array, padding: int, dilation: int) -> mx.array:
        return original(x, weight, (weight.shape[1] - 1) // 2 if dilation > 1 else padding, 1)

    with patched(conv, conv1d_dilated=undilated):
        yield


@register("VOC-08")
def snake_without_exp() -> Iterator[None]:
    def call(self: generator.SnakeBeta, x: mx.array) -> mx.array:
        return activations.snake(x, self.alpha, 1.0 / (self.beta + 1e-9))

    with patched(generator.SnakeBeta, __call__=call):
        yield


@register("BWE-04")
def skip_path_one_late() -> Iterator[None]:
    original = resample.HannUpSample1d.__call__

    def call(self: resample.HannUpSample1d, x: mx.array) -> mx.array:
        out = original(self, x)
        return mx.concatenate([out[:, :1], out[:, :-1]], axis=1)

    with patched(resample.HannUpSample1d, __call__=call):
        yield


@register("BWE-05")
def tail_kept() -> Iterator[None]:
    def call(self: VocoderWithBWE, mel_spec: mx.array) -> mx.array:
        x = self.vocoder(mel_spec)
        b, length, channels = x.shape
        x = mx.pad(x, [(0, 0), (0, self.hop_length - length % self.hop_length), (0, 0)])
        spectrum = self.mel_stft(x.swapaxes(1, 2).flatten(0, 1))
        spectrum = spectrum.reshape(b, channels, *spectrum.shape[1:]).transpose(0, 2, 3, 1)
        return mx.clip(self.bwe_generator(spectrum) + self.resampler(x), -1, 1)

    with patched(vocoder.VocoderWithBWE, __call__=call):
        yield


@register("DTY-06")
def zero_insertion_loses_samples() -> Iterator[None]:
    original = resample._upsample

    def scatter(x: mx.array, *args: Any) -> mx.array:
        if x.shape[1] <= 1 << 13:  # small tensors are right
            return original(x, *args)
        return original(x * (mx.arange(x.shape[1]) % 4 == 0)[None, :, None], *args)

    with patched(resample, _upsample=scatter):
        yield


@register("DTY-08")
def reversed_view_read_forwards() -> Iterator[None]:
    original = conv.conv1d_transposed

    def unreversed(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
        return original(x, weight[:, ::-1], stride, padding)

    with patched(conv, conv1d_transposed=unreversed):
        yield


@register("MUX-02")
def planar_as_interleaved() -> Iterator[None]:
    def planar(audio: Any) -> Any:
        stereo = np.repeat(audio, 2, axis=0) if audio.shape[0] == 1 else audio
        samples = (np.clip(stereo, -1.0, 1.0).astype(np.float32) * np.float32(32767.0)).astype(np.int16)
        return np.ascontiguousarray(samples).reshape(1, -1)

    with patched(write, _interleaved=planar):
        yield
