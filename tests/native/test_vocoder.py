"""Vocoder and bandwidth extension: lengths, filters against sums written out, spectrogram, final activation."""

from __future__ import annotations

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx_native.audio_vae import VocoderWithBWE
from ltx_native.audio_vae.generator import SnakeBeta, Vocoder
from ltx_native.audio_vae.resample import DownSample1d, HannUpSample1d, UpSample1d
from ltx_native.audio_vae.vocoder import MelSTFT
from tests.native.media_networks import BWE, VOCODER, normal, randomized, rel_l2


@pytest.fixture(scope="module")
def vocoder() -> VocoderWithBWE:
    module = randomized(VocoderWithBWE(VOCODER, BWE))
    for generator in (module.vocoder, module.bwe_generator):
        generator.conv_post.weight = generator.conv_post.weight * 0.05
    return module


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_length_is_ten_milliseconds_a_frame_at_48_khz(vocoder: VocoderWithBWE, frames: int) -> None:
    out = vocoder(mel_spec=normal(1, frames, 64, 2))
    assert out.shape == (1, frames * 160 * 3, 2)
    assert float(mx.abs(out).max()) <= 1


def test_batches_do_not_mix_and_channels_differ(vocoder: VocoderWithBWE) -> None:
    mel = normal(2, 2, 64, 2)
    out = vocoder(mel)
    assert rel_l2(out, mx.concatenate([vocoder(mel[:1]), vocoder(mel[1:])])) < 2e-5
    assert rel_l2(out[..., 0], out[..., 1]) > 1e-2


def test_stereo_mel_goes_in_channel_by_channel() -> None:
    vocoder = randomized(Vocoder(VOCODER))
    seen: list[mx.array] = []

    class Tapped(type(vocoder.conv_pre)):  # type: ignore[misc]
        def __call__(self, input: mx.array) -> mx.array:
            seen.append(input)
            return super().__call__(input)

    vocoder.conv_pre.__class__ = Tapped
    mel = normal(1, 3, 64, 2)
    vocoder(x=mel)
    assert bool(mx.array_equal(seen[0], mx.concatenate([mel[..., 0], mel[..., 1]], axis=-1)).item())


def test_final_activation_follows_the_config() -> None:
    mel = normal(1, 2, 64, 2)
    raw = randomized(Vocoder(replace(VOCODER, apply_final_activation=False)))(mel) * 1
    assert float(mx.abs(raw).max()) > 1, "the case must clip to tell the rules apart"
    assert rel_l2(randomized(Vocoder(VOCODER))(mel), mx.clip(raw, -1, 1)) < 3e-6
    assert rel_l2(randomized(Vocoder(replace(VOCODER, use_tanh_at_final=True)))(mel), mx.tanh(raw)) < 3e-6
    assert "bias" in Vocoder(replace(VOCODER, use_bias_at_final=True)).conv_post
    assert "bias" not in Vocoder(VOCODER).conv_post


@pytest.mark.parametrize("length", [1, 5, 64, 97])
def test_upsampling_filter(length: int) -> None:
    module, x = randomized(UpSample1d(2, 12)), normal(2, length, 3)
    taps = np.asarray(module.filter, dtype=np.float64).reshape(-1)
    padded = np.pad(np.asarray(x, dtype=np.float64), ((0, 0), (5, 5), (0, 0)), mode="edge")
    full = np.zeros((2, 2 * padded.shape[1] + 10, 3))
    for i in range(padded.shape[1]):
        full[:, 2 * i : 2 * i + 12] += padded[:, i : i + 1] * taps[None, :, None]
    assert rel_l2(module(x=x), 2 * full[:, 15:-15]) < 3e-6


@pytest.mark.parametrize("length", [2, 10, 129])
def test_downsampling_filter(length: int) -> None:
    module, x = randomized(DownSample1d(2, 12)), normal(2, length, 3)
    taps = np.asarray(module.lowpass.filter, dtype=np.float64).reshape(-1)
    padded = np.pad(np.asarray(x, dtype=np.float64), ((0, 0), (5, 6), (0, 0)), mode="edge")
    expected = [(padded[:, i : i + 12] * taps[None, :, None]).sum(axis=1) for i in range(0, length, 2)]
    assert rel_l2(module(x=x), np.stack(expected, axis=1)) < 3e-6


def test_skip_path_keeps_a_tone() -> None:
    """The resampler has no weights to compare with: a tone below the cutoff comes out at three times the rate."""
    time = np.arange(4000) / 16000
    tone = mx.array(np.sin(2 * np.pi * 440 * time).astype(np.float32))[None, :, None]
    out = np.asarray(HannUpSample1d(3)(x=tone))[0, :, 0]
    expected = np.sin(2 * np.pi * 440 * np.arange(12000) / 48000)
    assert out.shape == (12000,)
    assert np.abs(out - expected)[300:-300].max() < 5e-3
    assert not tree_flatten(HannUpSample1d(3).parameters()), "its filter is not in the checkpoint"


def test_snake() -> None:
    module, x = randomized(SnakeBeta(4)), normal(1, 50, 4)
    alpha, beta = (np.exp(np.asarray(v, dtype=np.float64)) for v in (module.alpha, module.beta))
    wide = np.asarray(x, dtype=np.float64)
    assert rel_l2(module(x=x), wide + np.sin(alpha * wide) ** 2 / (beta + 1e-9)) < 3e-6


def test_spectrogram_is_causal_and_is_the_fourier_transform() -> None:
    module, wave = MelSTFT(512, 80, 64), normal(2, 1600)
    bins = np.arange(257)[:, None] * np.arange(512)[None] * 2 * math.pi / 512
    window = np.hanning(513)[:-1]
    basis = np.concatenate([np.cos(bins) * window, -np.sin(bins) * window])
    module.stft_fn.forward_basis = mx.array(basis.astype(np.float32))[..., None]
    module.mel_basis = mx.abs(normal(64, 257, seed=4))

    padded = np.pad(np.asarray(wave, dtype=np.float64), ((0, 0), (432, 0)))
    frames = np.stack([padded[:, i : i + 512] * window for i in range(0, 1600, 80)], axis=1)
    spectrum = np.fft.rfft(frames, axis=-1)
    magnitude, phase = module.stft_fn(y=wave)
    assert rel_l2(magnitude, np.abs(spectrum)) < 3e-6
    assert rel_l2(mx.cos(phase), np.cos(np.angle(spectrum))) < 1e-3
    expected = np.log(np.maximum(np.abs(spectrum) @ np.asarray(module.mel_basis, dtype=np.float64).T, 1e-5))
    assert rel_l2(module(wave), expected) < 3e-6

    later = mx.concatenate([wave[:, :800], wave[:, 800:] * 2], axis=1)
    assert rel_l2(module(later)[:, :10], module(wave)[:, :10]) < 3e-6
    silence = module(mx.zeros((1, 160)))
    assert rel_l2(silence, np.full((1, 2, 64), math.log(1e-5))) < 3e-6


def test_parameters_bear_the_official_names(vocoder: VocoderWithBWE) -> None:
    shapes = {name: value.shape for name, value in tree_flatten(vocoder.parameters())}
    assert shapes["vocoder.ups.0.weight"] == (8, 11, 16)
    assert shapes["vocoder.resblocks.0.acts1.0.upsample.filter"] == (1, 12, 1)
    assert shapes["bwe_generator.act_post.downsample.lowpass.filter"] == (1, 12, 1)
    assert shapes["mel_stft.stft_fn.inverse_basis"] == (514, 512, 1)
    assert shapes["mel_stft.mel_basis"] == (64, 257)
    assert "vocoder.resblocks.5.convs2.2.bias" in shapes
    assert not [name for name in shapes if name.startswith("resampler")]


def test_everything_stays_in_bfloat16() -> None:
    module = randomized(VocoderWithBWE(VOCODER, BWE), dtype=mx.bfloat16)
    assert module(normal(1, 1, 64, 2).astype(mx.bfloat16)).dtype == mx.bfloat16
