"""In-context LoRA: reference videos are appended as clean tokens in stage 1 of the distilled model."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from ltx_native.conditioning import ConditioningItem, VideoConditionByReferenceLatent, VideoTarget
from ltx_native.errors import RequestError
from ltx_native.lora import LoRA
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.patchify import SPACE_SCALE
from ltx_native.pipelines.conditionings import image_conditionings
from ltx_native.pipelines.diffuse import Start, diffuse
from ltx_native.pipelines.refine import refine, upsample
from ltx_native.pipelines.stages import Run, Stage, decode, encode_prompts
from ltx_native.request import Lora, Request
from ltx_native.schedule import DISTILLED_SIGMAS


def ic_lora(
    models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
) -> Iterator[Stage]:
    run = Run.of(models, request, noise, batch_guidance)
    positive = (yield from encode_prompts(run, {"positive": run.request.prompt}))["positive"]
    half, whole = run.video_target(2), run.video_target()
    start = Start(items=[*image_conditionings(run, half), *reference_conditionings(run, half)])
    video, audio = yield from diffuse(run, "stage_1", (half, run.audio_target()), DISTILLED_SIGMAS, positive, video=start)
    video = upsample(run, video)
    # The adapter has done its work; stage 2 refines with the plain distilled model.
    latents = yield from refine(run, (video, audio), positive, image_conditionings(run, whole), loras=())
    yield from decode(run, *latents)


def reference_conditionings(run: Run, target: VideoTarget) -> list[ConditioningItem]:
    """The request's reference videos at the size that the adapter was trained with."""
    from ltx_native.media import load_video

    r = run.request
    factor = downscale_factor(r.loras)
    height, width = target.shape.height * SPACE_SCALE, target.shape.width * SPACE_SCALE
    if height % (factor * SPACE_SCALE) or width % (factor * SPACE_SCALE):
        raise RequestError(
            "the size does not suit the adapter's reference videos",
            "width, height",
            (r.width, r.height),
            f"multiples of {2 * factor * SPACE_SCALE}",
            "Change the size",
        )
    items: list[ConditioningItem] = []
    with run.models.use("video_encoder") as encoder:
        for path, strength in r.reference_videos:
            pixels = load_video(path, height // factor, width // factor, r.num_frames)
            latent = encoder(mx.array(pixels).astype(run.dtype))
            mx.eval(latent)
            items.append(VideoConditionByReferenceLatent(latent, factor, strength))
    return items


def downscale_factor(loras: tuple[Lora, ...]) -> int:
    """``reference_downscale_factor`` of the adapters' metadata; adapters that disagree are refused."""
    factors = {lora.path: int(LoRA.open(lora.path).metadata.get("reference_downscale_factor", 1)) for lora in loras}
    told = {factor for factor in factors.values() if factor != 1}
    if len(told) > 1:
        raise RequestError("the adapters want references of different sizes", "loras", factors, "one factor", "Use one adapter")
    return told.pop() if told else 1
