"""Rotary position embeddings of LTX-2 (split and interleaved), with the frequency grid in float64.

Only the grid is double precision, as in the official code: it is rounded to float32 before it meets the positions.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import mlx.core as mx
import numpy as np

FreqsCis = tuple[mx.array, mx.array]
FreqGridGenerator = Callable[[float, int, int], mx.array]

ROPE_TYPES = ("split", "interleaved")


def apply_rotary_emb(input_tensor: mx.array, freqs_cis: FreqsCis, rope_type: str) -> mx.array:
    """(B, T, H*D) in; split with per-head frequencies gives (B, H, T, D), interleaved keeps (B, T, H*D)."""
    rotate = apply_split_rotary_emb if rope_type == "split" else apply_interleaved_rotary_emb
    return rotate(input_tensor, *freqs_cis)


def apply_split_rotary_emb(input_tensor: mx.array, cos_freqs: mx.array, sin_freqs: mx.array) -> mx.array:
    if input_tensor.ndim == 3 and cos_freqs.ndim == 4:
        b, t, _ = input_tensor.shape
        input_tensor = input_tensor.reshape(b, t, cos_freqs.shape[1], -1).swapaxes(1, 2)  # (B, H, T, D)
    first, second = mx.split(input_tensor, 2, axis=-1)
    return mx.concatenate(
        [first * cos_freqs - second * sin_freqs, second * cos_freqs + first * sin_freqs], axis=-1
    )  # (B, H, T, D)


def apply_interleaved_rotary_emb(input_tensor: mx.array, cos_freqs: mx.array, sin_freqs: mx.array) -> mx.array:
    pairs = input_tensor.reshape(*input_tensor.shape[:-1], -1, 2)
    rotated = mx.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(input_tensor.shape)
    return input_tensor * cos_freqs + rotated * sin_freqs


@lru_cache(maxsize=16)
def generate_freq_grid_np(theta: float, n_pos_dims: int, inner_dim: int) -> mx.array:
    """pi/2 * theta^[0..1], geometric, in float64 and then rounded: (inner_dim // (2*n_pos_dims),) float32."""
    stop = np.log(theta) / np.log(theta)
    exponents = np.linspace(0.0, stop, inner_dim // (2 * n_pos_dims), dtype=np.float64)
    return mx.array((np.power(theta, exponents) * math.pi / 2).astype(np.float32))


@lru_cache(maxsize=16)
def generate_freq_grid_float32(theta: float, n_pos_dims: int, inner_dim: int) -> mx.array:
    """The same grid when the checkpoint does not ask for float64: every step rounds to float32."""
    count = inner_dim // (2 * n_pos_dims)
    index = np.arange(count)
    # torch.linspace counts from both ends and fuses the multiply-add, which decides the last bit of the upper half
    step = float(np.float32(1 / max(count - 1, 1)))
    exponents = np.where(index < count // 2, step * index, 1 - step * (count - 1 - index)) if count > 1 else index * 0.0
    powers = np.power(theta, exponents.astype(np.float32).astype(np.float64)).astype(np.float32)
    return mx.array(powers * np.float32(math.pi) / np.float32(2))


def generate_freqs(
    indices: mx.array, indices_grid: mx.array, max_pos: Sequence[int], use_middle_indices_grid: bool
) -> mx.array:
    """Angles of every token: indices_grid (B, n, T) or (B, n, T, 2) -> (B, T, n * len(indices)) float32."""
    if use_middle_indices_grid:
        indices_grid = (indices_grid[..., 0] + indices_grid[..., 1]) / 2.0  # (B, n, T)
    elif indices_grid.ndim == 4:
        indices_grid = indices_grid[..., 0]
    if indices_grid.shape[1] != len(max_pos):
        raise ValueError(f"positions have {indices_grid.shape[1]} dimensions, max_pos has {len(max_pos)}: {max_pos}")
    # the positions keep their dtype until they meet the float32 grid: bf16 positions round here, as officially
    fractional = mx.stack([indices_grid[:, i] / limit for i, limit in enumerate(max_pos)], axis=-1)  # (B, T, n)
    freqs = indices * (fractional[..., None] * 2 - 1)  # (B, T, n, frequencies)
    return freqs.swapaxes(-1, -2).flatten(2)  # frequency-major


def split_freqs_cis(freqs: mx.array, pad_size: int, num_attention_heads: int) -> FreqsCis:
    b, t, _ = freqs.shape

    def per_head(wave: mx.array, filler: float) -> mx.array:
        if pad_size:
            wave = mx.concatenate([mx.full((b, t, pad_size), filler, dtype=wave.dtype), wave], axis=-1)
        return wave.reshape(b, t, num_attention_heads, -1).swapaxes(1, 2)  # (B, H, T, D/2)

    return per_head(mx.cos(freqs), 1.0), per_head(mx.sin(freqs), 0.0)


def interleaved_freqs_cis(freqs: mx.array, pad_size: int) -> FreqsCis:
    b, t, _ = freqs.shape

    def twice(wave: mx.array, filler: float) -> mx.array:
        wave = mx.repeat(wave, 2, axis=-1)
        if pad_size:
            wave = mx.concatenate([mx.full((b, t, pad_size), filler, dtype=wave.dtype), wave], axis=-1)
        return wave  # (B, T, H*D)

    return twice(mx.cos(freqs), 1.0), twice(mx.sin(freqs), 0.0)


def precompute_freqs_cis(
    indices_grid: mx.array,
    dim: int,
    out_dtype: mx.Dtype,
    theta: float,
    max_pos: Sequence[int],
    use_middle_indices_grid: bool,
    num_attention_heads: int,
    rope_type: str,
    freq_grid_generator: FreqGridGenerator,
) -> FreqsCis:
    """cos and sin in out_dtype: (B, H, T, D/2) each when rope_type is split, (B, T, dim) each when interleaved."""
    n_pos_dims = indices_grid.shape[1]
    indices = freq_grid_generator(theta, n_pos_dims, dim)
    freqs = generate_freqs(indices, indices_grid, max_pos, use_middle_indices_grid)
    if rope_type == "split":
        cos, sin = split_freqs_cis(freqs, dim // 2 - freqs.shape[-1], num_attention_heads)
    elif rope_type == "interleaved":
        cos, sin = interleaved_freqs_cis(freqs, dim % (2 * n_pos_dims))
    else:
        raise ValueError(f"rope_type is {rope_type!r}, expected one of {ROPE_TYPES}")
    return cos.astype(out_dtype), sin.astype(out_dtype)
