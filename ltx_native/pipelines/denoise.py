"""The denoising loops: guidance passes, estimate of x0, step to the next noise level."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import partial

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ltx_native.conditioning import LatentState, post_process_latent
from ltx_native.guidance import GuiderParams, guide, passes
from ltx_native.pipelines.stages import Context, Stage
from ltx_native.sampler import euler_step, to_denoised
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.model import LTXModel
from ltx_native.transformer.passes import Pass, Velocities, can_batch, run_batched, run_one
from ltx_native.transformer.perturbations import Perturbation, PerturbationConfig, PerturbationType

States = tuple[LatentState, LatentState]
Both = tuple[mx.array, mx.array]
Program = Callable[..., list[mx.array]]

#: Bytes of activations that batched passes may take; about a dozen arrays of feed-forward width live at once.
BATCH_BYTES = 4 << 30
LIVE_ARRAYS = 12


@dataclass(frozen=True)
class Guidance:
    """Guider strengths of both modalities; without any the conditional pass alone is run (distilled models)."""

    video: GuiderParams
    audio: GuiderParams


@dataclass
class Denoiser:
    """x0 estimates of one run. Keeps what does not change from step to step and the last estimates (skip_step).

    ``compiled`` fuses batched passes into one program from the second step on; None does so on a GPU, where that costs
    nothing. On a CPU MLX calls a C++ compiler for it: worth it for a small model with many steps only.
    """

    model: LTXModel
    positive: Context
    negative: Context | None = None
    guidance: Guidance | None = None
    batch: bool | None = None
    compiled: bool | None = None
    last: Both | None = None
    _rows: dict[int, tuple[mx.array, mx.array, mx.array | None]] = field(default_factory=dict)
    _programs: dict[tuple[object, ...], Program] = field(default_factory=dict)

    def __call__(self, video: LatentState, audio: LatentState, sigma: float, step: int) -> tuple[Both, dict[str, mx.array]]:
        """Guided estimates (video, audio) and every pass's own, by name ``video.denoised.cond`` and so on."""
        skip_video, skip_audio = self._skips(step)
        if skip_video and skip_audio and self.last is not None:
            return self.last, {"video.guided": self.last[0], "audio.guided": self.last[1]}
        jobs = self._passes(not skip_video, not skip_audio)
        modalities = self._modality(video, sigma), self._modality(audio, sigma)
        velocities = self._run(*modalities, jobs)

        named: dict[str, mx.array] = {}
        estimates: dict[str, Both] = {}
        for job, (v, a) in zip(jobs, velocities, strict=True):
            estimates[job.name] = (
                to_denoised(video.latent, v, _timesteps(video, sigma)),
                to_denoised(audio.latent, a, _timesteps(audio, sigma)),
            )
            named[f"video.denoised.{job.name}"], named[f"audio.denoised.{job.name}"] = estimates[job.name]
        guided = (self._guide(0, estimates, skip_video), self._guide(1, estimates, skip_audio))
        self.last = guided
        return guided, {**named, "video.guided": guided[0], "audio.guided": guided[1]}

    def _skips(self, step: int) -> tuple[bool, bool]:
        if self.guidance is None:
            return False, False
        return self.guidance.video.skips(step), self.guidance.audio.skips(step)

    def _passes(self, video_enabled: bool, audio_enabled: bool) -> list[Pass]:
        cond = Pass("cond", self.positive.video, self.positive.audio, video_enabled=video_enabled, audio_enabled=audio_enabled)
        if self.guidance is None:
            return [cond]
        video, audio = self.guidance.video, self.guidance.audio
        without_self = [
            Perturbation(kind, None if params.stg_blocks is None else list(params.stg_blocks))
            for params, kind in (
                (video, PerturbationType.SKIP_VIDEO_SELF_ATTN),
                (audio, PerturbationType.SKIP_AUDIO_SELF_ATTN),
            )
            if params.wants_stg
        ]
        without_each_other = [
            Perturbation(PerturbationType.SKIP_A2V_CROSS_ATTN, None),
            Perturbation(PerturbationType.SKIP_V2A_CROSS_ATTN, None),
        ]
        made = {
            "cond": cond,
            "stg": replace(cond, name="stg", perturbations=PerturbationConfig(without_self)),
            "modality": replace(cond, name="modality", perturbations=PerturbationConfig(without_each_other)),
        }
        if self.negative is not None:
            made["uncond"] = Pass("uncond", self.negative.video, self.negative.audio)
        return [made[name] for name in passes(video, audio)]

    def _run(self, video: Modality, audio: Modality, jobs: list[Pass]) -> list[Velocities]:
        batch = self._fits(video, audio, jobs) if self.batch is None else self.batch
        if batch and can_batch(jobs):
            return self._program(video, audio, jobs)
        done = []
        for job in jobs:
            done.append(run_one(self.model, video, audio, job))
            mx.eval(done[-1])
        return done

    def _program(self, video: Modality, audio: Modality, jobs: list[Pass]) -> list[Velocities]:
        """All passes in one batch, compiled when that was asked for and everything constant has been computed once."""
        compiled = mx.default_device().type == mx.DeviceType.gpu if self.compiled is None else self.compiled
        compiled = compiled and not self.model.streamed
        constant = (*(id(m.positions) for m in (video, audio)), *(id(m.attention_mask) for m in (video, audio)))
        key = (tuple(job.name for job in jobs), jobs[0].video_enabled, jobs[0].audio_enabled, *constant)
        if not compiled or key not in self._programs:
            done = run_batched(self.model, video, audio, jobs)
            if compiled:
                # Positions, masks and texts become part of the program; what changes from step to step goes in.
                self._programs[key] = mx.compile(partial(_velocities, self.model, video, audio, jobs))
            return done
        flat = self._programs[key](*_changing(video), *_changing(audio))
        return list(zip(flat[: len(jobs)], flat[len(jobs) :], strict=True))

    def _fits(self, video: Modality, audio: Modality, jobs: list[Pass]) -> bool:
        config, size = self.model.config, video.latent.dtype.size
        tokens = video.latent.shape[1] * config.inner_dim + audio.latent.shape[1] * config.audio_inner_dim
        scores = config.num_attention_heads * video.latent.shape[1] ** 2
        return len(jobs) * size * (tokens * 4 * LIVE_ARRAYS + scores) <= BATCH_BYTES

    def _modality(self, state: LatentState, sigma: float) -> Modality:
        sigma = 0.0 if state.frozen else sigma
        values, rows = self._noise_rows(state)
        return Modality(
            latent=state.latent,
            sigma=mx.array([sigma], dtype=mx.float32),
            timesteps=values * sigma,
            timestep_rows=rows,
            positions=state.positions,
            context=self.positive.video,
            attention_mask=state.attention_mask,
        )

    def _noise_rows(self, state: LatentState) -> tuple[mx.array, mx.array | None]:
        """The distinct values of the denoise mask and which one each token has; usually all tokens share one.

        Without batching the mask is used as it is, so that every site has the official shape.
        """
        mask = state.denoise_mask
        if self.batch is False:
            return mask, None
        if id(mask) not in self._rows:
            values, rows = np.unique(np.array(mask).reshape(-1), return_inverse=True)
            distinct = mx.array(values.astype(np.float32)).reshape(1, -1, 1)
            if len(values) == 1:
                self._rows[id(mask)] = mask, distinct, None
            elif len(values) * 4 <= mask.shape[1]:
                self._rows[id(mask)] = mask, distinct, mx.array(rows.astype(np.int32))
            else:
                self._rows[id(mask)] = mask, mask, None
        return self._rows[id(mask)][1:]

    def _guide(self, index: int, estimates: dict[str, Both], skipped: bool) -> mx.array:
        if self.guidance is None:
            return estimates["cond"][index]
        if skipped and self.last is not None:
            return self.last[index]
        params = (self.guidance.video, self.guidance.audio)[index]
        others = [estimates[name][index] if name in estimates else 0.0 for name in ("uncond", "stg", "modality")]
        return guide(params, estimates["cond"][index], *others)


def _changing(modality: Modality) -> tuple[mx.array, mx.array, mx.array]:
    return modality.latent, modality.sigma, modality.timesteps


def _velocities(model: LTXModel, video: Modality, audio: Modality, jobs: list[Pass], *changing: mx.array) -> list[mx.array]:
    """``run_batched`` with its changing inputs as arguments and a flat result: all video velocities, then all audio."""
    video = replace(video, latent=changing[0], sigma=changing[1], timesteps=changing[2])
    audio = replace(audio, latent=changing[3], sigma=changing[4], timesteps=changing[5])
    done = run_batched(model, video, audio, jobs)
    return [v for v, _ in done] + [a for _, a in done]


def _timesteps(state: LatentState, sigma: float) -> mx.array:
    return state.denoise_mask * (0.0 if state.frozen else sigma)


def euler(
    denoiser: Denoiser, sigmas: NDArray[np.float32], video: LatentState, audio: LatentState
) -> Generator[Stage, None, States]:
    """First-order steps through all ``sigmas``; yields one stage per step and returns the last states."""
    for step in range(len(sigmas) - 1):
        sigma = float(sigmas[step])
        guided, named = denoiser(video, audio, sigma, step)
        clean = _post_process(guided, video, audio)
        video = replace(video, latent=euler_step(video.latent, clean[0], sigmas, step))
        audio = replace(audio, latent=euler_step(audio.latent, clean[1], sigmas, step))
        mx.eval(video.latent, audio.latent)
        yield _step_stage(step, named, clean, video, audio, sigma, float(sigmas[step + 1]))
    return video, audio


def _post_process(guided: Both, video: LatentState, audio: LatentState) -> Both:
    return (
        post_process_latent(guided[0], video.denoise_mask, video.clean_latent),
        post_process_latent(guided[1], audio.denoise_mask, audio.clean_latent),
    )


def _step_stage(
    step: int,
    named: dict[str, mx.array],
    clean: Both,
    video: LatentState,
    audio: LatentState,
    sigma: float,
    sigma_next: float,
) -> Stage:
    done = {
        "video.post_processed": clean[0],
        "audio.post_processed": clean[1],
        "video.latent": video.latent,
        "audio.latent": audio.latent,
    }
    return Stage("step", {**named, **done}, step=step, values={"sigma": sigma, "sigma_next": sigma_next})
