"""Text (and images) to video with sound in one pass of the full model at the size asked for."""

from __future__ import annotations

from collections.abc import Iterator

from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.conditionings import image_conditionings
from ltx_native.pipelines.denoise import Guidance
from ltx_native.pipelines.diffuse import Start, diffuse
from ltx_native.pipelines.stages import Run, Stage, decode, encode_prompts
from ltx_native.request import Request
from ltx_native.schedule import ltx2_sigmas


def one_stage(
    models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
) -> Iterator[Stage]:
    run = Run.of(models, request, noise, batch_guidance)
    r = run.request
    contexts = yield from encode_prompts(run, {"positive": r.prompt, "negative": r.negative_prompt})
    target = run.video_target()
    latents = yield from diffuse(
        run,
        "stage_1",
        (target, run.audio_target()),
        ltx2_sigmas(r.steps),
        contexts["positive"],
        negative=contexts["negative"],
        guidance=Guidance(r.video_guider(), r.audio_guider()),
        video=Start(items=image_conditionings(run, target)),
    )
    yield from decode(run, *latents, whole=True)
