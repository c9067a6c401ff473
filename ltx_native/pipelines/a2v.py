"""Sound to video: the sound's latents are given and stay as they are, the picture is made to them in two stages."""

from __future__ import annotations

from collections.abc import Iterator

from ltx_native.errors import RequestError
from ltx_native.guidance import GuiderParams
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.conditionings import image_conditionings
from ltx_native.pipelines.denoise import Guidance
from ltx_native.pipelines.diffuse import Start, diffuse
from ltx_native.pipelines.refine import refine, upsample
from ltx_native.pipelines.sound import encode_sound, fitted
from ltx_native.pipelines.stages import Context, Run, Stage, decode, encode_prompts
from ltx_native.request import Request
from ltx_native.schedule import ltx2_sigmas


def a2v(models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None) -> Iterator[Stage]:
    run = Run.of(models, request, noise, batch_guidance)
    r = run.request
    assert run.sound is not None
    frames = run.audio_target().frames
    sound = encode_sound(models, run.sound)
    if sound.shape[1] < frames:
        raise RequestError(
            "the sound is shorter than the clip",
            "audio_path",
            f"{run.sound.duration:.3f} seconds",
            f"{r.num_frames / r.frame_rate:.3f} seconds or more",
            "Use a longer sound or fewer frames",
        )
    sound = fitted(sound, frames)
    contexts = yield from encode_prompts(run, {"positive": r.prompt, "negative": r.negative_prompt})
    positive, negative = contexts["positive"], contexts["negative"]
    half, whole = run.video_target(2), run.video_target()
    video, _ = yield from diffuse(
        run,
        "stage_1",
        (half, run.audio_target()),
        ltx2_sigmas(r.steps),
        positive,
        # Nothing guides the sound, so its text stays the positive one.
        negative=Context(negative.video, positive.audio, negative.mask),
        guidance=Guidance(r.video_guider(), GuiderParams()),
        video=Start(items=image_conditionings(run, half)),
        audio=Start(sound, seed_offset=1, frozen=True),
    )
    video = upsample(run, video)
    items = image_conditionings(run, whole)
    loras = r.loras + r.distilled_loras
    latents = yield from refine(run, (video, sound), positive, items, loras, audio_frozen=True)
    yield from decode(run, *latents)
