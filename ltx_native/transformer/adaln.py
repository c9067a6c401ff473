"""AdaLN-single: a noise level becomes the shifts, scales and gates of every block (PixArt-alpha, section 2.3)."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_native.layers import Linear

TIMESTEP_CHANNELS = 256
MAX_PERIOD = 10000

# Frequencies in float32 exactly as the official code rounds them: a last-bit error times a timestep of 1000 would show.
_EXPONENT = np.float32(-math.log(MAX_PERIOD)) * np.arange(TIMESTEP_CHANNELS // 2, dtype=np.float32)
_EXPONENT = _EXPONENT / np.float32(TIMESTEP_CHANNELS // 2)
FREQUENCIES = np.exp(_EXPONENT.astype(np.float64)).astype(np.float32)


class Timesteps(nn.Module):
    def __call__(self, timesteps: mx.array) -> mx.array:
        angle = timesteps[:, None].astype(mx.float32) * mx.array(FREQUENCIES)
        return mx.concatenate([mx.cos(angle), mx.sin(angle)], axis=-1)  # (N, 256)


class TimestepEmbedding(nn.Module):
    def __init__(self, in_channels: int, time_embed_dim: int):
        super().__init__()
        self.linear_1 = Linear(in_channels, time_embed_dim)
        self.linear_2 = Linear(time_embed_dim, time_embed_dim)

    def __call__(self, sample: mx.array, condition: None = None) -> mx.array:
        return self.linear_2(nn.silu(self.linear_1(sample)))


class PixArtAlphaCombinedTimestepSizeEmbeddings(nn.Module):
    def __init__(self, embedding_dim: int):
        super().__init__()
        self.time_proj = Timesteps()
        self.timestep_embedder = TimestepEmbedding(TIMESTEP_CHANNELS, embedding_dim)

    def __call__(self, timestep: mx.array, hidden_dtype: mx.Dtype) -> mx.array:
        return self.timestep_embedder(self.time_proj(timestep).astype(hidden_dtype))  # (N, D)


class AdaLayerNormSingle(nn.Module):
    def __init__(self, embedding_dim: int, embedding_coefficient: int):
        super().__init__()
        self.emb = PixArtAlphaCombinedTimestepSizeEmbeddings(embedding_dim)
        self.linear = Linear(embedding_dim, embedding_coefficient * embedding_dim)

    def __call__(self, timestep: mx.array, hidden_dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        embedded_timestep = self.emb(timestep, hidden_dtype=hidden_dtype)
        return self.linear(nn.silu(embedded_timestep)), embedded_timestep  # (N, rows * D), (N, D)
