"""The pointwise functions of the convolution networks.

MLX's CPU backend takes sines and exponentials one element at a time. There, where a compiler is at hand to make one
loop of them, they are rebuilt from operations that vectorise: six times faster, relative error below 1e-7.
"""

import math
import shutil
from functools import cache

import mlx.core as mx

# 2^f on [-1/2, 1/2], lowest power first (Chebyshev fit, relative error 2e-9 in exact arithmetic)
_EXP2 = (1.0, 0.6931472028550421, 0.2402264791363012, 5.550332471162809e-2, 9.618437357674640e-3,
         1.339887440266574e-3, 1.535336188319500e-4)  # fmt: skip
# sin(r)/r as a polynomial of r*r on [-pi/2, pi/2], lowest power first (Chebyshev fit, error 2e-11 in exact arithmetic)
_SINC = (0.9999999999829692, -0.16666666616917186, 8.3333309775001e-3, -1.9840861552736865e-4,
         2.752528709991164e-6, -2.3889497913880224e-8)  # fmt: skip
# pi in three parts: a whole multiple of the first is exact in float32
_PI = (3.140625, 9.67502593994140625e-4, 1.509957990978376432e-7)

_ROUND = 1.5 * 2**23  # added to a float32 and taken away again, it leaves the nearest integer


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
    # exp(-x) as 2^whole * 2^part; `whole` goes where float32 keeps its exponent, which holds -126 to 127
    power = mx.clip(x * -math.log2(math.e), -126.0, 126.0)
    whole = (power + _ROUND) - _ROUND
    exp = _polynomial(_EXP2, power - whole) * mx.view((whole.astype(mx.int32) + 127) << 23, mx.float32)
    return x / (1.0 + exp)


def _snake(x: mx.array, alpha: mx.array, scale: mx.array) -> mx.array:
    angle = x * alpha
    turns = (angle * (1 / math.pi) + _ROUND) - _ROUND
    rest = angle
    for part in _PI:  # the square of the sine repeats after half a turn, whatever its sign
        rest = rest - turns * part
    square = rest * rest
    ratio = _polynomial(_SINC, square)
    return x + scale * (square * ratio * ratio)


def _polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    total = coefficients[-1] * x + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        total = total * x + coefficient
    return total


_fused_silu, _fused_snake = mx.compile(_silu), mx.compile(_snake)


@cache
def _compiler() -> bool:
    return shutil.which("g++") is not None


def _compiles() -> bool:
    return mx.default_device().type == mx.DeviceType.cpu and _compiler()
