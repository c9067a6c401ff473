"""Text (and images) to video with sound in one pass of the full model at the size asked for."""

from __future__ import annotations

from collections.abc import Iterator

from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.patchify import unpatchify_audio, unpatchify_video
from ltx_native.pipelines.conditionings import image_conditionings
from ltx_native.pipelines.denoise import Denoiser, Guidance, euler
from ltx_native.pipelines.stages import Run, Stage, decode, encode_prompts, noised_state, schedule_stage, state_stage
from ltx_native.request import Request
from ltx_native.schedule import ltx2_sigmas


def one_stage(
    models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
) -> Iterator[Stage]:
    run = Run.of(models, request, noise, batch_guidance)
    r = run.request
    assert r.negative_prompt is not None
    assert r.steps is not None

    contexts = yield from encode_prompts(run, {"positive": r.prompt, "negative": r.negative_prompt})
    target, audio_target = run.video_target(), run.audio_target()
    images = image_conditionings(run, target)

    sigmas = ltx2_sigmas(r.steps)
    yield schedule_stage(sigmas, "stage_1")
    video = noised_state(run, target, images, seed_offset=0)
    audio = noised_state(run, audio_target, seed_offset=1)
    yield state_stage(video, audio, "stage_1")

    with models.use("transformer", r.loras) as transformer:
        guidance = Guidance(r.video_guider(), r.audio_guider())
        denoiser = Denoiser(transformer, contexts["positive"], contexts["negative"], guidance, run.batch_guidance)
        video, audio = yield from euler(denoiser, sigmas, video, audio)
        del denoiser

    video_latent = unpatchify_video(video.latent[:, : target.tokens], target.shape)
    yield from decode(run, video_latent, unpatchify_audio(audio.latent))
