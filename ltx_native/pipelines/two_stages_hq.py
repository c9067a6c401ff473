"""Two stages with the second-order sampler; the distilled LoRA helps in both, weakly in the first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.conditionings import image_conditionings
from ltx_native.pipelines.denoise import Guidance
from ltx_native.pipelines.diffuse import Start, diffuse
from ltx_native.pipelines.refine import refine, upsample
from ltx_native.pipelines.res_2s import res_2s
from ltx_native.pipelines.stages import Run, Stage, decode, encode_prompts
from ltx_native.request import Lora, Request
from ltx_native.schedule import ltx2_sigmas

STAGE_1_STRENGTH, STAGE_2_STRENGTH = 0.25, 0.5


def two_stages_hq(
    models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
) -> Iterator[Stage]:
    run = Run.of(models, request, noise, batch_guidance)
    r = run.request
    contexts = yield from encode_prompts(run, {"positive": r.prompt, "negative": r.negative_prompt})
    half, whole = run.video_target(2), run.video_target()
    loop = partial(res_2s, run.draws)
    video, audio = yield from diffuse(
        run,
        "stage_1",
        (half, run.audio_target()),
        ltx2_sigmas(r.steps, tokens=half.tokens),  # the only mode whose schedule follows the size
        contexts["positive"],
        negative=contexts["negative"],
        guidance=Guidance(r.video_guider(), r.audio_guider()),
        video=Start(items=image_conditionings(run, half)),
        loras=r.loras + _at(r.distilled_loras, STAGE_1_STRENGTH),
        loop=loop,
    )
    video = upsample(run, video)
    items = image_conditionings(run, whole)
    loras = r.loras + _at(r.distilled_loras, STAGE_2_STRENGTH)
    latents = yield from refine(run, (video, audio), contexts["positive"], items, loras, loop=loop)
    yield from decode(run, *latents)


def _at(loras: tuple[Lora, ...], strength: float) -> tuple[Lora, ...]:
    return tuple(Lora(lora.path, lora.strength * strength) for lora in loras)
