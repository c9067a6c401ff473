"""Audio latents to a log-mel spectrogram."""

import mlx.core as mx
import mlx.nn as nn

from ltx_native.audio_vae.blocks import NORM_EPS, CausalConv2d, Level, MidBlock, PerChannelStatistics, Upsample
from ltx_native.config import AudioVAEConfig
from ltx_native.conv import PixelNorm, SiLU

LATENT_DOWNSAMPLE_FACTOR = 4


class AudioDecoder(nn.Module):
    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        self.mel_bins = config.mel_bins
        self.per_channel_statistics = PerChannelStatistics(config.ch)

        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = CausalConv2d(config.z_channels, widths[-1])
        self.mid = MidBlock(widths[-1])
        self.up = [Level(w, v, config.num_res_blocks + 1) for w, v in zip([*widths[1:], widths[-1]], widths, strict=True)]
        for level, width in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = Upsample(width)
        self.norm_out = PixelNorm(NORM_EPS)
        self.non_linearity = SiLU()
        self.conv_out = CausalConv2d(widths[0], config.out_ch)

    def __call__(self, sample: mx.array) -> mx.array:
        """(B, T, 16, 8) normalised latents -> (B, 4T-3, 64, 2) log-mel spectrogram."""
        frames = max(sample.shape[1] * LATENT_DOWNSAMPLE_FACTOR - (LATENT_DOWNSAMPLE_FACTOR - 1), 1)
        x = self.mid(self.conv_in(self.per_channel_statistics.un_normalize(sample)))
        for level in reversed(self.up):
            x = level(x)
        x = self.conv_out(self.non_linearity(self.norm_out(x)))
        return _fit(_fit(x, frames, axis=1), self.mel_bins, axis=2)


def _fit(x: mx.array, length: int, axis: int) -> mx.array:
    """Cut or zero-pad `axis` at its end."""
    x = x[(slice(None),) * axis + (slice(length),)]
    missing = length - x.shape[axis]
    return mx.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)]) if missing else x
