"""Channels-last convolutions, norms and activations of the three convolution networks, under the official argument names."""

import math
from collections.abc import Callable
from itertools import product

import mlx.core as mx
import mlx.nn as nn

from ltx_native.activations import silu

PIECE_BYTES = 32 * 2**20  # what a CPU works on at a time: input of an activation, spread-out input of a 3-D convolution
UNFOLDED_BYTES = 128 * 2**20  # of the input of a 3-D convolution that MLX unfolds


class SiLU(nn.Module):
    def __call__(self, input: mx.array) -> mx.array:
        return in_pieces(silu, input)


class PixelNorm(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return in_pieces(lambda piece: mx.fast.rms_norm(piece, None, self.eps), x)


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
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, padding: tuple[int, int, int] = (0, 1, 1)
    ) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, kernel_size, kernel_size, kernel_size, in_channels))
        self.bias = mx.zeros((out_channels,))
        self.padding = padding

    def __call__(self, input: mx.array) -> mx.array:
        return conv3d(input, self.weight, self.padding) + self.bias


def on_cpu() -> bool:
    return mx.default_device().type == mx.DeviceType.cpu


def in_pieces(function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """function(x) for one that leaves axis 1 alone; on a CPU a large x goes through it piece by piece.

    MLX allocates for all operations of a graph before it has computed the first.
    """
    step = max(1, PIECE_BYTES * x.shape[1] // max(1, x.nbytes))
    if not on_cpu() or step >= x.shape[1]:
        return function(x)
    out = mx.zeros(x.shape, dtype=x.dtype)
    for start in range(0, x.shape[1], step):
        out[:, start : start + step] = function(x[:, start : start + step])
        mx.eval(out)
    return out


def conv1d_dilated(x: mx.array, weight: mx.array, padding: int, dilation: int) -> mx.array:
    """Dilated convolution as `dilation` interleaved plain ones: MLX's CPU backend has no fast path for dilation."""
    if dilation == 1:
        return mx.conv1d(x, weight, padding=padding)
    b, _, c = x.shape
    x = mx.pad(x, [(0, 0), (padding, padding), (0, 0)])
    length = x.shape[1] - (weight.shape[1] - 1) * dilation
    x = mx.pad(x, [(0, 0), (0, -x.shape[1] % dilation), (0, 0)])
    x = x.reshape(b, -1, dilation, c).swapaxes(1, 2).reshape(b * dilation, -1, c)  # (B*d, T/d, C)
    x = mx.conv1d(x, weight)
    x = x.reshape(b, dilation, -1, weight.shape[0]).swapaxes(1, 2).reshape(b, -1, weight.shape[0])
    return x[:, :length]  # (B, T, O)


def conv1d_transposed(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
    """Transposed convolution as `stride` phases of a plain one: 50 times faster than MLX's on a CPU, the same products."""
    b, length, c = x.shape
    o, kernel, _ = weight.shape
    taps = math.ceil(kernel / stride)
    weight = mx.pad(weight, [(0, 0), (0, taps * stride - kernel), (0, 0)]).reshape(o, taps, stride, c)
    phases = weight[:, ::-1].transpose(2, 0, 1, 3).reshape(stride * o, taps, c)
    x = mx.conv1d(x, phases, padding=taps - 1).reshape(b, -1, o)  # (B, (T + taps - 1) * stride, O)
    return x[:, padding : padding + (length - 1) * stride + kernel - 2 * padding]


def conv3d(x: mx.array, weight: mx.array, padding: tuple[int, int, int]) -> mx.array:
    """Stride 1, in float32 on a CPU, where MLX unfolds kF·kH·kW copies of the input: a few frames at a time while they fit into
    `UNFOLDED_BYTES`, else by shifted matrix products over kW copies, for which the weights are laid out anew."""
    if not on_cpu():
        return mx.conv3d(x, weight, padding=padding)
    _, kf, kh, kw, c = weight.shape
    pf, ph, pw = padding
    frames, rows, columns = (n + 2 * p - k + 1 for n, p, k in zip(x.shape[1:4], padding, (kf, kh, kw), strict=True))
    step = UNFOLDED_BYTES // (rows * columns * kf * kh * kw * c * 4)
    if step:
        some = _by_unfolding(weight, (ph, pw))
    else:
        step = max(1, PIECE_BYTES // ((x.shape[2] + 2 * ph) * (x.shape[3] + 2 * pw) * kw * c * 4))
        some = _by_matmul(weight, (ph, pw))

    def clip(one: mx.array) -> mx.array:
        out = mx.zeros((1, frames, rows, columns, weight.shape[0]), dtype=x.dtype)
        for start in range(0, frames, step):
            stop = min(start + step, frames)
            first, last = start - pf, stop - pf + kf - 1
            slab = one[:, max(0, first) : last].astype(mx.float32)
            slab = mx.pad(slab, [(0, 0), (max(0, -first), max(0, last - one.shape[1])), (0, 0), (0, 0), (0, 0)])
            out[:, start:stop] = some(slab).astype(x.dtype)
            if step < frames:
                mx.eval(out)
        return out

    clips = [clip(one[None]) for one in x]
    return clips[0] if len(clips) == 1 else mx.concatenate(clips)


def _by_unfolding(weight: mx.array, padding: tuple[int, int]) -> Callable[[mx.array], mx.array]:
    w = weight.astype(mx.float32)
    return lambda slab: mx.conv3d(slab, w, padding=(0, *padding))


def _by_matmul(weight: mx.array, padding: tuple[int, int]) -> Callable[[mx.array], mx.array]:
    """The convolution of slabs (1, F, H, W, C) without padding of frames, as a function that keeps the weights' new layout.

    In the padded slab, laid out as one row of channels per place, a neighbour is a fixed number of rows away. A frame more
    lets the last places read past the end; what falls on the margins is cut off.
    """
    o, kf, kh, kw, c = weight.shape
    ph, pw = padding
    w = weight.transpose(1, 2, 3, 4, 0).reshape(kf, kh, kw * c, o).astype(mx.float32)

    def some(slab: mx.array) -> mx.array:
        count, rows, columns = (n + 2 * p - k + 1 for n, p, k in zip(slab.shape[1:4], (0, ph, pw), (kf, kh, kw), strict=True))
        slab = mx.pad(slab, [(0, 0), (0, 1), (ph, ph), (pw, pw), (0, 0)])
        h, width = slab.shape[2:4]
        flat, size, reach = slab.reshape(-1, c), count * h * width, ((kf - 1) * h + kh - 1) * width
        spread = mx.concatenate([flat[i : i + size + reach] for i in range(kw)], axis=1)  # (places, kw * C)
        out = spread[:size] @ w[0, 0]
        for i, j in list(product(range(kf), range(kh)))[1:]:
            shift = (i * h + j) * width
            out = mx.addmm(out, spread[shift : shift + size], w[i, j])
        return out.reshape(1, count, h, width, o)[:, :, :rows, :columns]

    return some
