"""The pointwise functions of the convolution networks.

MLX's CPU backend takes sines and exponentials one element at a time. There, where a compiler is at hand to make one
loop of them, they are rebuilt from operations that vectorise: six times faster, relative error below 1e-7.
"""

import math
import shutil
from functools import cache

import mlx.core as mx

from ltx_native.kernels import exp2

# sin(r)/r as a polynomial of r*r on [-pi/2, pi/2], lowest power first (Chebyshev fit, error 2e-11 in exact arithmetic)
_SINC = (0.9999999999829692, -0.16666666616917186, 8.3333309775001e-3, -1.9840861552736865e-4,
         2.752528709991164e-6, -2.3889497913880224e-8)  # fmt: skip
# pi in three parts: a whole multiple of the first is exact in float32
_PI = (3.140625, 9.67502593994140625e-4, 1.509957990978376432e-7)


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x)."""
    if not _compiles():
        return x * mx.sigmoid(x)
    return _fused_silu(x.astype(mx.float32)).astype(x.dtype)


def snake(x: mx.array, alpha: mx.array, scale: mx.array) -> mx.array:
    """x + scale * sin(alpha * x)^2."""
    if not _compiles():
        return x + scale * mx.square(mx.sin(x * alpha))
    return _fused_snake(*(a.astype(mx.float32) for a in (x, alpha, scale))).astype(x.dtype)


def _silu(x: mx.array) -> mx.array:
    return x / (1.0 + exp2(x * -math.log2(math.e)))


def _snake(x: mx.array, alpha: mx.array, scale: mx.array) -> mx.array:
    angle = x * alpha
    turns = mx.round(angle * (1 / math.pi))
    rest = angle
    for part in _PI:  # the square of the sine repeats after half a turn, whatever its sign
        rest = rest - turns * part
    square = rest * rest
    ratio = _SINC[-1] * square + _SINC[-2]
    for coefficient in _SINC[-3::-1]:
        ratio = ratio * square + coefficient
    return x + scale * (square * ratio * ratio)


_fused_silu, _fused_snake = mx.compile(_silu), mx.compile(_snake)


@cache
def _compiler() -> bool:
    return shutil.which("g++") is not None


def _compiles() -> bool:
    return mx.default_device().type == mx.DeviceType.cpu and _compiler()
