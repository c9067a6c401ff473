"""Guidance: how the passes of one step are combined, and which passes a step needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx

#: In the order in which the passes run.
PASSES = ("cond", "uncond", "stg", "modality")


@dataclass(frozen=True)
class GuiderParams:
    """Strengths for one modality. cfg 1, stg 0, modality 1 and rescale 0 switch each part off."""

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] | None = ()
    rescale_scale: float = 0.0
    modality_scale: float = 1.0
    skip_step: int = 0

    @property
    def wants_uncond(self) -> bool:
        return not math.isclose(self.cfg_scale, 1.0)

    @property
    def wants_stg(self) -> bool:
        return not math.isclose(self.stg_scale, 0.0)

    @property
    def wants_modality(self) -> bool:
        return not math.isclose(self.modality_scale, 1.0)

    def skips(self, step: int) -> bool:
        """With ``skip_step`` n, only every (n+1)-th step is computed; the others repeat the last estimate."""
        return self.skip_step != 0 and step % (self.skip_step + 1) != 0


def passes(video: GuiderParams, audio: GuiderParams) -> tuple[str, ...]:
    """The passes a step needs: both modalities go through every pass that either of them wants."""
    wanted = {
        "cond": True,
        "uncond": video.wants_uncond or audio.wants_uncond,
        "stg": video.wants_stg or audio.wants_stg,
        "modality": video.wants_modality or audio.wants_modality,
    }
    return tuple(name for name in PASSES if wanted[name])


def guide(
    params: GuiderParams,
    cond: mx.array,
    uncond_text: mx.array | float = 0.0,
    uncond_perturbed: mx.array | float = 0.0,
    uncond_modality: mx.array | float = 0.0,
) -> mx.array:
    """The guided estimate of x0; a pass that was not run is 0.0, as officially."""
    guided = (
        cond
        + scaled(cond - uncond_text, params.cfg_scale - 1)
        + scaled(cond - uncond_perturbed, params.stg_scale)
        + scaled(cond - uncond_modality, params.modality_scale - 1)
    )
    if params.rescale_scale != 0:
        factor = std(cond) / std(guided)
        factor = scaled(factor, params.rescale_scale)
        factor = (factor.astype(mx.float32) + (1 - params.rescale_scale)).astype(cond.dtype)
        guided = guided * factor
    return guided


def scaled(x: mx.array, factor: float) -> mx.array:
    # A Python number times bfloat16 is computed in float32 and rounded once by torch; MLX would round the number first.
    return x * factor if x.dtype == mx.float32 else (x.astype(mx.float32) * factor).astype(x.dtype)


def std(x: mx.array) -> mx.array:
    """Unbiased standard deviation over all elements, in float32, two passes, returned in the dtype of ``x``."""
    centred = x.astype(mx.float32)
    centred = centred - mx.mean(centred)
    return mx.sqrt(mx.sum(centred * centred) / (x.size - 1)).astype(x.dtype)
