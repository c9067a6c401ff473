"""A log-mel spectrogram to audio latents."""

import mlx.core as mx
import mlx.nn as nn

from ltx_native.audio_vae.blocks import NORM_EPS, CausalConv2d, Downsample, Level, MidBlock, PerChannelStatistics
from ltx_native.config import AudioVAEConfig
from ltx_native.conv import PixelNorm, SiLU


class AudioEncoder(nn.Module):
    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        self.z_channels = config.z_channels
        self.per_channel_statistics = PerChannelStatistics(config.ch)

        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = CausalConv2d(config.in_channels, config.ch)
        self.non_linearity = SiLU()
        self.down = [Level(w, v, config.num_res_blocks) for w, v in zip([config.ch, *widths], widths, strict=False)]
        for level, width in zip(self.down[:-1], widths[:-1], strict=True):
            level.downsample = Downsample(width)
        self.mid = MidBlock(widths[-1])
        self.norm_out = PixelNorm(NORM_EPS)
        self.conv_out = CausalConv2d(widths[-1], 2 * config.z_channels)

    def __call__(self, spectrogram: mx.array) -> mx.array:
        """(B, T, 64, 2) log-mel spectrogram -> (B, (T-1)//4+1, 16, 8) normalised means; the log-variances are dropped."""
        x = self.conv_in(spectrogram)
        for level in self.down:
            x = level(x)
        x = self.conv_out(self.non_linearity(self.norm_out(self.mid(x))))
        return self.per_channel_statistics.normalize(x[..., : self.z_channels])
