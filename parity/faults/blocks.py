"""Mistakes in one loaded native transformer block, for comparisons that hold a single block at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from ltx_native.layers import Attention
from ltx_native.rope import FreqsCis
from ltx_native.transformer.block import BasicAVTransformerBlock


def weight_slice(block: BasicAVTransformerBlock) -> None:
    """The first two heads' rows of one projection in each other's place (packed, scales and biases alike)."""
    layer, rows = block.attn1.to_q, block.attn1.dim_head
    names = [name for name in ("weight", "scales", "biases", "bias") if name in layer]
    for name in names:
        value = layer[name]
        layer[name] = mx.concatenate([value[rows : 2 * rows], value[:rows], value[2 * rows :]])


def norm_eps(block: BasicAVTransformerBlock) -> None:
    """The block's own normalisations with eps 1e-3."""
    block.norm_eps = 1e-3


def no_gate(block: BasicAVTransformerBlock) -> None:
    """Audio-to-video attention without its gates."""
    block.audio_to_video_attn.to_gate_logits = None


class _Backwards(Attention):
    def __call__(self, x: mx.array, pe: FreqsCis | None = None, **kwargs: Any) -> mx.array:  # type: ignore[override]
        return super().__call__(x, pe=None if pe is None else (pe[0], -pe[1]), **kwargs)


def rope_backwards(block: BasicAVTransformerBlock) -> None:
    """Positions of the video's self-attention rotate the other way."""
    block.attn1.__class__ = _Backwards


Plant = Callable[[BasicAVTransformerBlock], None]
PLANTS: Mapping[str, Plant] = {
    "weight-slice": weight_slice,
    "norm-eps": norm_eps,
    "no-gate": no_gate,
    "rope-backwards": rope_backwards,
}


def parse_plant(text: str) -> tuple[str, int]:
    """`weight-slice:37` or `37` → (mistake, block). Raises ValueError naming the known mistakes."""
    name, _, number = text.rpartition(":")
    name = name or "weight-slice"
    if name not in PLANTS or not number.isdigit():
        raise ValueError(f"--plant: found {text!r}, expected BLOCK or NAME:BLOCK with NAME one of {', '.join(PLANTS)}")
    return name, int(number)
