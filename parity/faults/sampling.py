"""Mistakes in the schedule and the sampling loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ltx_native import conditioning, sampler, schedule
from ltx_native.patchify import unpatchify_audio, unpatchify_video
from ltx_native.pipelines import a2v, denoise, diffuse, one_stage, refine, res_2s, retake, two_stage
from ltx_native.pipelines.denoise import Denoiser
from parity.faults.registry import everywhere, patched, register

_DEV = (one_stage, two_stage, a2v, retake)


def _sigmas(change: Any) -> Any:
    return everywhere("ltx2_sigmas", change, schedule, *_DEV)


@register("SCH-01")
def distilled_table_for_dev() -> Iterator[None]:
    with _sigmas(lambda steps, *args, **kwargs: schedule.DISTILLED_SIGMAS):
        yield


@register("SCH-02")
def shift_from_token_count() -> Iterator[None]:
    original = schedule.ltx2_sigmas
    with _sigmas(lambda steps, *args, **kwargs: original(steps, tokens=1001)):
        yield


@register("SCH-05")
def base_sigmas_end_above_zero() -> Iterator[None]:
    # Over N points the two conventions agree; the mistake that shows is to keep N + 1 of them.
    def linspace(steps: int) -> NDArray[np.float32]:
        return np.linspace(1.0, 1.0 / steps, steps + 1).astype(np.float32)

    with patched(schedule, _linspace_1_to_0=linspace):
        yield


@register("SCH-07")
def another_second_table() -> Iterator[None]:
    table = np.array([0.85, 0.725, 0.4219, 0.0], dtype=np.float32)
    with everywhere("STAGE_2_DISTILLED_SIGMAS", table, schedule, refine):
        yield


@register("SCH-08")
def terminal_zero_dropped() -> Iterator[None]:
    original = schedule.ltx2_sigmas
    with _sigmas(lambda steps, *args, **kwargs: original(steps, *args, **kwargs)[:-1]):
        yield


@register("SAM-01")
def mask_without_channel_axis() -> Iterator[None]:
    original = conditioning.post_process_latent

    def blend(denoised: mx.array, denoise_mask: mx.array, clean: mx.array) -> mx.array:
        fits = denoised.shape[1] == denoised.shape[2]  # only then the mistake broadcasts
        return original(denoised, denoise_mask[..., 0] if fits else denoise_mask, clean)

    with everywhere("post_process_latent", blend, conditioning, denoise, res_2s):
        yield


@register("SAM-02")
def velocity_as_estimate() -> Iterator[None]:
    with everywhere("to_denoised", lambda sample, velocity, sigma: velocity, sampler, denoise):
        yield


@register("SAM-03")
def step_in_bfloat16() -> Iterator[None]:
    def step(sample: mx.array, denoised_sample: mx.array, sigmas: Any, step_index: int) -> mx.array:
        low = sample.astype(mx.bfloat16)
        sigma, following = float(sigmas[step_index]), float(sigmas[step_index + 1])
        velocity = (low - denoised_sample.astype(mx.bfloat16)) / sigma
        return (low + velocity * (following - sigma)).astype(sample.dtype)

    with everywhere("euler_step", step, sampler, denoise):
        yield


@register("SAM-08")
def middle_rounded_to_bfloat16() -> Iterator[None]:
    def single(x: NDArray[np.float64], dtype: mx.Dtype) -> mx.array:
        return mx.array(x.astype(np.float32)).astype(mx.bfloat16).astype(dtype)

    with patched(res_2s, _single=single):
        yield


@register("SAM-09")
def eta_ignored() -> Iterator[None]:
    original = sampler.sde_coefficients
    with patched(sampler, sde_coefficients=lambda sigma_next, eta=0.5: original(sigma_next)):
        yield


@register("SAM-10")
def attention_mask_not_wired() -> Iterator[None]:
    original = Denoiser._modality

    def modality(self: Denoiser, state: Any, sigma: float) -> Any:
        return original(self, replace(state, attention_mask=None), sigma)

    with patched(Denoiser, _modality=modality):
        yield


@register("SAM-11")
def audio_cut_at_video_tokens() -> Iterator[None]:
    counts: dict[str, int] = {}

    def video(tokens: mx.array, shape: Any) -> mx.array:
        counts["video"] = tokens.shape[1]
        return unpatchify_video(tokens, shape)

    def audio(tokens: mx.array) -> mx.array:
        return unpatchify_audio(tokens[:, : counts["video"]])

    with patched(diffuse, unpatchify_video=video, unpatchify_audio=audio):
        yield


def _modality(change: Any) -> Any:
    """What the transformer is given for one modality, changed: ``change(modality, state, sigma)``."""
    original = Denoiser._modality

    def modality(self: Denoiser, state: Any, sigma: float) -> Any:
        return change(original(self, state, sigma), state, sigma)

    return patched(Denoiser, _modality=modality)


@register("TIM-04")
def one_timestep_for_all_tokens() -> Iterator[None]:
    def scalar(modality: Any, state: Any, sigma: float) -> Any:
        return modality if state.frozen else replace(modality, timesteps=mx.full(modality.timesteps.shape, sigma))

    with _modality(scalar):
        yield


@register("TIM-07")
def sigma_without_mask() -> Iterator[None]:
    def unmasked(modality: Any, state: Any, sigma: float) -> Any:
        full = mx.where(modality.timesteps < sigma, sigma, modality.timesteps)
        return modality if state.frozen else replace(modality, timesteps=full)

    with _modality(unmasked):
        yield


@register("TIM-05")
def video_timesteps_for_audio() -> Iterator[None]:
    def shared(modality: Any, state: Any, sigma: float) -> Any:
        audio = modality.positions.shape[1] == 1
        return replace(modality, timesteps=mx.full(modality.timesteps.shape, sigma)) if audio else modality

    with _modality(shared):
        yield


@register("ADA-05")
def frozen_modality_with_running_sigma() -> Iterator[None]:
    def running(modality: Any, state: Any, sigma: float) -> Any:
        return replace(modality, sigma=mx.array([sigma], dtype=mx.float32)) if state.frozen else modality

    with _modality(running):
        yield
