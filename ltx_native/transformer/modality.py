"""What the transformer is given for one modality."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Modality:
    """Tokens of one modality with their noise levels, places and text.

    ``timesteps`` holds sigma x denoise mask: one value per token (B, T, 1), or fewer. (B, 1, 1) says that every token
    of a sample shares one value; (B, K, 1) together with ``timestep_rows`` (T,) says which of K values a token has.
    AdaLN then works on 1 or K rows instead of T.
    """

    latent: mx.array  # (B, T, C)
    sigma: mx.array  # (B,)
    timesteps: mx.array  # (B, T, 1), (B, 1, 1) or (B, K, 1)
    positions: mx.array  # (B, axes, T, 2), start and end
    context: mx.array  # (B, S, D)
    enabled: bool = True
    context_mask: mx.array | None = None  # (B, S), integers, 1 = valid; floating point = additive bias
    attention_mask: mx.array | None = None  # (B, T, T) in [0, 1]
    timestep_rows: mx.array | None = None  # (T,) integers in [0, K)
