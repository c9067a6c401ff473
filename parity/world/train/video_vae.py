"""Train the official video VAE on rendered clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from parity.world.render import render_batch
from parity.world.scene import Scene, all_captions
from parity.world.train.networks import VAE, VAE_FIRST
from parity.world.train.recipe import SEED, STAGES
from parity.world.train.state import Stage


class VideoVae(nn.Module):
    """Encoder and decoder under the checkpoint's names."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        from ltx_core.model.video_vae.model_configurator import VideoDecoderConfigurator, VideoEncoderConfigurator

        self.encoder = VideoEncoderConfigurator.from_config({"vae": config})
        self.decoder = VideoDecoderConfigurator.from_config({"vae": config})
        for part in (self.encoder, self.decoder):  # identity until the latents' statistics are known
            part.per_channel_statistics.get_buffer("mean-of-means").zero_()
            part.per_channel_statistics.get_buffer("std-of-means").fill_(1.0)
        with torch.no_grad():
            self.encoder.conv_out.conv.bias[-1] = -5.0  # little latent noise: the decoder must see something first

    def moments(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and log variance before the encoder drops the latter. (B, 128, F', H', W'), (B, 1, ...)"""
        caught: list[torch.Tensor] = []
        hook = self.encoder.conv_out.register_forward_hook(lambda _m, _i, out: caught.append(out))
        try:
            self.encoder(video)
        finally:
            hook.remove()
        out = caught[0].float()
        return out[:, :-1], out[:, -1:].clamp(-10.0, 4.0)


def sample_scenes(rng: np.random.Generator, count: int, gray: float = 0.0) -> list[Scene]:
    """Scenes of any caption: the VAE sees no text, so nothing is held out from it. `gray` is an extra share of gray."""
    captions = all_captions()
    dull = [c for c in captions if c.background == "gray"]
    pools = [dull if rng.random() < gray else captions for _ in range(count)] if gray else [captions] * count
    return [Scene.sample(pool[i], rng) for pool in pools for i in rng.integers(0, len(pool), 1)]


def to_video(frames: np.ndarray) -> torch.Tensor:
    """(B, F, H, W, 3) in [0, 1] to (B, 3, F, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).contiguous() * 2.0 - 1.0


def batch_size(config: dict[str, Any], step: int, rng: np.random.Generator) -> list[int]:
    """(frames, side, batch) of a step: other sizes join late."""
    if step >= config["late"] * config["steps"] and rng.random() < config["late_share"]:
        picked: list[int] = config["late_batches"][rng.integers(len(config["late_batches"]))]
        return picked
    base: list[int] = config["batch"]
    return base


def reconstruction(error: torch.Tensor, video: torch.Tensor, config: dict[str, Any], sharp: float) -> torch.Tensor:
    """Absolute and squared error and that of the outlines, heavier on the shape and three pixels around it."""
    with torch.no_grad():
        contrast = (video - video[..., :1, :1]).abs().amax(1, keepdim=True)
        weight = 1.0 + config["foreground"] * F.max_pool3d((contrast > 0.04).float(), (1, 7, 7), 1, (0, 3, 3))
        if config.get("even"):  # a pale shape on gray counts as much as a bright one on black
            weight = weight * (1.6 / contrast.amax((1, 2, 3, 4), keepdim=True)) ** config["even"]
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    pixels = (weight * ((0.1 + 0.9 * sharp) * error.abs() + 2.0 * error.square())).mean()
    return pixels + sharp * config["edges"] * (across.mean() + down.mean())


def joint_loss(vae: VideoVae, config: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Reconstruction through a noisy latent, plus a small KL term."""
    rng = np.random.default_rng([SEED, 1, step])
    frames, side, count = batch_size(config, step, rng)
    video = to_video(render_batch(sample_scenes(rng, count, config.get("gray", 0.0)), frames, side))
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = vae.moments(video)
        # The floor makes the decoder forgive what the transformer gets slightly wrong.
        latent = mean + torch.sqrt(log_variance.exp() + config["noise_floor"] ** 2) * torch.randn_like(mean)
        output = vae.decoder(latent)
    error = output.float() - video
    ramp = min(1.0, max(0.0, (step / config["steps"] - 0.1) / 0.4))  # absolute error stalls while all is still blur
    sharp = config.get("sharp", ramp)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    loss = reconstruction(error, video, config, sharp) + config["kl"] * divergence
    figures = {"kl": float(divergence.detach()), f"mse_{frames}x{side}": float(error.detach().square().mean())}
    return loss, figures


def decoder_loss(vae: VideoVae, config: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Reconstruction from the frozen encoder's latents with a little noise."""
    rng = np.random.default_rng([SEED, 8, step])
    frames, side, count = batch_size(config, step, rng)
    video = to_video(render_batch(sample_scenes(rng, count), frames, side))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            latent = vae.encoder(video).float()
            latent = latent + config["noise_floor"] * torch.randn_like(latent)
        output = vae.decoder(latent)
    error = output.float() - video
    return reconstruction(error, video, config, 1.0), {f"mse_{frames}x{side}": float(error.detach().square().mean())}


def train(folder: Path, until: float | None = None) -> bool:
    """First stage, encoder and decoder together; its state and curve are in `folder`."""
    torch.manual_seed(SEED)
    vae = VideoVae(VAE_FIRST)
    stage = Stage("video_vae", vae, STAGES["video_vae"], folder)
    return stage.run(lambda step: joint_loss(vae, STAGES["video_vae"], step), until=until)


def fold_shortcut(weight: torch.Tensor, stride: tuple[int, int, int]) -> torch.Tensor:
    """An upsampler's shortcut written into its convolution: the identity of one input channel at the centre tap.

    The shortcut moves channels to places as the convolution's output is moved, and repeats them.
    """
    places = stride[0] * stride[1] * stride[2]
    folded = weight.clone()
    out, channels = weight.shape[:2]
    row = torch.arange(out)
    folded[row, (row // places) % (channels // places) * places + row % places, 1, 1, 1] += 1.0
    return folded


def grown(folder: Path) -> VideoVae:
    """The first stage's averaged weights in the deeper decoder; the added blocks start as the identity."""
    torch.manual_seed(SEED)
    first, vae = VideoVae(VAE_FIRST), VideoVae(VAE)
    Stage("video_vae", first, STAGES["video_vae"], folder).use_average()
    known = first.state_dict()
    for index, block in enumerate(first.decoder.up_blocks):
        if getattr(block, "residual", False):
            key = f"decoder.up_blocks.{index}.conv.conv.weight"
            known[key] = fold_shortcut(known[key], block.stride)
    with torch.no_grad():
        for key, value in vae.state_dict().items():
            if key in known:
                value.copy_(known[key])
            elif ".conv2." in key:
                value.zero_()
    for param in vae.encoder.parameters():
        param.requires_grad_(False)
    return vae


def train_decoder(folder: Path, until: float | None = None) -> bool:
    """Second stage, the deeper decoder alone."""
    vae = grown(folder)
    stage = Stage("video_decoder", vae, STAGES["video_decoder"], folder)
    return stage.run(lambda step: decoder_loss(vae, STAGES["video_decoder"], step), until=until)


def after_decoder(folder: Path) -> VideoVae:
    """The second stage's averaged weights, where it has begun."""
    vae = grown(folder)
    if (folder / "video_decoder.safetensors").exists():
        Stage("video_decoder", vae, STAGES["video_decoder"], folder).use_average()
    return vae


REFINED = ("video_refine", "video_palette")  # encoder and deeper decoder together, each from the one before


def train_refine(folder: Path, until: float | None = None, name: str = "video_refine") -> bool:
    """Encoder and deeper decoder together, pale shapes counting as much as bright ones."""
    vae = trained(folder, before=name).train().requires_grad_(True)
    stage = Stage(name, vae, STAGES[name], folder)
    return stage.run(lambda step: joint_loss(vae, STAGES[name], step), until=until)


def trained(folder: Path, before: str = "") -> VideoVae:
    """The averaged weights of the last stage that has begun, or of the last one before a named stage."""
    vae = after_decoder(folder)
    for name in REFINED[: REFINED.index(before)] if before else REFINED:
        if (folder / f"{name}.safetensors").exists():
            Stage(name, vae.requires_grad_(True), STAGES[name], folder).use_average()
    return vae.eval()
