"""The video VAE: shapes, names, causality, layout, and tiles that add up to the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from ltx_native import conv
from ltx_native.video_vae import (
    SpatialTilingConfig,
    TemporalTilingConfig,
    TilingConfig,
    VideoDecoder,
    VideoEncoder,
    tiled_decode,
    tiled_encode,
)
from ltx_native.video_vae import tiling as tiles
from ltx_native.video_vae.blocks import depth_to_space, patchify, space_to_depth, unpatchify
from tests.native.media_networks import VIDEO, normal, randomized, rel_l2

SPATIAL = SpatialTilingConfig(64, 32)
TEMPORAL = TemporalTilingConfig(16, 8)


@pytest.fixture(scope="module")
def decoder() -> VideoDecoder:
    return randomized(VideoDecoder(VIDEO))


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return randomized(VideoEncoder(VIDEO))


@pytest.mark.parametrize("frames", [1, 3])
def test_decoder_shape(decoder: VideoDecoder, frames: int) -> None:
    assert decoder(sample=normal(1, frames, 2, 3, 16)).shape == (1, 8 * (frames - 1) + 1, 64, 96, 3)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (9, 2), (12, 2), (17, 3)])
def test_encoder_shape_and_cut_to_whole_latent_frames(encoder: VideoEncoder, frames: int, latents: int) -> None:
    x = normal(1, frames, 32, 64, 3)
    out = encoder(sample=x)
    assert out.shape == (1, latents, 1, 2, 16)
    assert bool(mx.array_equal(out, encoder(sample=x[:, : 8 * (latents - 1) + 1])).item())


def test_encoder_does_not_look_ahead(encoder: VideoEncoder) -> None:
    x = normal(1, 17, 32, 32, 3)
    changed = mx.concatenate([x[:, :9], x[:, 9:] + 1], axis=1)
    before, after = encoder(x), encoder(changed)
    assert rel_l2(after[:, :2], before[:, :2]) < 3e-6
    assert rel_l2(after[:, 2:], before[:, 2:]) > 1e-2


def test_decoder_looks_ahead(decoder: VideoDecoder) -> None:
    z = normal(1, 3, 1, 1, 16)
    changed = mx.concatenate([z[:, :2], z[:, 2:] + 1], axis=1)
    assert rel_l2(decoder(changed)[:, :9], decoder(z)[:, :9]) > 1e-3


@pytest.mark.parametrize("unfolded_bytes", [0, 200_000])
def test_small_pieces_change_nothing(
    monkeypatch: pytest.MonkeyPatch, decoder: VideoDecoder, encoder: VideoEncoder, unfolded_bytes: int
) -> None:
    z, x = normal(2, 3, 2, 2, 16), normal(2, 9, 32, 64, 3)
    decoded, encoded = decoder(z), encoder(x)
    mx.eval(decoded, encoded)
    monkeypatch.setattr(conv, "PIECE_BYTES", 2000)
    monkeypatch.setattr(conv, "UNFOLDED_BYTES", unfolded_bytes)
    assert rel_l2(decoder(z), decoded) < 3e-6
    assert rel_l2(encoder(x), encoded) < 3e-6


def test_batches_do_not_mix(decoder: VideoDecoder, encoder: VideoEncoder) -> None:
    for network, x in ((decoder, normal(2, 2, 2, 2, 16)), (encoder, normal(2, 9, 32, 32, 3))):
        one_by_one = mx.concatenate([network(x[:1]), network(x[1:])])
        assert rel_l2(network(x), one_by_one) < 3e-6


def test_parameters_bear_the_official_names(decoder: VideoDecoder, encoder: VideoEncoder) -> None:
    names = {name for name, _ in tree_flatten(decoder.parameters())}
    assert {
        "per_channel_statistics.std_of_means",
        "conv_in.conv.weight",
        "up_blocks.0.res_blocks.0.conv1.conv.bias",
        "up_blocks.1.conv.conv.weight",
        "conv_out.conv.bias",
    } <= names
    assert not [n for n in names if "norm" in n], "pixel norms have no weights"
    names = {name for name, _ in tree_flatten(encoder.parameters())}
    assert {"down_blocks.0.res_blocks.0.conv2.conv.weight", "down_blocks.1.conv.conv.bias"} <= names


def test_everything_stays_in_bfloat16() -> None:
    decoder = randomized(VideoDecoder(VIDEO), dtype=mx.bfloat16)
    exact = randomized(VideoDecoder(VIDEO))
    z = normal(1, 2, 2, 2, 16)
    out = decoder(z.astype(mx.bfloat16))
    assert out.dtype == mx.bfloat16
    assert rel_l2(out.astype(mx.float32), exact(z)) < 0.05


def test_statistics_are_undone(encoder: VideoEncoder) -> None:
    statistics, x = encoder.per_channel_statistics, normal(1, 2, 2, 2, 16)
    assert rel_l2(statistics.un_normalize(statistics.normalize(x)), x) < 3e-6
    expected = np.asarray(x) * np.asarray(statistics.std_of_means) + np.asarray(statistics.mean_of_means)
    assert rel_l2(statistics.un_normalize(x), expected) < 3e-6


def test_places_fold_into_channels_in_the_official_order() -> None:
    x = np.asarray(normal(1, 2, 4, 6, 3))
    folded = np.asarray(space_to_depth(mx.array(x), (2, 2, 2)))
    for c in range(3):
        for p, q, r in np.ndindex(2, 2, 2):  # channel, then frame, row and column offset
            assert np.array_equal(folded[..., ((c * 2 + p) * 2 + q) * 2 + r], x[:, p::2, q::2, r::2, c])
    assert np.array_equal(np.asarray(depth_to_space(mx.array(folded), (2, 2, 2))), x)

    patches = np.asarray(patchify(mx.array(x[:, :, :4, :4]), 4))
    for c in range(3):
        for q, r in np.ndindex(4, 4):  # the column offset comes before the row offset
            assert np.array_equal(patches[..., (c * 4 + r) * 4 + q], x[:, :, q:4:4, r:4:4, c])
    assert np.array_equal(np.asarray(unpatchify(mx.array(patches), 4)), x[:, :, :4, :4])


class Repeat:
    """A decoder without a neighbourhood: a pixel is its latent's first three channels, so tiles must add up exactly."""

    def __call__(self, sample: mx.array) -> mx.array:
        x = sample[..., :3]
        x = mx.concatenate([x[:, :1], mx.repeat(x[:, 1:], 8, axis=1)], axis=1)
        return mx.repeat(mx.repeat(x, 32, axis=2), 32, axis=3)


class Pick:
    """The encoder that goes with it."""

    latent_channels = 3

    def __call__(self, sample: mx.array) -> mx.array:
        return sample[:, ::8, ::32, ::32]


def spatial() -> st.SearchStrategy[SpatialTilingConfig | None]:
    return st.sampled_from([None, *(SpatialTilingConfig(s, o) for s, o in ((64, 0), (64, 32), (96, 64), (128, 32)))])


def temporal() -> st.SearchStrategy[TemporalTilingConfig | None]:
    return st.sampled_from([None, *(TemporalTilingConfig(s, o) for s, o in ((16, 0), (16, 8), (24, 8), (32, 24)))])


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 9), height=st.integers(1, 5), width=st.integers(1, 5), space=spatial(), time=temporal())
def test_tiles_add_up_to_the_whole(
    frames: int, height: int, width: int, space: SpatialTilingConfig | None, time: TemporalTilingConfig | None
) -> None:
    z = normal(1, frames, height, width, 4)
    whole: Any = Repeat()
    chunks = list(tiled_decode(whole, z, TilingConfig(space, time)))
    assert all(chunk.shape[1] > 0 for chunk in chunks)
    assert rel_l2(mx.concatenate(chunks, axis=1), whole(z)) < 3e-6


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(0, 5), height=st.integers(1, 6), width=st.integers(1, 6), space=spatial(), time=temporal())
def test_encoder_tiles_cover_every_latent_once(
    frames: int, height: int, width: int, space: SpatialTilingConfig | None, time: TemporalTilingConfig | None
) -> None:
    if space is not None and space.tile_size_in_pixels <= tiles.MIN_ENCODER_OVERLAP_PX:
        space = None
    if time is not None and time.tile_size_in_frames <= max(tiles.MIN_ENCODER_OVERLAP_FRAMES, time.tile_overlap_in_frames):
        time = None
    video = normal(1, 8 * frames + 1, 32 * height, 32 * width, 3)
    whole: Any = Pick()
    assert rel_l2(tiled_encode(whole, video, TilingConfig(space, time)), whole(video)) < 3e-6


def test_one_tile_is_the_plain_decode(decoder: VideoDecoder, encoder: VideoEncoder) -> None:
    z = normal(1, 2, 2, 2, 16)
    (chunk,) = tiled_decode(decoder, z, TilingConfig.default())
    assert rel_l2(chunk, decoder(z)) < 3e-6
    (chunk,) = tiled_decode(decoder, z)
    assert bool(mx.array_equal(chunk, decoder(z)).item())
    x = normal(1, 9, 64, 64, 3)
    assert rel_l2(tiled_encode(encoder, x, TilingConfig.default()), encoder(x)) < 3e-6


def test_tiled_decode_streams(decoder: VideoDecoder) -> None:
    """A chunk is out before the later tiles are decoded."""
    calls: list[tuple[int, ...]] = []

    def counting(sample: mx.array) -> mx.array:
        calls.append(sample.shape)
        return decoder(sample)

    network: Any = counting
    chunks: Iterator[mx.array] = tiled_decode(network, normal(1, 6, 2, 2, 16), TilingConfig(None, TEMPORAL))
    next(chunks)
    first = len(calls)
    rest = list(chunks)
    assert 0 < first < len(calls)
    assert rest


def test_the_default_tiling_is_the_official_one() -> None:
    config = TilingConfig.default()
    # 97 frames of 480x704: latents 13 x 15 x 22; worked out by hand from the official rules
    time = tiles.decoder_time(13, config.temporal_config)
    assert [(p.source.start, p.source.stop, p.target.start, p.target.stop) for p in time] == [(0, 8, 0, 57), (4, 13, 32, 97)]
    rows = tiles.decoder_space(15, 22, config.spatial_config)
    columns = tiles.decoder_space(22, 22, config.spatial_config)
    assert [(p.source.start, p.source.stop) for p in rows] == [(0, 11), (9, 15)]
    assert [(p.source.start, p.source.stop) for p in columns] == [(0, 16), (14, 22)]
    assert time[1].weights[0] == 0.0
    assert rows[1].weights[:2] == pytest.approx((1 / 65, 2 / 65))


@pytest.mark.parametrize(("size", "overlap"), [(32, 0), (100, 0), (64, 64), (64, 16), (64, -32)])
def test_impossible_tiles_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        SpatialTilingConfig(size, overlap)
    with pytest.raises(ValueError, match="expected"):
        TemporalTilingConfig(12, 0)


def test_encoder_tiles_as_large_as_their_overlap_are_refused(encoder: VideoEncoder) -> None:
    with pytest.raises(ValueError, match="larger tile"):
        tiled_encode(encoder, normal(1, 1, 96, 96, 3), TilingConfig(SPATIAL))
