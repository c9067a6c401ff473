"""What a transformer block is given: the official ``TransformerArgs`` and the masks in it."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

# The smallest normal number and the largest number of each dtype; MLX's finfo has no ``tiny``.
TINY = {mx.float32: 2.0**-126, mx.bfloat16: 2.0**-126, mx.float16: 2.0**-14}


@dataclass(frozen=True)
class TransformerArgs:
    x: mx.array  # (B, T, D)
    context: mx.array  # (B, S, D)
    context_mask: mx.array | None  # additive, broadcastable to (B, H, T, S)
    timesteps: mx.array  # (B, rows, 9 * D); rows is T, 1 or K
    embedded_timestep: mx.array  # (B, rows, D)
    positional_embeddings: tuple[mx.array, mx.array]  # cos and sin, (B, H, T, D / (2 * H))
    cross_positional_embeddings: tuple[mx.array, mx.array] | None
    cross_scale_shift_timestep: mx.array | None  # (B, rows, 4 * D)
    cross_gate_timestep: mx.array | None  # (B, 1, D)
    enabled: bool
    prompt_timestep: mx.array | None = None  # (B, 1, 2 * D)
    self_attention_mask: mx.array | None = None  # additive, (B, 1, T, T)
    timestep_rows: mx.array | None = None  # (T,) when rows is K
    context_rows: mx.array | None = None  # (B,): which row of ``context`` each sample reads, where samples share them


def context_bias(mask: mx.array | None, dtype: mx.Dtype) -> mx.array | None:
    """Additive bias (B, 1, 1, S) of a text mask; a floating-point mask is a bias already."""
    if mask is None or mx.issubdtype(mask.dtype, mx.floating):
        return mask
    bias = (mask.astype(mx.int32) - 1).astype(dtype).reshape(mask.shape[0], 1, -1, mask.shape[-1])
    return bias * mx.array(mx.finfo(dtype).max, dtype=dtype)


def self_attention_bias(mask: mx.array | None, dtype: mx.Dtype) -> mx.array | None:
    """Additive bias (B, 1, T, T) of weights in [0, 1]: log(weight), and the dtype's lowest number where it is 0."""
    if mask is None:
        return None
    log = mx.log(mx.maximum(mask, TINY[dtype])).astype(dtype)
    return mx.where(mask > 0, log, mx.array(mx.finfo(dtype).min, dtype=dtype))[:, None]
