"""Train the official spatial x2 latent upsampler: latents of 64 px clips to those of the same scenes at 128 px."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from parity.world.render import render_batch
from parity.world.train.networks import UPSAMPLER
from parity.world.train.prepare import trained_vae
from parity.world.train.recipe import SEED, STAGES
from parity.world.train.state import Stage
from parity.world.train.video_vae import VideoVae, sample_scenes, to_video


def build(config: dict[str, Any]) -> nn.Module:
    """The module of a config."""
    from ltx_core.model.upsampler import LatentUpsamplerConfigurator

    module: nn.Module = LatentUpsamplerConfigurator.from_config(config)
    return module


def loss_of(net: nn.Module, vae: VideoVae, config: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Squared error of normalised latents; the network itself works on latents as the VAE makes them."""
    rng = np.random.default_rng([SEED, 6, step])
    scenes = sample_scenes(rng, config["batch"])
    statistics = vae.encoder.per_channel_statistics
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = vae.encoder(to_video(render_batch(scenes, 9, 64))).float()
        high = vae.encoder(to_video(render_batch(scenes, 9, 128))).float()
    made = statistics.normalize(net(statistics.un_normalize(low)))
    loss = F.mse_loss(made, high)
    return loss, {"latent_mse": float(loss.detach())}


def train(folder: Path, until: float | None = None) -> bool:
    """Run or resume the stage."""
    vae = trained_vae(folder)
    torch.manual_seed(SEED)
    net = build(UPSAMPLER)
    stage = Stage("upsampler", net, STAGES["upsampler"], folder)
    return stage.run(lambda step: loss_of(net, vae, STAGES["upsampler"], step), until=until)


def trained_upsampler(folder: Path) -> nn.Module:
    """The averaged weights."""
    net = build(UPSAMPLER)
    Stage("upsampler", net, STAGES["upsampler"], folder).use_average()
    return net.eval()
