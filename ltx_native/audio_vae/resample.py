"""Anti-aliased resampling inside the vocoder; tensors are (B, T, C).

Each filter (in the checkpoint: a Kaiser-windowed sinc) is a short sum over time for every channel alone. Written as
products with a banded matrix over blocks of time, it runs at matrix speed on every backend; MLX's grouped and
transposed convolutions do not.
"""

import math

import mlx.core as mx
import mlx.nn as nn

BLOCK = 32  # outputs (or inputs, upsampling) that one banded product covers


class UpSample1d(nn.Module):
    def __init__(self, ratio: int, kernel_size: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.filter = mx.zeros((1, kernel_size, 1))
        self.pad = kernel_size // ratio - 1
        self.pad_left = self.pad * ratio + (kernel_size - ratio) // 2

    def __call__(self, x: mx.array) -> mx.array:
        return _upsample(x, self.filter, self.ratio, self.pad, self.pad_left)


class HannUpSample1d(nn.Module):
    """The resampler of the bandwidth extension's skip path; its filter is not in the checkpoint."""

    def __init__(self, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        rolloff, lowpass_width = 0.99, 6
        self.pad = math.ceil(lowpass_width / rolloff)
        self.pad_left = 2 * self.pad * ratio
        time = (mx.arange(self.pad_left + 1).astype(mx.float32) / ratio - self.pad) * rolloff
        window = mx.cos(mx.clip(time, -lowpass_width, lowpass_width) * math.pi / lowpass_width / 2) ** 2
        self._filter = (_sinc(time) * window * rolloff / ratio)[None, :, None]

    def __call__(self, x: mx.array) -> mx.array:
        return _upsample(x, self._filter.astype(x.dtype), self.ratio, self.pad, self.pad_left)


class LowPassFilter1d(nn.Module):
    def __init__(self, stride: int, kernel_size: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad_left = kernel_size // 2 - int(kernel_size % 2 == 0)
        self.pad_right = kernel_size // 2
        self.filter = mx.zeros((1, kernel_size, 1))

    def __call__(self, x: mx.array) -> mx.array:
        length = (x.shape[1] + self.pad_left + self.pad_right - self.filter.size) // self.stride + 1
        band = _band(self.filter.reshape(1, -1), BLOCK, self.stride)[0]  # (BLOCK, inputs)
        return _banded(x, band, BLOCK * self.stride, self.pad_left, length)


class DownSample1d(nn.Module):
    def __init__(self, ratio: int, kernel_size: int) -> None:
        super().__init__()
        self.lowpass = LowPassFilter1d(ratio, kernel_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.lowpass(x)


def _sinc(x: mx.array) -> mx.array:
    angle = mx.where(x == 0, 1.0, x * math.pi)
    return mx.where(x == 0, 1.0, mx.sin(angle) / angle)


def _upsample(x: mx.array, filter: mx.array, ratio: int, pad: int, pad_left: int) -> mx.array:
    """ratio * (x, edges repeated `pad` times, zeros put between, convolved with `filter`), from `pad_left` on, ratio * T long.

    Output i of the whole convolution is a sum over the inputs i//ratio - taps + 1 to i//ratio.
    """
    taps = math.ceil(filter.size / ratio)
    first, offset = divmod(pad_left, ratio)
    phases = mx.pad(filter.reshape(-1), (0, taps * ratio - filter.size)).reshape(taps, ratio)[::-1].T
    band = _band(phases, BLOCK, shift=1).swapaxes(0, 1).flatten(0, 1)  # (BLOCK * ratio, inputs)
    out = _banded(x, band, BLOCK, left=pad - (first - taps + 1), length=x.shape[1] * ratio + offset)
    return ratio * out[:, offset:]


def _band(filters: mx.array, count: int, shift: int) -> mx.array:
    """(filters, taps) -> (filters, count, inputs): copy i of a filter begins at input i * shift."""
    number, taps = filters.shape
    inputs = taps + (count - 1) * shift
    # rows cut from a period that is longer than a row by the shift
    period = mx.pad(filters, [(0, 0), (0, inputs + shift - taps)])[:, None]
    rows = mx.broadcast_to(period, (number, count, inputs + shift)).reshape(number, -1)
    return rows[:, : count * inputs].reshape(number, count, inputs)


def _banded(x: mx.array, band: mx.array, step: int, left: int, length: int) -> mx.array:
    """`band` (outputs, inputs) applied every `step` inputs of x (B, T, C), from `left` before its start; edges are repeated."""
    b, time, c = x.shape
    outputs, inputs = band.shape
    blocks = -(-length // outputs)
    dtype, x = x.dtype, x.astype(mx.float32)  # a CPU has no fast product in bfloat16
    x = mx.contiguous(mx.pad(x, [(0, 0), (left, max(0, (blocks - 1) * step + inputs - left - time)), (0, 0)], mode="edge"))
    windows = mx.as_strided(x, (b, blocks, inputs, c), (x.shape[1] * c, step * c, c, 1))
    return (band.astype(mx.float32) @ windows).reshape(b, -1, c)[:, :length].astype(dtype)
