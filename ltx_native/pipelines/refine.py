"""The second stage that the two-stage modes share: twice the size by the latent upsampler, then a short refinement."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import mlx.core as mx

from ltx_native.conditioning import ConditioningItem
from ltx_native.pipelines.denoise import euler
from ltx_native.pipelines.diffuse import Latents, Loop, Start, diffuse
from ltx_native.pipelines.stages import Context, Run, Stage
from ltx_native.request import Lora
from ltx_native.schedule import STAGE_2_DISTILLED_SIGMAS
from ltx_native.upsampler import upsample_video


def upsample(run: Run, latent: mx.array) -> mx.array:
    """(1, F, H, W, 128) -> (1, F, 2H, 2W, 128)."""
    with run.models.use("video_encoder") as encoder, run.models.use("upsampler") as upsampler:
        larger = upsample_video(latent, encoder, upsampler)
        mx.eval(larger)
    return larger


def refine(
    run: Run,
    latents: Latents,
    positive: Context,
    items: Sequence[ConditioningItem],
    loras: tuple[Lora, ...],
    *,
    audio_frozen: bool = False,
    loop: Loop = euler,
) -> Generator[Stage, None, Latents]:
    """Stage 2 from upsampled video latents and stage 1's audio latents."""
    video = Start(latents[0], items, seed_offset=2)
    audio = Start(latents[1], seed_offset=2, frozen=audio_frozen)
    targets = (run.video_target(), run.audio_target())
    sigmas = STAGE_2_DISTILLED_SIGMAS
    return (
        yield from diffuse(
            run,
            "stage_2",
            targets,
            sigmas,
            positive,
            video=video,
            audio=audio,
            loras=loras,
            loop=loop,
            noise_scale=float(sigmas[0]),
        )
    )
