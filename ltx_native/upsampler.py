"""Latent upsampler: more height and width, or more frames, between the stages; tensors are (B, F, H, W, C)."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_native.config import UpsamplerConfig
from ltx_native.conv import Conv2d, Conv3d, GroupNorm, SiLU

GROUPS = 32
PADDING = (1, 1, 1)
RATIOS = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}


class ResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv3d(channels, channels, padding=PADDING)
        self.norm1 = GroupNorm(GROUPS, channels)
        self.conv2 = Conv3d(channels, channels, padding=PADDING)
        self.norm2 = GroupNorm(GROUPS, channels)
        self.activation = SiLU()

    def __call__(self, x: mx.array) -> mx.array:
        h = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(h)) + x)


class PixelShuffleND(nn.Module):
    """Channels to places on the last `dims` of frames, rows and columns (on frames alone when 1)."""

    def __init__(self, dims: int, factor: int = 2) -> None:
        super().__init__()
        self.factors = {1: (factor, 1, 1), 2: (1, factor, factor), 3: (factor,) * 3}[dims]

    def __call__(self, x: mx.array) -> mx.array:
        shape = x.shape
        x = x if x.ndim == 5 else x[:, None]  # (B*F, H, W, C) is one frame each
        b, f, h, w, c = x.shape
        p1, p2, p3 = self.factors
        c //= p1 * p2 * p3
        x = x.reshape(b, f, h, w, c, p1, p2, p3).transpose(0, 1, 5, 2, 6, 3, 7, 4)
        x = x.reshape(b, f * p1, h * p2, w * p3, c)
        return x if len(shape) == 5 else x[:, 0]


class BlurDownsample(nn.Module):
    def __init__(self, stride: int, kernel_size: int = 5) -> None:
        super().__init__()
        self.stride, self.reach = stride, kernel_size // 2
        self.kernel = mx.zeros((1, kernel_size, kernel_size, 1))

    def __call__(self, x: mx.array) -> mx.array:
        if self.stride == 1:
            return x
        channels = x.shape[-1]
        kernel = mx.broadcast_to(self.kernel, (channels, *self.kernel.shape[1:]))
        return mx.conv2d(x, kernel, stride=self.stride, padding=self.reach, groups=channels)


class SpatialRationalResampler(nn.Module):
    """Height and width times num / den: up by a pixel shuffle, down by a blur that skips places."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        if scale not in RATIOS:
            raise ValueError(f"spatial_scale is {scale}, expected one of {sorted(RATIOS)}")
        num, den = RATIOS[scale]
        self.conv = Conv2d(channels, num**2 * channels, padding=1)
        self.pixel_shuffle = PixelShuffleND(2, num)
        self.blur_down = BlurDownsample(den)

    def __call__(self, x: mx.array) -> mx.array:
        b, f = x.shape[:2]
        x = self.blur_down(self.pixel_shuffle(self.conv(x.flatten(0, 1))))  # (B*F, H', W', C)
        return x.reshape(b, f, *x.shape[1:])


class LatentUpsampler(nn.Module):
    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        c = config.mid_channels
        self.temporal = config.temporal_upsample
        self.rational = config.rational_resampler and not config.temporal_upsample

        self.initial_conv = Conv3d(config.in_channels, c, padding=PADDING)
        self.initial_norm = GroupNorm(GROUPS, c)
        self.initial_activation = SiLU()
        self.res_blocks = [ResBlock(c) for _ in range(config.num_blocks_per_stage)]
        self.upsampler: Any
        if config.temporal_upsample:
            dims = 3 if config.spatial_upsample else 1
            self.upsampler = [Conv3d(c, 2**dims * c, padding=PADDING), PixelShuffleND(dims)]
        elif not config.spatial_upsample:
            raise ValueError("spatial_upsample and temporal_upsample are both false, expected at least one")
        elif config.rational_resampler:
            self.upsampler = SpatialRationalResampler(c, config.spatial_scale)
        else:
            self.upsampler = [Conv2d(c, 4 * c, padding=1), PixelShuffleND(2)]
        self.post_upsample_res_blocks = [ResBlock(c) for _ in range(config.num_blocks_per_stage)]
        self.final_conv = Conv3d(c, config.in_channels, padding=PADDING)

    def __call__(self, latent: mx.array) -> mx.array:
        """(B, F, H, W, C) latents, not normalised -> the same, with more places."""
        x = self.initial_activation(self.initial_norm(self.initial_conv(latent)))
        for block in self.res_blocks:
            x = block(x)
        x = self._upsample(x)
        for block in self.post_upsample_res_blocks:
            x = block(x)
        return self.final_conv(x)

    def _upsample(self, x: mx.array) -> mx.array:
        if self.rational:
            return self.upsampler(x)
        conv, shuffle = self.upsampler
        if self.temporal:
            return shuffle(conv(x))[:, 1:]  # the first latent frame stands for one pixel frame, not for eight
        b, f = x.shape[:2]
        x = shuffle(conv(x.flatten(0, 1)))  # (B*F, 2H, 2W, C)
        return x.reshape(b, f, *x.shape[1:])


def upsample_video(latent: mx.array, video_encoder: nn.Module, upsampler: LatentUpsampler) -> mx.array:
    """Normalised latents through the upsampler, which works on latents as the encoder makes them."""
    statistics = video_encoder.per_channel_statistics
    return statistics.normalize(upsampler(statistics.un_normalize(latent)))
