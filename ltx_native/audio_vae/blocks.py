"""Building blocks of the audio VAE; tensors are (B, T, M, C): time, mel bin, channel. Convolutions are causal in time."""

from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from ltx_native.conv import Conv2d, PixelNorm, SiLU

NORM_EPS = 1e-6


class CausalConv2d(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel_size)
        self.reach = kernel_size - 1

    def __call__(self, x: mx.array) -> mx.array:
        before = self.reach // 2
        return self.conv(mx.pad(x, [(0, 0), (self.reach, 0), (before, self.reach - before), (0, 0)]))


class ResnetBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(NORM_EPS)
        self.non_linearity = SiLU()
        self.conv1 = CausalConv2d(in_channels, out_channels)
        self.norm2 = PixelNorm(NORM_EPS)
        self.conv2 = CausalConv2d(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = CausalConv2d(in_channels, out_channels, kernel_size=1)

    def __call__(self, x: mx.array, temb: None = None) -> mx.array:
        h = self.conv1(self.non_linearity(self.norm1(x)))
        h = self.conv2(self.non_linearity(self.norm2(h)))
        return h + (self.nin_shortcut(x) if "nin_shortcut" in self else x)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, kernel_size=3, stride=2)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(mx.pad(x, [(0, 0), (2, 0), (0, 1), (0, 0)]))


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv2d(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        x = mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)  # (B, 2T, 2M, C)
        return self.conv(x)[:, 1:]  # the encoder's causal padding, undone: n frames become 2n - 1


class MidBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.block_2 = ResnetBlock(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        return self.block_2(self.block_1(x))


class Level(nn.Module):
    """One resolution: `block`, then `downsample` or `upsample` on all levels but the last one run."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        self.block = [ResnetBlock(i, o) for i, o in pairwise(widths)]

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.block:
            x = block(x)
        if "downsample" in self:
            x = self.downsample(x)
        if "upsample" in self:
            x = self.upsample(x)
        return x


class PerChannelStatistics(nn.Module):
    """One mean and deviation for each (channel, mel bin) of a latent frame, channel first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.std_of_means = mx.ones((size,))
        self.mean_of_means = mx.zeros((size,))

    def un_normalize(self, x: mx.array) -> mx.array:
        mean, std = self._like(x)
        return x * std + mean

    def normalize(self, x: mx.array) -> mx.array:
        mean, std = self._like(x)
        return (x - mean) / std

    def _like(self, x: mx.array) -> tuple[mx.array, mx.array]:
        shape = (x.shape[3], x.shape[2])
        mean, std = (v.astype(x.dtype).reshape(shape).T for v in (self.mean_of_means, self.std_of_means))
        return mean, std  # (M, C)
