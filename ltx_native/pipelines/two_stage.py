"""Half size with the full model and guidance, then upsampled and refined with the distilled LoRA."""

from __future__ import annotations

from collections.abc import Iterator

from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.conditionings import image_conditionings
from ltx_native.pipelines.denoise import Guidance
from ltx_native.pipelines.diffuse import Start, diffuse
from ltx_native.pipelines.refine import refine, upsample
from ltx_native.pipelines.stages import Run, Stage, decode, encode_prompts
from ltx_native.request import Request
from ltx_native.schedule import ltx2_sigmas


def two_stage(
    models: Models,
    request: Request,
    *,
    noise: Noise | None = None,
    batch_guidance: bool | None = None,
    replace_first: bool = True,
) -> Iterator[Stage]:
    """``replace_first`` False adds every image as keyframe tokens, the first frame's too (keyframe interpolation)."""
    run = Run.of(models, request, noise, batch_guidance)
    r = run.request
    contexts = yield from encode_prompts(run, {"positive": r.prompt, "negative": r.negative_prompt})
    half, whole = run.video_target(2), run.video_target()
    video, audio = yield from diffuse(
        run,
        "stage_1",
        (half, run.audio_target()),
        ltx2_sigmas(r.steps),
        contexts["positive"],
        negative=contexts["negative"],
        guidance=Guidance(r.video_guider(), r.audio_guider()),
        video=Start(items=image_conditionings(run, half, replace_first)),
    )
    video = upsample(run, video)
    items = image_conditionings(run, whole, replace_first)
    latents = yield from refine(run, (video, audio), contexts["positive"], items, r.loras + r.distilled_loras)
    yield from decode(run, *latents)


def keyframes(
    models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
) -> Iterator[Stage]:
    """Interpolation between images: all of them are keyframe tokens, none replaces a frame."""
    yield from two_stage(models, request, noise=noise, batch_guidance=batch_guidance, replace_first=False)
