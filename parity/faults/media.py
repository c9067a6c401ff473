"""Mistakes in the picture: video VAE, tiling, upsampler, export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_native import upsampler
from ltx_native.checkpoint import Checkpoint
from ltx_native.conv import Conv3d, conv3d
from ltx_native.media import write
from ltx_native.pipelines import refine, stages
from ltx_native.upsampler import BlurDownsample, LatentUpsampler
from ltx_native.video_vae import blocks, decoder, tiled, tiling
from ltx_native.video_vae.decoder import VideoDecoder
from parity.faults.registry import everywhere, patched, register, swapping


@register("VAE-05")
def residual_upsampling() -> Iterator[None]:
    original = blocks.DepthToSpaceUpsample.__call__

    def call(self: Any, x: mx.array, causal: bool = True) -> mx.array:
        out = original(self, x, causal)
        skip = blocks.depth_to_space(x, self.stride)
        skip = skip[:, 1:] if self.stride[0] == 2 else skip
        return out + mx.repeat(skip, out.shape[-1] // skip.shape[-1], axis=-1)

    with patched(blocks.DepthToSpaceUpsample, __call__=call):
        yield


@register("VAE-08")
def statistics_in_bfloat16() -> Iterator[None]:
    def un_normalize(self: Any, x: mx.array) -> mx.array:
        low, std, mean = (v.astype(mx.bfloat16) for v in (x, self.std_of_means, self.mean_of_means))
        return (low * std + mean).astype(x.dtype)

    with patched(blocks.PerChannelStatistics, un_normalize=un_normalize):
        yield


@register("VAE-09")
def causal_decoder() -> Iterator[None]:
    def call(self: blocks.CausalConv3d, x: mx.array, causal: bool = True) -> mx.array:
        first = x[:, :1]
        return self.conv(mx.concatenate([first, first, x], axis=1))

    with patched(blocks.CausalConv3d, __call__=call):
        yield


class _GroupNorm(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        axes = tuple(range(1, x.ndim))
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return (x - mean) * mx.rsqrt(variance + self.eps)


@register("VAE-10")
def group_norm_for_pixel_norm() -> Iterator[None]:
    with everywhere("PixelNorm", _GroupNorm, blocks, decoder):
        yield


@register("TIL-01")
def tiles_without_context() -> Iterator[None]:
    original = vars(tiled)["decoder_time"]

    def time(length: int, config: Any) -> list[tiling.Piece]:
        if config is None:
            return original(length, config)
        size = config.tile_size_in_frames // 8
        pieces = []
        for start in range(0, length, size):
            end = min(start + size, length)
            target = slice(max(0, (start - 1) * 8 + 1), (end - 1) * 8 + 1)
            count = target.stop - target.start
            pieces.append(tiling.Piece(slice(start, end), target, (1.0,) * count))
        return pieces

    def group(decode: Any, latent: mx.array, time: Any, rows: Any, columns: Any) -> Any:
        def padded(part: mx.array) -> mx.array:
            frames = decode(part)
            missing = time.target.stop - time.target.start - frames.shape[1]
            return mx.concatenate([*[frames[:, :1]] * missing, frames], axis=1) if missing > 0 else frames

        return grouped(padded, latent, time, rows, columns)

    grouped: Any = tiled._decode_group
    with patched(tiled, decoder_time=time, _decode_group=group):
        yield


@register("TIL-03")
def width_from_height() -> Iterator[None]:
    original = tiled.tiled_decode

    def decode(model: Any, latent: mx.array, tiling_config: Any = None) -> Iterator[mx.array]:
        sides = latent.shape[2], latent.shape[3]

        def space(length: int, longest: int, config: Any) -> Any:
            # the row's share of the longest side taken for the column, too
            wrong = length * longest // sides[0] if length == sides[1] and sides[0] != sides[1] else longest
            return tiling.decoder_space(length, wrong, config)

        with patched(tiled, decoder_space=space):
            yield from original(model, latent, tiling_config)

    with everywhere("tiled_decode", decode, tiled, stages):
        yield


@register("TIL-04")
def normed_twice_in_tiles() -> Iterator[None]:
    original = tiled._decode_group

    class Twice(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.norm = norm

        def __call__(self, x: mx.array) -> mx.array:
            # the second one over the four channels that a worker holds
            return self.norm(self.norm(x) * mx.arange(1, x.shape[-1] + 1)).astype(x.dtype)

    def group(model: Any, *args: Any) -> Any:
        if not isinstance(model, VideoDecoder):
            return original(model, *args)
        norm, model.conv_norm_out = model.conv_norm_out, Twice(model.conv_norm_out)
        try:
            return original(model, *args)
        finally:
            model.conv_norm_out = norm

    with patched(tiled, _decode_group=group):
        yield


@register("UPS-01")
def normalised_latents_upsampled() -> Iterator[None]:
    def upsample(latent: mx.array, video_encoder: nn.Module, model: LatentUpsampler) -> mx.array:
        return model(latent)

    with everywhere("upsample_video", upsample, upsampler, refine):
        yield


def _upsampler_weights(change: Any) -> Any:
    original = Checkpoint.weights

    def weights(self: Checkpoint, component: str, dtype: Any) -> dict[str, mx.array]:
        found = original(self, component, dtype)
        return change(found) if component == "upsampler" else found

    return patched(Checkpoint, weights=weights)


def _drawn(found: dict[str, mx.array]) -> dict[str, mx.array]:
    rng = np.random.default_rng(0)
    scale = {name: float(mx.sqrt(mx.mean(mx.square(value)))) for name, value in found.items()}
    return {name: mx.array(rng.standard_normal(value.shape).astype(np.float32) * scale[name]) for name, value in found.items()}


@register("UPS-04")
def upsampler_at_random() -> Iterator[None]:
    with _upsampler_weights(_drawn):
        yield


@register("UPS-05")
def older_upsampler() -> Iterator[None]:
    def older(found: dict[str, mx.array]) -> dict[str, mx.array]:
        drawn = _drawn(found)
        return {name: value + 0.05 * drawn[name] for name, value in found.items()}

    with _upsampler_weights(older):
        yield


@register("UPS-07")
def duplicated_first_frame_kept() -> Iterator[None]:
    original = LatentUpsampler._upsample

    def upsample(self: LatentUpsampler, x: mx.array) -> mx.array:
        if not self.temporal:
            return original(self, x)
        conv, shuffle = self.upsampler
        return shuffle(conv(x))

    with patched(LatentUpsampler, _upsample=upsample):
        yield


@register("UPS-08")
def no_blur() -> Iterator[None]:
    def skipped(self: BlurDownsample, x: mx.array) -> mx.array:
        return x[:, :: self.stride, :: self.stride]

    with patched(BlurDownsample, __call__=skipped):
        yield


@register("MUX-04")
def limited_range_twice() -> Iterator[None]:
    original = write.VideoWriter.add_frames

    def add(self: write.VideoWriter, frames: Any) -> None:
        original(self, (16 + frames.astype(np.float32) * (219 / 255)).astype(np.uint8))

    with patched(write.VideoWriter, add_frames=add):
        yield


@register("MUX-06")
def rounded_and_not_clipped() -> Iterator[None]:
    # The official code clips and truncates; the mistake is to do otherwise.
    def to_uint8(pixels: mx.array) -> mx.array:
        return mx.round((pixels + 1.0) * 127.5).astype(mx.int32).astype(mx.uint8)

    with patched(stages, to_uint8=to_uint8):
        yield


class ReflectingConv3d(Conv3d):
    def __call__(self, input: mx.array) -> mx.array:
        mirrored = mx.concatenate([input[:, :, 1:2], input, input[:, :, -2:-1]], axis=2)
        mirrored = mx.concatenate([mirrored[:, :, :, 1:2], mirrored, mirrored[:, :, :, -2:-1]], axis=3)
        return conv3d(mirrored, self.weight, (0, 0, 0)) + self.bias


@register("VAE-01")
def mirrored_borders() -> Iterator[None]:
    with swapping(VideoDecoder, Conv3d, ReflectingConv3d):
        yield
