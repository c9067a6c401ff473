"""Building blocks of the video VAE; tensors are (B, F, H, W, C)."""

import math

import mlx.core as mx
import mlx.nn as nn

from ltx_native.conv import Conv3d, PixelNorm, SiLU

NORM_EPS = 1e-8
Stride = tuple[int, int, int]


class CausalConv3d(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv3d(in_channels, out_channels)

    def __call__(self, x: mx.array, causal: bool = True) -> mx.array:
        first, last = x[:, :1], x[:, -1:]
        return self.conv(mx.concatenate([first, first, x] if causal else [first, x, last], axis=1))


class ResnetBlock3D(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(NORM_EPS)
        self.non_linearity = SiLU()
        self.conv1 = CausalConv3d(channels, channels)
        self.norm2 = PixelNorm(NORM_EPS)
        self.conv2 = CausalConv3d(channels, channels)

    def __call__(self, input_tensor: mx.array, causal: bool = True, timestep: None = None, generator: None = None) -> mx.array:
        x = self.conv1(self.non_linearity(self.norm1(input_tensor)), causal=causal)
        x = self.conv2(self.non_linearity(self.norm2(x)), causal=causal)
        return input_tensor + x


class UNetMidBlock3D(nn.Module):
    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        self.res_blocks = [ResnetBlock3D(channels) for _ in range(num_layers)]

    def __call__(self, hidden_states: mx.array, causal: bool = True, timestep: None = None, generator: None = None) -> mx.array:
        for resnet in self.res_blocks:
            hidden_states = resnet(hidden_states, causal=causal)
        return hidden_states


class SpaceToDepthDownsample(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        self.group_size = in_channels * math.prod(stride) // out_channels
        self.conv = CausalConv3d(in_channels, out_channels // math.prod(stride))

    def __call__(self, x: mx.array, causal: bool = True) -> mx.array:
        if self.stride[0] == 2:
            x = mx.concatenate([x[:, :1], x], axis=1)  # the first frame stands for itself alone

        # the skip: groups of neighbouring channels of the folded input, averaged
        skip = space_to_depth(x, self.stride)
        skip = skip.reshape(*skip.shape[:-1], -1, self.group_size).mean(axis=-1)

        return space_to_depth(self.conv(x, causal=causal), self.stride) + skip


class DepthToSpaceUpsample(nn.Module):
    def __init__(self, in_channels: int, stride: Stride, out_channels_reduction_factor: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = CausalConv3d(in_channels, math.prod(stride) * in_channels // out_channels_reduction_factor)

    def __call__(self, x: mx.array, causal: bool = True) -> mx.array:
        x = depth_to_space(self.conv(x, causal=causal), self.stride)
        return x[:, 1:] if self.stride[0] == 2 else x


class PerChannelStatistics(nn.Module):
    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.std_of_means = mx.ones((latent_channels,))
        self.mean_of_means = mx.zeros((latent_channels,))

    def un_normalize(self, x: mx.array) -> mx.array:
        return x * self.std_of_means.astype(x.dtype) + self.mean_of_means.astype(x.dtype)

    def normalize(self, x: mx.array) -> mx.array:
        return (x - self.mean_of_means.astype(x.dtype)) / self.std_of_means.astype(x.dtype)


def space_to_depth(x: mx.array, stride: Stride) -> mx.array:
    b, f, h, w, c = x.shape
    p1, p2, p3 = stride
    x = x.reshape(b, f // p1, p1, h // p2, p2, w // p3, p3, c)
    return x.transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, f // p1, h // p2, w // p3, c * p1 * p2 * p3)


def depth_to_space(x: mx.array, stride: Stride) -> mx.array:
    b, f, h, w, c = x.shape
    p1, p2, p3 = stride
    c //= p1 * p2 * p3
    x = x.reshape(b, f, h, w, c, p1, p2, p3)
    return x.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, f * p1, h * p2, w * p3, c)


def patchify(x: mx.array, patch_size: int) -> mx.array:
    """(B, F, H, W, 3) -> (B, F, H/p, W/p, 3*p*p); unlike the up- and downsamplers, the column offset comes before the row's."""
    b, f, h, w, c = x.shape
    x = x.reshape(b, f, h // patch_size, patch_size, w // patch_size, patch_size, c)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(b, f, h // patch_size, w // patch_size, -1)


def unpatchify(x: mx.array, patch_size: int) -> mx.array:
    b, f, h, w, c = x.shape
    x = x.reshape(b, f, h, w, c // patch_size**2, patch_size, patch_size)
    return x.transpose(0, 1, 2, 6, 3, 5, 4).reshape(b, f, h * patch_size, w * patch_size, -1)
