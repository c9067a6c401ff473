"""Mistakes in rotary embeddings and in the positions that feed them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from ltx_native import conditioning, patchify, rope
from ltx_native.transformer import model as models
from ltx_native.transformer.args import TransformerArgs
from ltx_native.transformer.model import LTXModel
from parity.faults.registry import everywhere, patched, register


@register("ROP-02")
def one_head_for_all() -> Iterator[None]:
    original = rope.precompute_freqs_cis

    def precompute(indices_grid: mx.array, dim: int, *args: Any, **kwargs: Any) -> Any:
        heads = kwargs["num_attention_heads"]
        one = original(indices_grid, dim // heads, *args, **{**kwargs, "num_attention_heads": 1})
        return tuple(mx.repeat(table, heads, axis=1) for table in one)

    with patched(models, precompute_freqs_cis=precompute):
        yield


def _positions_in_model(change: Any) -> Any:
    """The transformer's rotary tables from changed positions: ``change(positions, axes, max_pos)``."""
    original = LTXModel._rope

    def tables(
        self: LTXModel, positions: mx.array, axes: int, dim: int, heads: int, max_pos: tuple[int, ...], dtype: mx.Dtype
    ) -> Any:
        changed, limits = change(positions, axes, max_pos)
        self._rope_tables.clear()  # the cache is by identity of the positions
        return original(self, changed, axes, dim, heads, limits, dtype)

    return patched(LTXModel, _rope=tables)


@register("ROP-04")
def positions_in_bfloat16() -> Iterator[None]:
    with _positions_in_model(lambda p, axes, limits: (p.astype(mx.bfloat16).astype(mx.float32), limits)):
        yield


@register("ROP-05")
def frame_rate_ignored() -> Iterator[None]:
    original = patchify.video_positions

    def positions(shape: Any, frame_rate: float, *args: Any, **kwargs: Any) -> mx.array:
        return original(shape, 24.0, *args, **kwargs)

    with everywhere("video_positions", positions, patchify, conditioning):
        yield


def _cross_tables(scale: float, limit: int | None) -> Any:
    """The audio-video tables of the audio stream (or with a limit: of both) made again with the mistake."""
    original = LTXModel._prepare

    def prepare(self: LTXModel, modality: Any, cross: Any, *args: Any) -> TransformerArgs:
        prepared = original(self, modality, cross, *args)
        audio = modality.positions.shape[1] == 1
        if not audio and limit is None:
            return prepared
        c = self.config
        default = max(c.positional_embedding_max_pos[0], c.audio_positional_embedding_max_pos[0])
        tables = rope.precompute_freqs_cis(
            modality.positions[:, :1] * scale,
            dim=c.audio_cross_attention_dim,
            out_dtype=modality.latent.dtype,
            theta=c.positional_embedding_theta,
            max_pos=(limit or default,),
            use_middle_indices_grid=True,
            num_attention_heads=c.num_attention_heads,
            rope_type=c.rope_type,
            freq_grid_generator=rope.generate_freq_grid_np,
        )
        return replace(prepared, cross_positional_embeddings=tables)

    return patched(LTXModel, _prepare=prepare)


@register("ROP-07")
def audio_time_scaled() -> Iterator[None]:
    with _cross_tables(4.0, None):
        yield


@register("ROP-09")
def cross_limit() -> Iterator[None]:
    with _cross_tables(1.0, 32):
        yield


@register("ROP-08")
def starts_of_intervals() -> Iterator[None]:
    original = rope.generate_freqs

    def freqs(indices: mx.array, indices_grid: mx.array, max_pos: Sequence[int], use_middle_indices_grid: bool) -> mx.array:
        return original(indices, indices_grid, max_pos, False)

    with patched(rope, generate_freqs=freqs):
        yield


@register("ROP-11")
def first_sample_for_all() -> Iterator[None]:
    original = rope.apply_split_rotary_emb

    def apply(input_tensor: mx.array, cos_freqs: mx.array, sin_freqs: mx.array) -> mx.array:
        return original(input_tensor, cos_freqs[:1], sin_freqs[:1])

    with patched(rope, apply_split_rotary_emb=apply):
        yield


@register("GUI-13")
def positions_of_the_first_half() -> Iterator[None]:
    with _positions_in_model(lambda p, axes, limits: (p[:1], limits)):
        yield
