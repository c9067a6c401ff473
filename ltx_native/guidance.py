"""Guidance: how the passes of one step are combined."""

from __future__ import annotations

import mlx.core as mx

from ltx_native.guidance_params import PASSES, GuiderParams, passes

__all__ = ["PASSES", "GuiderParams", "guide", "passes", "scaled", "std"]


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
