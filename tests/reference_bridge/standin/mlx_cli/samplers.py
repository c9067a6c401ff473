"""The guided loop of the stand-in: four passes a step, guidance, blending, an Euler step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx
from ltx_core_mlx.components.guiders import MultiModalGuider
from ltx_core_mlx.conditioning.types.latent_cond import (
    LatentState,
    Perturbation,
    PerturbationConfig,
    PerturbationType,
    apply_denoise_mask,
)


def euler_step(x: Any, x0: Any, sigma: float, sigma_next: float) -> Any:
    return x + (x - x0) / sigma * (sigma_next - sigma)


class DenoiseOutput(NamedTuple):
    video_latent: mx.array
    audio_latent: mx.array


def guided_denoise_loop(
    model: Any, video: LatentState, audio: LatentState, text: Any, negative: Any, sigmas: list[float]
) -> Any:
    v, a = video.latent, audio.latent
    for sigma, sigma_next in pairwise(sigmas):
        common = {"video_latent": v, "audio_latent": a, "sigma": mx.array(sigma)}

        def perturbed(kind: PerturbationType) -> Any:
            config = PerturbationConfig([Perturbation(kind)])
            return type("Batched", (), {"perturbations": [config]})()

        cond = model(**common, video_text_embeds=text)
        uncond = model(**common, video_text_embeds=negative)
        stg = model(**common, video_text_embeds=text, perturbations=perturbed(PerturbationType.SKIP_VIDEO_SELF_ATTN))
        other = model(**common, video_text_embeds=text, perturbations=perturbed(PerturbationType.SKIP_A2V_CROSS_ATTN))
        guider = MultiModalGuider()
        v0, a0 = (guider.calculate(*parts) for parts in zip(cond, uncond, stg, other, strict=True))
        v0 = apply_denoise_mask(v0, video.clean_latent, video.denoise_mask)
        a0 = apply_denoise_mask(a0, audio.clean_latent, audio.denoise_mask)
        v, a = euler_step(v, v0, sigma, sigma_next), euler_step(a, a0, sigma, sigma_next)
    return DenoiseOutput(v, a)
