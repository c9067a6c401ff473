"""A stretch of a given video made anew, picture and (unless it is kept) sound; the rest stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

from ltx_native.conditioning import TemporalRegionMask
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.denoise import Guidance
from ltx_native.pipelines.diffuse import Start, diffuse
from ltx_native.pipelines.source import encode_source, sized_by_source
from ltx_native.pipelines.stages import Run, Stage, decode, encode_prompts
from ltx_native.request import Request
from ltx_native.schedule import ltx2_sigmas


def retake(
    models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
) -> Iterator[Stage]:
    run = Run.of(models, sized_by_source(request), noise, batch_guidance)
    r = run.request
    assert r.retake_start is not None
    assert r.retake_end is not None
    source = encode_source(models, r)
    contexts = yield from encode_prompts(run, {"positive": r.prompt, "negative": r.negative_prompt})
    region = TemporalRegionMask(r.retake_start, r.retake_end)
    if source.audio is None:
        audio = Start(seed_offset=1)
    else:
        heard = region if r.regenerate_audio else TemporalRegionMask(0.0, 0.0)
        audio = Start(source.audio, [heard], seed_offset=1, frozen=not r.regenerate_audio)
    latents = yield from diffuse(
        run,
        "stage_1",
        (run.video_target(), run.audio_target()),
        ltx2_sigmas(r.steps),
        contexts["positive"],
        negative=contexts["negative"],
        guidance=Guidance(r.video_guider(), r.audio_guider()),
        video=Start(source.video, [region]),
        audio=audio,
    )
    yield from decode(run, *latents)
