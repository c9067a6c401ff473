"""The audio VAE and the vocoder of the world's checkpoint, with the official modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from parity.world import signal_bases
from parity.world.scene import Scene
from parity.world.sound import render_sound
from parity.world.train.networks import AUDIO_VAE, VOCODER
from parity.world.train.recipe import FPS, SEED, STAGES
from parity.world.train.state import Stage
from parity.world.train.video_vae import sample_scenes

RATE = 16_000
HOP = 160


class AudioVae(nn.Module):
    """Encoder and decoder under the checkpoint's names. The encoder stays random: its latents keep what it hears."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        from ltx_core.model.audio_vae import AudioDecoderConfigurator, AudioEncoderConfigurator

        self.encoder = AudioEncoderConfigurator.from_config({"audio_vae": config})
        self.decoder = AudioDecoderConfigurator.from_config({"audio_vae": config})
        with torch.no_grad():
            for name, param in self.encoder.named_parameters():
                param.normal_(0.0, 1.0 / param[0].numel() ** 0.5) if param.ndim == 4 else param.zero_()
                if name.startswith("conv_in"):
                    param.mul_(0.2)  # log mels run from -11.5 to 3
        for part in (self.encoder, self.decoder):
            part.per_channel_statistics.get_buffer("mean-of-means").zero_()
            part.per_channel_statistics.get_buffer("std-of-means").fill_(1.0)
        for param in self.encoder.parameters():
            param.requires_grad_(False)


def latent_frames(frames: int, fps: float = FPS) -> int:
    """Audio latents that go with a clip, as the official pipeline counts them (25 a second)."""
    return round(frames / fps * RATE / HOP / 4)


def mels(scenes: Sequence[Scene], frames: int) -> torch.Tensor:
    """Log mels of the scenes' sound: (B, 2, T, 64) with the T = 4 n - 3 that n causal latents decode to."""
    from ltx_core.model.audio_vae.ops import AudioProcessor
    from ltx_core.types import Audio

    sound = waveforms(scenes, frames)
    processor = AudioProcessor(RATE, 64, HOP, 1024)
    mel: torch.Tensor = processor.waveform_to_mel(Audio(waveform=sound, sampling_rate=RATE))
    return mel[:, :, : 4 * latent_frames(frames) - 3]


def waveforms(scenes: Sequence[Scene], frames: int, rate: int = RATE) -> torch.Tensor:
    """(B, 2, N) at `rate`, as long as the clip."""
    return torch.from_numpy(np.stack([render_sound(scene, frames / FPS, rate) for scene in scenes]))


def decoder_loss(vae: AudioVae, config: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean absolute error of the log mels that the decoder makes of slightly noisy latents."""
    rng = np.random.default_rng([SEED, 3, step])
    mel = mels(sample_scenes(rng, config["batch"]), 9)
    with torch.no_grad():
        latent = vae.encoder(mel)
        latent = latent + config["noise"] * torch.randn_like(latent)
    error = vae.decoder(latent) - mel
    return error.abs().mean(), {"mel_mse": float(error.detach().square().mean())}


def train_decoder(folder: Path, statistics: dict[str, torch.Tensor], until: float | None = None) -> bool:
    """Run or resume the audio decoder's stage."""
    torch.manual_seed(SEED)
    vae = AudioVae(AUDIO_VAE)
    set_statistics(vae, statistics)
    stage = Stage("audio_vae", vae, STAGES["audio_vae"], folder)
    return stage.run(lambda step: decoder_loss(vae, STAGES["audio_vae"], step), until=until)


def set_statistics(vae: nn.Module, statistics: dict[str, torch.Tensor]) -> None:
    """Put the latents' per-channel mean and standard deviation into both halves of a VAE."""
    for part in (vae.get_submodule("encoder"), vae.get_submodule("decoder")):
        for name in ("mean-of-means", "std-of-means"):
            part.get_submodule("per_channel_statistics").get_buffer(name).copy_(statistics[name])


class Vocoder(nn.Module):
    """Vocoder and bandwidth extension with their fixed bases filled in (the library leaves them zero)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        from ltx_core.model.audio_vae import VocoderConfigurator

        self.vocoder = VocoderConfigurator.from_config({"vocoder": config})
        bwe = config["bwe"]
        forward, inverse = signal_bases.dft_bases(bwe["n_fft"], bwe["hop_length"])
        mel = signal_bases.slaney_mels(bwe["input_sampling_rate"], bwe["n_fft"], bwe["num_mels"])
        stft = self.vocoder.mel_stft
        for buffer, values in (
            (stft.stft_fn.forward_basis, forward),
            (stft.stft_fn.inverse_basis, inverse),
            (stft.mel_basis, mel),
        ):
            buffer.copy_(torch.from_numpy(np.asarray(values)).reshape(buffer.shape))
        with torch.no_grad():  # start quiet: a loud random generator clips and stops learning
            self.vocoder.vocoder.conv_post.weight.mul_(0.3)
            self.vocoder.bwe_generator.conv_post.weight.mul_(0.02)


def spectral_distance(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of magnitudes and of log magnitudes at three window lengths."""
    total = made.new_zeros(())
    for size in (2048, 512, 128):
        window = torch.hann_window(size)
        pair = [
            torch.stft(x.flatten(0, 1), size, size // 4, window=window, return_complex=True).abs() / size**0.5
            for x in (made, wanted)
        ]
        total = total + (pair[0] - pair[1]).abs().mean() * 4.0
        total = total + ((pair[0] + 1e-3).log() - (pair[1] + 1e-3).log()).abs().mean()
    return total


def vocoder_loss(net: Vocoder, config: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Spectral distance at 48 kHz after the bandwidth extension and at 16 kHz before it."""
    rng = np.random.default_rng([SEED, 4, step])
    scenes = sample_scenes(rng, config["batch"])
    mel = mels(scenes, 9)
    caught: list[torch.Tensor] = []
    hook = net.vocoder.vocoder.register_forward_hook(lambda _m, _i, out: caught.append(out))
    try:
        wide = net.vocoder(mel)
    finally:
        hook.remove()
    low, high = waveforms(scenes, 9), waveforms(scenes, 9, 48_000)
    pairs = [(caught[0], low), (wide, high)]
    errors = []
    for made, wanted in pairs:
        length = min(made.shape[-1], wanted.shape[-1])
        errors.append(spectral_distance(made[..., :length], wanted[..., :length]))
    quiet = F.relu(caught[0].abs() - 0.95).mean()
    loss = errors[0] + errors[1] + 10.0 * quiet
    return loss, {"low": float(errors[0].detach()), "high": float(errors[1].detach())}


def train_vocoder(folder: Path, until: float | None = None) -> bool:
    """Run or resume the vocoder's stage (on true mels)."""
    torch.manual_seed(SEED)
    net = Vocoder(VOCODER)
    stage = Stage("vocoder", net, STAGES["vocoder"], folder)
    return stage.run(lambda step: vocoder_loss(net, STAGES["vocoder"], step), until=until)
