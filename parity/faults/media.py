"""Mistakes between latents and media: video VAE, audio VAE, vocoder, export."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from ltx_native.audio_vae import generator
from ltx_native.video_vae import blocks
from parity.faults.registry import patched, register


@register("VAE-09", "video_decoder", "causal temporal padding in the decoder")
def causal_decoder() -> Iterator[None]:
    def call(self: blocks.CausalConv3d, x: mx.array, causal: bool = True) -> mx.array:
        first = x[:, :1]
        return self.conv(mx.concatenate([first, first, x], axis=1))

    with patched(blocks.CausalConv3d, __call__=call):
        yield


@register("VOC-08", "vocoder", "the snake activation's logarithmic parameters used without exp")
def snake_without_exp() -> Iterator[None]:
    def call(self: generator.SnakeBeta, x: mx.array) -> mx.array:
        return x + (1.0 / (self.beta + 1e-9)) * mx.square(mx.sin(x * self.alpha))

    with patched(generator.SnakeBeta, __call__=call):
        yield
