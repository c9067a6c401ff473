"""Mistakes in guidance: how the passes are perturbed, batched and combined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import mlx.core as mx

from ltx_native import guidance
from ltx_native.pipelines import denoise
from ltx_native.pipelines.denoise import Denoiser
from ltx_native.request import Request, ResolvedRequest
from ltx_native.sampler import to_denoised
from ltx_native.transformer import passes
from ltx_native.transformer.perturbations import BatchedPerturbationConfig, PerturbationConfig
from parity.faults.registry import everywhere, patched, register


@register("GUI-01")
def uncentred_rescale() -> Iterator[None]:
    def rms(x: mx.array) -> mx.array:
        return mx.sqrt(mx.mean(mx.square(x.astype(mx.float32)))).astype(x.dtype)

    with patched(guidance, std=rms):
        yield


@register("GUI-04")
def audio_not_guided() -> Iterator[None]:
    original = Denoiser._guide

    def guide(self: Denoiser, index: int, estimates: Any, skipped: bool) -> mx.array:
        return estimates["cond"][1] if index == 1 else original(self, index, estimates, skipped)

    with patched(Denoiser, _guide=guide):
        yield


def _guide(change: Any) -> Any:
    original = guidance.guide

    def guide(params: Any, *estimates: Any) -> mx.array:
        return original(change(params), *estimates)

    return everywhere("guide", guide, guidance, denoise)


@register("GUI-05")
def no_modality_term() -> Iterator[None]:
    with _guide(lambda params: replace(params, modality_scale=1.0)):
        yield


@register("GUI-06")
def zero_read_the_other_way() -> Iterator[None]:
    # The official 1.0.0 guider counts a modality scale of 0 as on (factor -1); the mistake is to read it otherwise.
    with _guide(lambda params: replace(params, modality_scale=params.modality_scale or 1.0)):
        yield


@register("GUI-10")
def mask_of_another_rank() -> Iterator[None]:
    original = BatchedPerturbationConfig.mask_like

    def mask_like(self: Any, *args: Any) -> mx.array | None:
        mask = original(self, *args)
        return None if mask is None else mask[..., None]

    with patched(BatchedPerturbationConfig, mask_like=mask_like):
        yield


@register("GUI-12")
def guided_as_velocity() -> Iterator[None]:
    original = Denoiser.__call__
    at: dict[str, Any] = {}

    def call(self: Denoiser, video: Any, audio: Any, sigma: float, step: int) -> Any:
        at.update(states=(video, audio), sigma=sigma)
        return original(self, video, audio, sigma, step)

    guide = Denoiser._guide

    def in_velocity(self: Denoiser, index: int, estimates: Any, skipped: bool) -> mx.array:
        sample, sigma = at["states"][index].latent, at["sigma"]
        velocities: Any = {name: list(both) for name, both in estimates.items()}
        for both in velocities.values():
            both[index] = (sample - both[index]) / sigma
        return to_denoised(sample, guide(self, index, velocities, skipped), sigma)

    with patched(Denoiser, __call__=call, _guide=in_velocity):
        yield


@register("GUI-14")
def isolation_off_by_default() -> Iterator[None]:
    original = Request.resolved

    def resolved(self: Request) -> ResolvedRequest:
        found = original(self)
        values = {item.name: getattr(found, item.name) for item in fields(ResolvedRequest)}
        return ResolvedRequest(**values | ({"modality_scale": 1.0} if self.modality_scale is None else {}))

    with patched(Request, resolved=resolved):
        yield


@register("MEM-02")
def perturbations_lost_in_batch() -> Iterator[None]:
    original = passes.run_batched

    def unperturbed(model: Any, video: Any, audio: Any, jobs: Any) -> Any:
        nothing = PerturbationConfig.empty()
        return original(model, video, audio, [replace(job, perturbations=nothing) for job in jobs])

    with everywhere("run_batched", unperturbed, passes, denoise):
        yield
