"""Log-mel spectrogram to waveform: BigVGAN-style generator with anti-aliased periodic activations; (B, T, C) inside."""

import mlx.core as mx
import mlx.nn as nn

from ltx_native.activations import snake
from ltx_native.audio_vae.resample import DownSample1d, UpSample1d
from ltx_native.config import VocoderConfig
from ltx_native.conv import Conv1d, ConvTranspose1d

MEL_CHANNELS = 128  # 2 channels of 64 mel bins, side by side


class SnakeBeta(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = mx.zeros((channels,))
        self.beta = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return snake(x, mx.exp(self.alpha), 1.0 / (mx.exp(self.beta) + 1e-9))


class Activation1d(nn.Module):
    """The activation at twice the rate, so that the harmonics it makes do not fold back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = UpSample1d(ratio=2, kernel_size=12)
        self.downsample = DownSample1d(ratio=2, kernel_size=12)

    def __call__(self, x: mx.array) -> mx.array:
        return self.downsample(self.act(self.upsample(x)))


class AMPBlock1(nn.Module):
    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        reach = kernel_size - 1
        self.convs1 = [Conv1d(channels, channels, kernel_size, reach * d // 2, dilation=d) for d in dilations]
        self.convs2 = [Conv1d(channels, channels, kernel_size, reach // 2) for _ in dilations]
        self.acts1 = [Activation1d(channels) for _ in dilations]
        self.acts2 = [Activation1d(channels) for _ in dilations]

    def __call__(self, x: mx.array) -> mx.array:
        for conv1, conv2, act1, act2 in zip(self.convs1, self.convs2, self.acts1, self.acts2, strict=True):
            x = x + conv2(act2(conv1(act1(x))))
        return x


class Vocoder(nn.Module):
    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width = config.upsample_initial_channel
        rates, kernels = config.upsample_rates, config.upsample_kernel_sizes
        self.num_kernels = len(config.resblock_kernel_sizes)
        self.apply_final_activation = config.apply_final_activation
        self.use_tanh_at_final = config.use_tanh_at_final

        self.conv_pre = Conv1d(MEL_CHANNELS, width, 7, padding=3)
        self.ups = [
            ConvTranspose1d(width >> i, width >> (i + 1), kernel, stride, padding=(kernel - stride) // 2)
            for i, (stride, kernel) in enumerate(zip(rates, kernels, strict=True))
        ]
        self.resblocks = [
            AMPBlock1(width >> (i + 1), kernel, dilations)
            for i in range(len(rates))
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        ]
        self.act_post = Activation1d(width >> len(rates))
        self.conv_post = Conv1d(width >> len(rates), 2, 7, padding=3, bias=config.use_bias_at_final)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, 64, 2) log-mel spectrogram -> (B, T * product of the rates, 2) waveform."""
        x = self.conv_pre(x.swapaxes(2, 3).flatten(2))  # (B, T, 2*64), channel by channel

        for i, up in enumerate(self.ups):
            x = up(x)
            blocks = self.resblocks[i * self.num_kernels : (i + 1) * self.num_kernels]
            x = mx.stack([block(x) for block in blocks]).mean(axis=0)

        x = self.conv_post(self.act_post(x))
        if not self.apply_final_activation:
            return x
        return mx.tanh(x) if self.use_tanh_at_final else mx.clip(x, -1, 1)
