"""One diffusion stage of any mode: states, schedule, the transformer's loop, and clean latents at the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ltx_native.conditioning import AudioTarget, ConditioningItem, LatentState, VideoTarget
from ltx_native.patchify import unpatchify_audio, unpatchify_video
from ltx_native.pipelines.denoise import Denoiser, Guidance, States, euler
from ltx_native.pipelines.stages import Context, Run, Stage, noised_state, schedule_stage, state_stage
from ltx_native.request import Lora

Loop = Callable[[Denoiser, NDArray[np.float32], LatentState, LatentState], Generator[Stage, None, States]]
Latents = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class Start:
    """Where a modality starts: a latent (zeros without one), its conditionings, and the seed of its noise.

    ``frozen`` keeps the latent as it is: no noise, mask 0, sigma 0.
    """

    latent: mx.array | None = None
    items: Sequence[ConditioningItem] = ()
    seed_offset: int = 0
    frozen: bool = False


def diffuse(
    run: Run,
    part: str,
    targets: tuple[VideoTarget, AudioTarget],
    sigmas: NDArray[np.float32],
    positive: Context,
    *,
    negative: Context | None = None,
    guidance: Guidance | None = None,
    video: Start = Start(),
    audio: Start = Start(seed_offset=1),
    loras: tuple[Lora, ...] | None = None,
    loop: Loop = euler,
    noise_scale: float = 1.0,
) -> Generator[Stage, None, Latents]:
    """Yields ``schedule``, ``state``, every ``step`` and ``stage_latent``; returns its two latents.

    ``noise_scale`` below 1 keeps part of the latents that the stage starts from. Video (1, F, H, W, 128), audio
    (1, T, 16, 8).
    """
    yield schedule_stage(sigmas, part)
    noised = partial(_noised, run, noise_scale=noise_scale)
    states = noised(targets[0], video), noised(targets[1], audio)
    yield state_stage(*states, part)
    states = _frozen(states[0], video), _frozen(states[1], audio)
    with run.models.use("transformer", run.request.loras if loras is None else loras) as transformer:
        denoiser = Denoiser(transformer, positive, negative, guidance, run.batch_guidance)
        states = yield from loop(denoiser, sigmas, *states)
        del denoiser, transformer
    tokens, sound = states[0].latent[:, : targets[0].tokens], states[1].latent[:, : targets[1].tokens]
    latents = unpatchify_video(tokens, targets[0].shape), unpatchify_audio(sound)
    yield Stage("stage_latent", {"video": latents[0], "audio": latents[1]}, values={"stage": part})
    return latents


def _noised(run: Run, target: VideoTarget | AudioTarget, start: Start, noise_scale: float) -> LatentState:
    scale = 0.0 if start.frozen else noise_scale
    return noised_state(run, target, start.items, start.latent, scale, start.seed_offset)


def _frozen(state: LatentState, start: Start) -> LatentState:
    return replace(state, denoise_mask=mx.zeros_like(state.denoise_mask), frozen=True) if start.frozen else state
