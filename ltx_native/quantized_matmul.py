"""x · Wᵀ for a quantised W: MLX's fused kernel, or W brought to float32 for one use and multiplied by BLAS.

On a GPU the kernel is the fast way. MLX's CPU kernel takes the rows of x one by one; from a few rows on, unpacking W once
(67 million weights: 0.1 s) and a BLAS product cost a fraction of it. Both agree to rounding. LTX_QUANTIZED=kernel or
dequantise forces one of them.
"""

from __future__ import annotations

import os

import mlx.core as mx

from ltx_native.errors import RequestError
from ltx_native.kernels import can_fuse, fused, on_cpu

WAYS = ("kernel", "dequantise")
FEW_ROWS = 4  # below that the kernel is faster on a CPU
_PER_WORD = (2, 4, 8)  # bits of which a 32-bit word holds a whole number


def quantized_matmul(x: mx.array, packed: mx.array, scales: mx.array, biases: mx.array, group_size: int, bits: int) -> mx.array:
    """x (..., in) by the transposed weight that `packed`, `scales` and `biases` (out, …) stand for: (..., out)."""
    rows = x.size // x.shape[-1]
    if _way(rows) == "kernel":
        return mx.quantized_matmul(x, packed, scales, biases, transpose=True, group_size=group_size, bits=bits)
    weight = dequantised_float32(packed, scales, biases, group_size, bits)
    return (x.astype(mx.float32) @ weight.T).astype(x.dtype)


def dequantised_float32(packed: mx.array, scales: mx.array, biases: mx.array, group_size: int, bits: int) -> mx.array:
    """The weight (out, in) in float32, bit for bit `mx.dequantize` of float32 scales and biases."""
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    if bits not in _PER_WORD or not can_fuse():
        return mx.dequantize(packed, scales, biases, group_size=group_size, bits=bits)
    shifts = mx.arange(0, 32, bits, dtype=mx.uint32)
    grouped = packed.reshape(*scales.shape, -1, 1)  # (out, groups, words, 1)
    weight = _unpack(grouped, shifts, mx.array((1 << bits) - 1, mx.uint32), scales[..., None, None], biases[..., None, None])
    return weight.reshape(packed.shape[0], -1)


@fused
def _unpack(words: mx.array, shifts: mx.array, mask: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
    return ((words >> shifts) & mask).astype(mx.float32) * scales + biases


def _way(rows: int) -> str:
    forced = os.environ.get("LTX_QUANTIZED")
    if forced is None:
        return "dequantise" if on_cpu() and rows >= FEW_ROWS else "kernel"
    if forced not in WAYS:
        raise RequestError(
            "Unknown way to multiply quantised weights", "LTX_QUANTIZED", forced, " or ".join(WAYS), "Correct it"
        )
    return forced
