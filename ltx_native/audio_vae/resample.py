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
        x = mx.pad(x, [(0, 0), (self.pad_left, self.pad_right), (0, 0)], mode="edge")
        taps = self.filter.size
        length = (x.shape[1] - taps) // self.stride + 1
        band = _band(self.filter, BLOCK, self.stride)  # (outputs, inputs)
        return _banded(x, band, BLOCK * self.stride, length)


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
    """ratio * (x, edges repeated `pad` times, zeros put between, convolved with `filter`), cut to ratio * T."""
    length = x.shape[1] * ratio
    taps = math.ceil(filter.size / ratio)
    x = mx.pad(x, [(0, 0), (pad, pad), (0, 0)], mode="edge")
    # Output i of the full transposed convolution reads inputs i//ratio - taps + 1 … i//ratio, last filter tap first.
    first = pad_left // ratio
    x = mx.pad(x, [(0, 0), (max(0, taps - 1 - first), taps), (0, 0)])[:, max(0, first - taps + 1) :]
    phases = mx.pad(filter.reshape(-1), (0, taps * ratio - filter.size)).reshape(taps, ratio)[::-1].T  # (ratio, taps)
    band = mx.concatenate([mx.pad(phases, [(0, 0), (i, BLOCK - 1 - i)]) for i in range(BLOCK)])  # (BLOCK*ratio, inputs)
    offset = pad_left % ratio
    return ratio * _banded(x, band, BLOCK, length + offset)[:, offset:]


def _band(filter: mx.array, outputs: int, stride: int) -> mx.array:
    """Row i applies `filter` from input i * stride on."""
    row = filter.reshape(-1)
    return mx.stack([mx.pad(row, (i * stride, (outputs - 1 - i) * stride)) for i in range(outputs)])


def _banded(x: mx.array, band: mx.array, step: int, length: int) -> mx.array:
    """`band` (outputs, inputs) applied every `step` inputs of x (B, T, C); the first `length` outputs."""
    b, time, c = x.shape
    outputs, inputs = band.shape
    blocks = -(-length // outputs)
    x = mx.pad(x, [(0, 0), (0, max(0, (blocks - 1) * step + inputs - time)), (0, 0)])
    dtype, x = x.dtype, mx.contiguous(x.astype(mx.float32))  # a CPU has no fast product in bfloat16
    windows = mx.as_strided(x, (b, blocks, inputs, c), (x.shape[1] * c, step * c, c, 1))
    return (band.astype(mx.float32) @ windows).reshape(b, -1, c)[:, :length].astype(dtype)
