"""The audio VAE: shapes, causality, order of channels and mel bins, dtypes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx_native.audio_vae import AudioDecoder, AudioEncoder
from tests.native.media_networks import AUDIO, normal, randomized, rel_l2


@pytest.fixture(scope="module")
def decoder() -> AudioDecoder:
    return randomized(AudioDecoder(AUDIO))


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    return randomized(AudioEncoder(AUDIO))


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_decoder_shape(decoder: AudioDecoder, frames: int) -> None:
    assert decoder(sample=normal(1, frames, 16, 2)).shape == (1, 4 * frames - 3, 64, 2)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (4, 1), (5, 2), (37, 10)])
def test_encoder_shape(encoder: AudioEncoder, frames: int, latents: int) -> None:
    assert encoder(spectrogram=normal(1, frames, 64, 2)).shape == (1, latents, 16, 2)


def test_neither_looks_ahead(decoder: AudioDecoder, encoder: AudioEncoder) -> None:
    z = normal(1, 6, 16, 2)
    later = mx.concatenate([z[:, :4], z[:, 4:] + 1], axis=1)
    assert rel_l2(decoder(later)[:, :13], decoder(z)[:, :13]) < 3e-6
    assert rel_l2(decoder(later)[:, 13:], decoder(z)[:, 13:]) > 1e-2
    x = normal(1, 21, 64, 2)
    later = mx.concatenate([x[:, :13], x[:, 13:] + 1], axis=1)
    assert rel_l2(encoder(later)[:, :4], encoder(x)[:, :4]) < 3e-6


def test_a_frame_is_normalised_channel_by_channel(decoder: AudioDecoder) -> None:
    statistics, x = decoder.per_channel_statistics, normal(1, 3, 16, 2)
    flat = np.asarray(x).transpose(0, 1, 3, 2).reshape(1, 3, 32)  # the checkpoint's order: channel, then mel bin
    flat = flat * np.asarray(statistics.std_of_means) + np.asarray(statistics.mean_of_means)
    expected = flat.reshape(1, 3, 2, 16).transpose(0, 1, 3, 2)
    assert rel_l2(statistics.un_normalize(x), expected) < 3e-6
    assert rel_l2(statistics.normalize(statistics.un_normalize(x)), x) < 3e-6


def test_parameters_bear_the_official_names(decoder: AudioDecoder, encoder: AudioEncoder) -> None:
    names = {name for name, _ in tree_flatten(decoder.parameters())}
    assert {
        "conv_in.conv.weight",
        "mid.block_1.conv1.conv.weight",
        "up.0.block.0.nin_shortcut.conv.bias",
        "up.1.upsample.conv.conv.weight",
        "up.2.block.1.conv2.conv.bias",
        "per_channel_statistics.mean_of_means",
    } <= names
    assert not [n for n in names if n.startswith("up.0.upsample")]
    names = {name for name, _ in tree_flatten(encoder.parameters())}
    assert {"down.0.downsample.conv.weight", "down.1.block.0.nin_shortcut.conv.weight", "mid.block_2.conv2.conv.bias"} <= names
    assert not [n for n in names if n.startswith("down.2.downsample")]


def test_everything_stays_in_bfloat16() -> None:
    z = normal(1, 3, 16, 2)
    out = randomized(AudioDecoder(AUDIO), dtype=mx.bfloat16)(z.astype(mx.bfloat16))
    assert out.dtype == mx.bfloat16
    assert rel_l2(out.astype(mx.float32), randomized(AudioDecoder(AUDIO))(z)) < 0.05
