"""A model in MLX with the external CLI's module paths and class names: small enough for a test, real enough to be tapped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class PerturbationType(Enum):
    SKIP_A2V_CROSS_ATTN = 1
    SKIP_VIDEO_SELF_ATTN = 2


@dataclass(frozen=True)
class Perturbation:
    type: PerturbationType


@dataclass(frozen=True)
class PerturbationConfig:
    perturbations: list[Any]


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn1 = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)

    def __call__(self, x: mx.array, skip: bool = False, block_idx: int = 0) -> mx.array:
        y = self.to_out(nn.gelu(self.attn1(x)))
        x[:, :1] = x[:, :1] * 2  # an in-place change of an argument, which a trace must not show
        return x if skip else x + y


class LTXModel(nn.Module):
    def __init__(self, dim: int = 8, layers: int = 3, stream: bool = False) -> None:
        super().__init__()
        self.stream = stream
        self.layers = layers
        self.transformer_blocks = [Block(dim) for _ in range(1 if stream else layers)]

    def __call__(self, video_latent: mx.array, audio_latent: mx.array, text: mx.array, perturbations: Any = None) -> Any:
        skip = perturbations is not None
        compiled = mx.compile(self.transformer_blocks[0], inputs=self.transformer_blocks[0]) if self.stream else None
        x = mx.concatenate([video_latent, audio_latent], axis=1) + text
        for index in range(self.layers):
            block = compiled if compiled is not None else self.transformer_blocks[index]
            x = block(x, skip=skip, block_idx=index)
        return x[:, : video_latent.shape[1]], x[:, video_latent.shape[1] :]


class X0Model(nn.Module):
    def __init__(self, model: LTXModel) -> None:
        super().__init__()
        self.model = model

    def __call__(self, video_latent, audio_latent, sigma, video_text_embeds=None, perturbations=None):  # type: ignore[no-untyped-def]
        v, a = self.model(video_latent, audio_latent, video_text_embeds, perturbations=perturbations)
        return video_latent - sigma * v, audio_latent - sigma * a


@dataclass(frozen=True)
class GuiderParams:
    cfg_scale: float = 3.0


class MultiModalGuider:
    params = GuiderParams()

    def calculate(self, cond: Any, uncond_text: Any, uncond_perturbed: Any, uncond_modality: Any) -> Any:
        return cond + 2.0 * (cond - uncond_text) + (cond - uncond_perturbed) + 2.0 * (cond - uncond_modality)


@dataclass
class LatentState:
    latent: Any
    clean_latent: Any
    denoise_mask: Any
    positions: Any


def create_initial_state(shape: tuple[int, ...], seed: int, positions: Any) -> LatentState:
    mx.random.seed(seed)
    noise = mx.random.normal(shape).astype(mx.bfloat16)
    return LatentState(noise, mx.zeros(shape), mx.ones((*shape[:2], 1)), positions)


def apply_denoise_mask(x0: Any, clean_latent: Any, denoise_mask: Any) -> Any:
    return x0 * denoise_mask + clean_latent * (1.0 - denoise_mask)
