"""New frames before or after a given video: its latents stay as they are, the new ones start from noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlx.core as mx

from ltx_native.conditioning import LatentState, Target
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.patchify import TIME_SCALE
from ltx_native.pipelines.denoise import Guidance
from ltx_native.pipelines.diffuse import Start, diffuse
from ltx_native.pipelines.source import encode_source, sized_by_source
from ltx_native.pipelines.stages import Run, Stage, decode, encode_prompts
from ltx_native.request import Request
from ltx_native.schedule import ltx2_sigmas


@dataclass(frozen=True)
class KeptTokens:
    """Conditioning that keeps ``count`` tokens, the last ones (``at_end``) or the first, and denoises the others."""

    count: int
    at_end: bool

    def apply_to(self, latent_state: LatentState, target: Target) -> LatentState:
        kept, new = mx.zeros((1, self.count, 1)), mx.ones((1, target.tokens - self.count, 1))
        parts = [new, kept] if self.at_end else [kept, new]
        return replace(latent_state, denoise_mask=mx.concatenate(parts, axis=1))


def extend(
    models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
) -> Iterator[Stage]:
    given = sized_by_source(request)
    source = encode_source(models, given)
    assert given.num_frames is not None
    assert given.extend_frames is not None
    longer = replace(given, num_frames=given.num_frames + TIME_SCALE * given.extend_frames)
    run = Run.of(models, longer, noise, batch_guidance)
    r = run.request
    before = r.extend_direction == "before"
    contexts = yield from encode_prompts(run, {"positive": r.prompt, "negative": r.negative_prompt})
    target, audio_target = run.video_target(), run.audio_target()
    latents = yield from diffuse(
        run,
        "stage_1",
        (target, audio_target),
        ltx2_sigmas(r.steps),
        contexts["positive"],
        negative=contexts["negative"],
        guidance=Guidance(r.video_guider(), r.audio_guider()),
        video=_start(source.video, target.shape.frames, target.shape.height * target.shape.width, before, 0),
        audio=Start(seed_offset=1) if source.audio is None else _start(source.audio, audio_target.frames, 1, before, 1),
    )
    yield from decode(run, *latents)


def _start(latent: mx.array, frames: int, tokens_per_frame: int, before: bool, seed_offset: int) -> Start:
    """A latent grown with zeros to ``frames``, of which the given part is kept."""
    given = latent.shape[1]
    new = mx.zeros((1, frames - given, *latent.shape[2:]), dtype=latent.dtype)
    grown = mx.concatenate([new, latent] if before else [latent, new], axis=1)
    return Start(grown, [KeptTokens(given * tokens_per_frame, before)], seed_offset)
