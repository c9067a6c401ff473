"""Latents to pixels: the decoder of the LTX-2.3 video VAE."""

import mlx.core as mx
import mlx.nn as nn

from ltx_native.config import VideoVAEConfig
from ltx_native.conv import PixelNorm, SiLU
from ltx_native.video_vae.blocks import (
    NORM_EPS,
    CausalConv3d,
    DepthToSpaceUpsample,
    PerChannelStatistics,
    UNetMidBlock3D,
    unpatchify,
)

STRIDES = {"compress_time": (2, 1, 1), "compress_space": (1, 2, 2), "compress_all": (2, 2, 2)}


class VideoDecoder(nn.Module):
    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.causal = config.causal_decoder
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels)

        channels = config.decoder_base_channels * 8
        self.conv_in = CausalConv3d(config.latent_channels, channels)
        self.up_blocks: list[nn.Module] = []
        for name, parameters in reversed(config.decoder_blocks):
            if name == "res_x":
                self.up_blocks.append(UNetMidBlock3D(channels, parameters["num_layers"]))
            else:
                self.up_blocks.append(DepthToSpaceUpsample(channels, STRIDES[name], parameters["multiplier"]))
                channels //= parameters["multiplier"]
        self.conv_norm_out = PixelNorm(NORM_EPS)
        self.conv_act = SiLU()
        self.conv_out = CausalConv3d(channels, config.out_channels * config.patch_size**2)

    def __call__(self, sample: mx.array, timestep: None = None, generator: None = None) -> mx.array:
        """(B, F, H, W, 128) normalised latents -> (B, 8(F-1)+1, 32H, 32W, 3) pixels around [-1, 1]."""
        x = self.conv_in(self.per_channel_statistics.un_normalize(sample), causal=self.causal)
        for block in self.up_blocks:
            x = block(x, causal=self.causal)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)), causal=self.causal)
        return unpatchify(x, self.patch_size)
