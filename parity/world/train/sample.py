"""Batched sampling with the modules under training: the official schedule, Euler steps and guidance, many captions at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from parity.world.oracle import Reading, read
from parity.world.scene import ATTRIBUTES, Caption
from parity.world.train.audio import latent_frames
from parity.world.train.networks import TRANSFORMER
from parity.world.train.prepare import text_features, trained_vae
from parity.world.train.recipe import STAGES
from parity.world.train.state import Stage, without_gradients
from parity.world.train.transformer import PASSES, TextToVideo, modality, positions
from parity.world.train.video_vae import VideoVae


@dataclass(frozen=True)
class Guidance:
    """Steps and classifier-free guidance of video and audio; 1 switches guidance off."""

    steps: int = 20
    video: float = 3.0
    audio: float = 3.0


def rounded(module: torch.nn.Module) -> torch.nn.Module:
    """Round every weight to bfloat16 and back: what is evaluated is what is shipped."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(tensor.bfloat16().float())
    return module


def trained_transformer(folder: Path) -> TextToVideo:
    """The averaged weights of the last transformer stage that has begun, rounded."""
    names = [n for n in PASSES if (folder / f"{n}.safetensors").exists()]
    if not names:
        raise FileNotFoundError(f"{folder}: no state of the transformer; run the stage `transformer` first")
    net = TextToVideo(TRANSFORMER)
    Stage(names[-1], net, STAGES[names[-1]], folder).use_average()
    rounded(net)
    return net.eval()


@without_gradients
def sample_latents(
    net: TextToVideo,
    folder: Path,
    prompts: Sequence[str],
    negative: str,
    seeds: Sequence[int],
    guidance: Guidance,
    frames: int = 9,
    side: int = 64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Video (B, T, 128) and audio (B, A, 128) tokens, normalised."""
    from ltx_core.components.schedulers import LTX2Scheduler

    text = text_features(folder, [*prompts, negative])
    contexts = [net.exact_context(row[: int(n)]) for row, n in zip(text["features"], text["counts"], strict=True)]
    guided = guidance.video != 1.0 or guidance.audio != 1.0
    sides = [contexts[:-1], contexts[-1:] * len(prompts)] if guided else [contexts[:-1]]
    sigmas = LTX2Scheduler().execute(steps=guidance.steps)
    grids = positions(frames, side)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    tokens = grids[0].shape[2], latent_frames(frames)
    latent = [torch.stack([torch.randn(n, 128, generator=g) for g in generators]) for n in tokens]
    for sigma, following in itertools.pairwise(sigmas):
        level = sigma.expand(len(prompts))
        clean = []
        for part in sides:
            pairs = [torch.cat([c[k] for c in part]) for k in (0, 1)]
            inputs = [modality(latent[k], level, grids[k], pairs[k], None) for k in (0, 1)]
            velocity = net.model(inputs[0], inputs[1], None)
            clean.append([latent[k] - sigma * velocity[k] for k in (0, 1)])
        for k, scale in ((0, guidance.video), (1, guidance.audio)):
            target = clean[0][k] + (scale - 1.0) * (clean[0][k] - clean[-1][k])
            latent[k] = latent[k] + (latent[k] - target) / sigma * (following - sigma)
    return latent[0], latent[1]


@without_gradients
def decode(vae: VideoVae, tokens: torch.Tensor, frames: int = 9, side: int = 64) -> np.ndarray:
    """(B, F, H, W, 3) float32 in [0, 1]."""
    grid = side // 32
    latent = tokens.transpose(1, 2).reshape(len(tokens), 128, -1, grid, grid)
    video = vae.decoder(latent).clamp(-1.0, 1.0)
    return np.asarray(((video + 1.0) / 2.0).permute(0, 2, 3, 4, 1).numpy())


def score(videos: np.ndarray, captions: Sequence[Caption]) -> tuple[dict[str, float], list[Reading]]:
    """The share of clips whose attribute the oracle reads as asked, and of clips with all four right."""
    readings = [read(video) for video in videos]
    rows = [reading.correct(caption) for reading, caption in zip(readings, captions, strict=True)]
    shares = {name: float(np.mean([row[name] for row in rows])) for name in ATTRIBUTES}
    shares["all"] = float(np.mean([all(row.values()) for row in rows]))
    return shares, readings


def contact_sheet(videos: np.ndarray, path: Path, columns: int = 2, shown: Sequence[int] = (0, 2, 4, 6, 8)) -> None:
    """A PNG of several frames of every clip, row by row."""
    from PIL import Image

    strips = [np.concatenate([video[t] for t in shown], axis=1) for video in videos]
    while len(strips) % columns:
        strips.append(np.zeros_like(strips[0]))
    rows = [np.concatenate(strips[i : i + columns], axis=1) for i in range(0, len(strips), columns)]
    image = Image.fromarray(np.clip(np.concatenate(rows) * 255.0, 0, 255).astype(np.uint8))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


def quick_look(folder: Path, captions: Sequence[Caption], guidance: Guidance, sheet: Path | None = None) -> dict[str, float]:
    """Sample, decode and score captions with the stage's present weights."""
    net, vae = trained_transformer(folder), trained_vae(folder)
    rounded(vae)
    video, _ = sample_latents(net, folder, [c.text for c in captions], "", [1000 + i for i in range(len(captions))], guidance)
    clips = decode(vae, video)
    shares, _ = score(clips, captions)
    if sheet is not None:
        contact_sheet(clips[:24], sheet)
    return shares
