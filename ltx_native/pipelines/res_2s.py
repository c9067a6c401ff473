"""The second-order sampler of the high-quality mode: two evaluations per step, fresh noise at both, in float64.

The state between evaluations lives on the host: its latents are small, and GPUs have no float64.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ltx_native.conditioning import LatentState, post_process_latent
from ltx_native.noise import Draws
from ltx_native.pipelines.denoise import Denoiser, States
from ltx_native.pipelines.stages import Stage
from ltx_native.sampler import res_2s_coefficients, sde_step

Doubles = list[NDArray[np.float64]]  # video, audio

LAST_SIGMA = 0.0011  # stands in for 0, whose logarithm is infinite
ANCHOR_STEPS = 100
ANCHOR_BELOW_H, ANCHOR_ABOVE_SIGMA = 0.5, 0.03


def res_2s(
    draws: Draws, denoiser: Denoiser, sigmas: NDArray[np.float32], video: LatentState, audio: LatentState
) -> Generator[Stage, None, States]:
    """Steps through ``sigmas``: two ``substep`` stages, each with its ``noised``, and a ``step``; returns the last states."""
    steps = len(sigmas) - 1
    if sigmas[-1] == 0:
        sigmas = np.concatenate([sigmas[:-1], np.array([LAST_SIGMA, 0.0], dtype=np.float32)])
    sizes = -np.log(sigmas[1:-1].astype(np.float64) / sigmas[:-2].astype(np.float64))
    dtype = video.latent.dtype

    for step in range(steps):
        sigma, sigma_next = np.float64(sigmas[step]), np.float64(sigmas[step + 1])
        h = float(sizes[step])
        a21, b1, b2 = res_2s_coefficients(h)
        states = (video, audio)
        anchors = [_double(state.latent) for state in states]

        first, named = _estimate(denoiser, states, float(sigma), step)
        yield Stage("substep", named, step=step, values={"sigma": float(sigma)})
        eps = [d - x for d, x in zip(first, anchors, strict=True)]
        middle = [x + h * a21 * e for x, e in zip(anchors, eps, strict=True)]
        sub_sigma = np.sqrt(sigma * sigma_next)
        noise = draws.sde(step * 10000 + 1, tuple(tuple(s.latent.shape) for s in states))
        middle, moves = _noised(states, anchors, middle, sigma, sub_sigma, noise)
        yield Stage("noised", moves, step=step)

        if h < ANCHOR_BELOW_H and sigma > ANCHOR_ABOVE_SIGMA:
            # The noise has moved the middle: look for the start from which the half step would have led there.
            for _ in range(ANCHOR_STEPS):
                anchors = [m - h * a21 * e for m, e in zip(middle, eps, strict=True)]
                eps = [d - x for d, x in zip(first, anchors, strict=True)]

        moved = (replace(video, latent=_single(middle[0], dtype)), replace(audio, latent=_single(middle[1], dtype)))
        second, named = _estimate(denoiser, moved, float(sub_sigma), 0)
        yield Stage("substep", named, step=step, values={"sigma": float(sub_sigma)})
        eps_2 = [d - x for d, x in zip(second, anchors, strict=True)]
        following = [x + h * (b1 * e + b2 * f) for x, e, f in zip(anchors, eps, eps_2, strict=True)]
        noise = draws.sde(step * 10000 + 2, tuple(tuple(s.latent.shape) for s in states))
        following, moves = _noised(states, anchors, following, sigmas[step], sigmas[step + 1], noise)
        yield Stage("noised", moves, step=step)
        video = replace(video, latent=_single(following[0], dtype))
        audio = replace(audio, latent=_single(following[1], dtype))
        latents = {"video.latent": video.latent, "audio.latent": audio.latent}
        yield Stage("step", latents, step=step, values={"sigma": float(sigma), "sigma_next": float(sigma_next)})

    if sigmas[-1] == 0:
        last, named = _estimate(denoiser, (video, audio), float(sigmas[steps]), steps)
        video = replace(video, latent=_single(last[0], dtype))
        audio = replace(audio, latent=_single(last[1], dtype))
        named = {**named, "video.latent": video.latent, "audio.latent": audio.latent}
        yield Stage("step", named, step=steps, values={"sigma": float(sigmas[steps]), "sigma_next": 0.0})
    return video, audio


def _estimate(denoiser: Denoiser, states: States, sigma: float, step: int) -> tuple[Doubles, dict[str, mx.array]]:
    guided, named = denoiser(*states, sigma, step)
    clean = [post_process_latent(g, s.denoise_mask, s.clean_latent) for g, s in zip(guided, states, strict=True)]
    mx.eval(clean)
    named = {**named, "video.post_processed": clean[0], "audio.post_processed": clean[1]}
    return [_double(x) for x in clean], named


def _noised(
    states: States,
    samples: Doubles,
    denoised: Doubles,
    sigma: np.floating,
    sigma_next: np.floating,
    noise: Doubles,
) -> tuple[Doubles, dict[str, mx.array]]:
    """Step each modality to ``sigma_next`` with fresh noise, and put back what is conditioned; both, too, by name."""
    results: Doubles = []
    named: dict[str, mx.array] = {}
    for name, state, sample, target, fresh in zip(("video", "audio"), states, samples, denoised, noise, strict=True):
        moved = sde_step(sample, target, sigma, sigma_next, fresh)
        mask, clean = _double(state.denoise_mask), _double(state.clean_latent)
        results.append(moved * mask + clean * (1 - mask))
        named[f"{name}.stepped"], named[f"{name}.blended"] = (_single(x, mx.float32) for x in (moved, results[-1]))
    return results, named


def _double(x: mx.array) -> NDArray[np.float64]:
    return np.array(x.astype(mx.float32), dtype=np.float64)


def _single(x: NDArray[np.float64], dtype: mx.Dtype) -> mx.array:
    return mx.array(x.astype(np.float32)).astype(dtype)
