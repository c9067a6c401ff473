"""Pixels to latents: the encoder of the LTX-2.3 video VAE."""

import mlx.core as mx
import mlx.nn as nn

from ltx_native.config import VideoVAEConfig
from ltx_native.conv import PixelNorm, SiLU
from ltx_native.video_vae.blocks import (
    NORM_EPS,
    CausalConv3d,
    PerChannelStatistics,
    SpaceToDepthDownsample,
    UNetMidBlock3D,
    patchify,
)

STRIDES = {"compress_time_res": (2, 1, 1), "compress_space_res": (1, 2, 2), "compress_all_res": (2, 2, 2)}


class VideoEncoder(nn.Module):
    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.latent_channels = config.latent_channels
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels)

        channels = config.latent_channels
        self.conv_in = CausalConv3d(config.in_channels * config.patch_size**2, channels)
        self.down_blocks: list[nn.Module] = []
        for name, parameters in config.encoder_blocks:
            if name == "res_x":
                self.down_blocks.append(UNetMidBlock3D(channels, parameters["num_layers"]))
            else:
                self.down_blocks.append(SpaceToDepthDownsample(channels, channels * parameters["multiplier"], STRIDES[name]))
                channels *= parameters["multiplier"]
        self.conv_norm_out = PixelNorm(NORM_EPS)
        self.conv_act = SiLU()
        self.conv_out = CausalConv3d(channels, config.latent_channels + 1)  # one log-variance for all channels

    def __call__(self, sample: mx.array) -> mx.array:
        """(B, F, H, W, 3) pixels in [-1, 1] -> (B, (F-1)/8+1, H/32, W/32, 128) normalised means; F beyond 8k+1 is cut."""
        x = patchify(sample[:, : (sample.shape[1] - 1) // 8 * 8 + 1], self.patch_size)
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return self.per_channel_statistics.normalize(x[..., : self.latent_channels])
