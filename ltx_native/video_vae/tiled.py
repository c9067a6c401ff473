"""Decoding and encoding in overlapping tiles: long and large clips in little memory, frames as soon as they are final."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import mlx.core as mx

from ltx_native.video_vae.decoder import VideoDecoder
from ltx_native.video_vae.encoder import VideoEncoder
from ltx_native.video_vae.tiling import (
    SPACE_SCALE,
    Piece,
    TilingConfig,
    decoder_space,
    decoder_time,
    encoder_space,
    encoder_time,
)

SMALLEST_WEIGHT = 1e-8


def tiled_decode(decoder: VideoDecoder, latent: mx.array, tiling_config: TilingConfig | None = None) -> Iterator[mx.array]:
    """(1, F, H, W, 128) latents -> chunks (1, n, 32H, 32W, 3) of pixels around [-1, 1] that follow each other in time.

    Without a config the whole clip is one chunk.
    """
    if tiling_config is None:
        yield decoder(latent)
        return
    _, frames, height, width, _ = latent.shape
    space = tiling_config.spatial_config
    rows, columns = (decoder_space(n, max(height, width), space) for n in (height, width))

    # A chunk is final up to where the next one begins; what they share is added up before it is divided by the weights.
    pending: tuple[mx.array, mx.array, int] | None = None  # weighted pixels, weights, first frame
    for time in decoder_time(frames, tiling_config.temporal_config):
        pixels, weights = _decode_group(decoder, latent, time, rows, columns)
        start = time.target.start
        if pending is not None:
            old_pixels, old_weights, old_start = pending
            done = start - old_start
            shared = old_pixels.shape[1] - done
            pixels = _add_in_front(pixels, old_pixels[:, done:], shared)
            weights = _add_in_front(weights, old_weights[:, done:], shared)
            if done > 0:  # an overlap of all but one latent frame finishes nothing at the first step
                yield _divide(old_pixels[:, :done], old_weights[:, :done], latent.dtype)
        mx.eval(pixels, weights)
        pending = (pixels, weights, start)
    if pending is not None:
        yield _divide(pending[0], pending[1], latent.dtype)


def _decode_group(
    decoder: VideoDecoder, latent: mx.array, time: Piece, rows: list[Piece], columns: list[Piece]
) -> tuple[mx.array, mx.array]:
    """All tiles of one stretch of time, weighted and added up: pixels (1, n, H, W, 3) and weights (1, n, H, W, 1)."""
    count = time.target.stop - time.target.start
    height, width = (side[-1].target.stop for side in (rows, columns))
    pixels = mx.zeros((latent.shape[0], count, height, width, 3))
    weights = mx.zeros((1, count, height, width, 1))
    for row, column in product(rows, columns):
        tile = decoder(latent[:, time.source, row.source, column.source])
        mask = _outer(time, row, column)
        at = (slice(None), slice(None), row.target, column.target)
        pixels[at] = pixels[at] + tile.astype(mx.float32) * mask
        weights[at] = weights[at] + mask
        del tile
        mx.eval(pixels, weights)
    return pixels, weights


def tiled_encode(encoder: VideoEncoder, video: mx.array, tiling_config: TilingConfig | None = None) -> mx.array:
    """(1, F, H, W, 3) pixels in [-1, 1] -> (1, (F-1)/8+1, H/32, W/32, 128) latents; frames beyond 8k + 1 are cut."""
    if tiling_config is None:
        return encoder(video)
    video = video[:, : (video.shape[1] - 1) // 8 * 8 + 1]
    batch, frames, height, width, _ = video.shape
    times = encoder_time(frames, tiling_config.temporal_config)
    rows, columns = (encoder_space(n, tiling_config.spatial_config) for n in (height, width))
    shape = (times[-1].target.stop, height // SPACE_SCALE, width // SPACE_SCALE)
    latent = mx.zeros((batch, *shape, encoder.latent_channels))
    weights = mx.zeros((1, *shape, 1))
    for time, row, column in product(times, rows, columns):
        tile = encoder(video[:, time.source, row.source, column.source])
        mask = _outer(time, row, column)
        at = (slice(None), time.target, row.target, column.target)
        latent[at] = latent[at] + tile.astype(mx.float32) * mask
        weights[at] = weights[at] + mask
        mx.eval(latent, weights)
    return _divide(latent, weights, video.dtype)


def _outer(time: Piece, row: Piece, column: Piece) -> mx.array:
    t, h, w = (mx.array(piece.weights, dtype=mx.float32) for piece in (time, row, column))
    return t[None, :, None, None, None] * h[:, None, None] * w[:, None]  # (1, n, H, W, 1)


def _add_in_front(new: mx.array, old: mx.array, count: int) -> mx.array:
    return mx.concatenate([old + new[:, :count], new[:, count:]], axis=1) if count > 0 else new


def _divide(total: mx.array, weights: mx.array, dtype: mx.Dtype) -> mx.array:
    return (total / mx.maximum(weights, SMALLEST_WEIGHT)).astype(dtype)
