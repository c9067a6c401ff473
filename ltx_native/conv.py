"""Channels-last convolutions, norms and activations of the three convolution networks, under the official argument names."""

import math

import mlx.core as mx
import mlx.nn as nn

UNFOLD_BYTES = 48 * 2**20  # MLX's CPU backend unfolds a convolution's whole input and keeps about ten such buffers alive


class SiLU(nn.Module):
    def __call__(self, input: mx.array) -> mx.array:
        return input * mx.sigmoid(input)


class PixelNorm(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, None, self.eps)


class GroupNorm(nn.GroupNorm):
    def __init__(self, num_groups: int, num_channels: int) -> None:
        super().__init__(num_groups, num_channels, eps=1e-5, pytorch_compatible=True)

    def __call__(self, input: mx.array) -> mx.array:
        return super().__call__(input)


class Conv1d(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, padding: int, dilation: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, kernel_size, in_channels))
        if bias:
            self.bias = mx.zeros((out_channels,))
        self.padding, self.dilation = padding, dilation

    def __call__(self, input: mx.array) -> mx.array:
        x = conv1d_dilated(input, self.weight, self.padding, self.dilation)
        return x + self.bias if "bias" in self else x


class ConvTranspose1d(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, kernel_size, in_channels))
        self.bias = mx.zeros((out_channels,))
        self.stride, self.padding = stride, padding

    def __call__(self, input: mx.array) -> mx.array:
        return conv1d_transposed(input, self.weight, self.stride, self.padding) + self.bias


class Conv2d(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, kernel_size, kernel_size, in_channels))
        self.bias = mx.zeros((out_channels,))
        self.stride, self.padding = stride, padding

    def __call__(self, input: mx.array) -> mx.array:
        return mx.conv2d(input, self.weight, self.stride, self.padding) + self.bias


class Conv3d(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, padding: tuple[int, int, int] = (0, 1, 1)) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, kernel_size, kernel_size, kernel_size, in_channels))
        self.bias = mx.zeros((out_channels,))
        self.padding = padding

    def __call__(self, input: mx.array) -> mx.array:
        return conv3d(input, self.weight, self.padding) + self.bias


def conv1d_dilated(x: mx.array, weight: mx.array, padding: int, dilation: int) -> mx.array:
    """Dilated convolution as `dilation` interleaved plain ones: MLX's CPU backend has no fast path for dilation."""
    if dilation == 1:
        return mx.conv1d(x, weight, padding=padding)
    b, _, c = x.shape
    x = mx.pad(x, ((0, 0), (padding, padding), (0, 0)))
    length = x.shape[1] - (weight.shape[1] - 1) * dilation
    x = mx.pad(x, ((0, 0), (0, -x.shape[1] % dilation), (0, 0)))
    x = x.reshape(b, -1, dilation, c).swapaxes(1, 2).reshape(b * dilation, -1, c)  # (B*d, T/d, C)
    x = mx.conv1d(x, weight)
    x = x.reshape(b, dilation, -1, weight.shape[0]).swapaxes(1, 2).reshape(b, -1, weight.shape[0])
    return x[:, :length]  # (B, T, O)


def conv1d_transposed(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
    """Transposed convolution as `stride` phases of a plain one: 50 times faster than MLX's on a CPU, the same products."""
    b, length, c = x.shape
    o, kernel, _ = weight.shape
    taps = math.ceil(kernel / stride)
    weight = mx.pad(weight, ((0, 0), (0, taps * stride - kernel), (0, 0))).reshape(o, taps, stride, c)
    phases = weight[:, ::-1].transpose(2, 0, 1, 3).reshape(stride * o, taps, c)
    x = mx.conv1d(x, phases, padding=taps - 1).reshape(b, -1, o)  # (B, (T + taps - 1) * stride, O)
    return x[:, padding : padding + (length - 1) * stride + kernel - 2 * padding]


def conv3d(x: mx.array, weight: mx.array, padding: tuple[int, int, int]) -> mx.array:
    """Stride 1. On a CPU in pieces of whole frames, or rows of one frame, so that the unfolded input stays small."""
    b, f, h, w, c = x.shape
    _, kf, kh, kw, _ = weight.shape
    frames, rows, columns = (n + 2 * p - k + 1 for n, p, k in zip((f, h, w), padding, (kf, kh, kw), strict=True))
    per_row = b * columns * kf * kh * kw * c * x.itemsize
    if mx.default_device() != mx.Device(mx.cpu) or frames * rows * per_row <= UNFOLD_BYTES:
        return mx.conv3d(x, weight, padding=padding)
    row_step = min(rows, max(1, UNFOLD_BYTES // per_row))
    frame_step = max(1, UNFOLD_BYTES // (rows * per_row))
    x = mx.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))

    def piece(start: int) -> mx.array:
        slab = x[:, start : start + frame_step + kf - 1]
        parts = [mx.conv3d(slab[:, :, row : row + row_step + kh - 1], weight) for row in range(0, rows, row_step)]
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)

    return mx.concatenate([piece(start) for start in range(0, frames, frame_step)], axis=1)
