"""The distilled model: eight fixed steps at half size, upsampled, three fixed steps; no guidance."""

from __future__ import annotations

from collections.abc import Iterator

from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.conditionings import image_conditionings
from ltx_native.pipelines.diffuse import Start, diffuse
from ltx_native.pipelines.refine import refine, upsample
from ltx_native.pipelines.stages import Run, Stage, decode, encode_prompts
from ltx_native.request import Request
from ltx_native.schedule import DISTILLED_SIGMAS


def distilled(
    models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
) -> Iterator[Stage]:
    run = Run.of(models, request, noise, batch_guidance)
    positive = (yield from encode_prompts(run, {"positive": run.request.prompt}))["positive"]
    half, whole = run.video_target(2), run.video_target()
    start = Start(items=image_conditionings(run, half))
    video, audio = yield from diffuse(run, "stage_1", (half, run.audio_target()), DISTILLED_SIGMAS, positive, video=start)
    video = upsample(run, video)
    items = image_conditionings(run, whole)
    latents = yield from refine(run, (video, audio), positive, items, run.request.loras)
    yield from decode(run, *latents)
