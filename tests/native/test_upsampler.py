"""The latent upsamplers: shapes, the dropped frame, the shuffle's order, the blur."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_native.config import UpsamplerConfig
from ltx_native.errors import ConfigError
from ltx_native.upsampler import BlurDownsample, LatentUpsampler, PixelShuffleND, upsample_video
from ltx_native.video_vae import VideoEncoder
from tests.native.media_networks import UPSAMPLER, VIDEO, normal, randomized, rel_l2

KINDS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "x2": ({}, (3, 8, 12)),
    "x1.5": ({"rational_resampler": True, "spatial_scale": 1.5}, (3, 6, 9)),
    "x2 rational": ({"rational_resampler": True}, (3, 8, 12)),
    "temporal": ({"spatial_upsample": False, "temporal_upsample": True}, (5, 4, 6)),
    "both": ({"temporal_upsample": True}, (5, 8, 12)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_shape(kind: str) -> None:
    changes, expected = KINDS[kind]
    upsampler = randomized(LatentUpsampler(replace(UPSAMPLER, **changes)))
    assert upsampler(latent=normal(1, 3, 4, 6, 16)).shape == (1, *expected, 16)


def test_shuffle_order() -> None:
    x = np.asarray(normal(1, 2, 3, 4, 8))
    both = np.asarray(PixelShuffleND(3)(x=mx.array(x)))
    for p, q, r in np.ndindex(2, 2, 2):
        assert np.array_equal(both[:, p::2, q::2, r::2, 0], x[..., (p * 2 + q) * 2 + r])
    flat = np.asarray(PixelShuffleND(2)(x=mx.array(x[:, 0])))  # (B*F, H, W, C), as a 2-D convolution leaves it
    for q, r in np.ndindex(2, 2):
        assert np.array_equal(flat[:, q::2, r::2, 1], x[:, 0, :, :, 4 + q * 2 + r])
    assert PixelShuffleND(1)(x=mx.array(x)).shape == (1, 4, 3, 4, 4)


def test_blur_is_the_same_for_all_channels_and_skips_places() -> None:
    blur, x = BlurDownsample(2), normal(1, 6, 8, 3)
    row = np.array([1, 4, 6, 4, 1]) / 16
    blur.kernel = mx.array(np.outer(row, row).astype(np.float32))[None, :, :, None]
    padded = np.pad(np.asarray(x, dtype=np.float64), ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = np.zeros((1, 3, 4, 3))
    for i, j in np.ndindex(3, 4):
        window = padded[:, 2 * i : 2 * i + 5, 2 * j : 2 * j + 5]
        expected[:, i, j] = (window * np.outer(row, row)[None, :, :, None]).sum(axis=(1, 2))
    assert rel_l2(blur(x=x), expected) < 3e-6
    assert bool(mx.array_equal(BlurDownsample(1)(x=x), x).item())


def test_video_is_upsampled_outside_the_encoders_statistics() -> None:
    encoder, upsampler = randomized(VideoEncoder(VIDEO)), randomized(LatentUpsampler(UPSAMPLER))
    z = normal(1, 2, 2, 2, 16)
    statistics = encoder.per_channel_statistics
    expected = statistics.normalize(upsampler(statistics.un_normalize(z)))
    assert bool(mx.array_equal(upsample_video(z, encoder, upsampler), expected).item())


@pytest.mark.parametrize(
    "changes",
    [{"spatial_scale": 3.0}, {"mid_channels": 48}, {"spatial_upsample": False}],
)
def test_a_config_that_makes_no_upsampler_is_refused(changes: dict[str, Any]) -> None:
    config = {**asdict(UPSAMPLER), "_class_name": "LatentUpsampler"}
    assert UpsamplerConfig.from_official(config) == UPSAMPLER
    with pytest.raises(ConfigError, match=next(iter(changes))):
        UpsamplerConfig.from_official({**config, **changes})


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spatial_scale is 3\.0"):
        LatentUpsampler(replace(UPSAMPLER, rational_resampler=True, spatial_scale=3.0))
    with pytest.raises(ValueError, match="both false"):
        LatentUpsampler(replace(UPSAMPLER, spatial_upsample=False))
