"""Guidance: which passes run, how they are combined, and that batching them changes nothing."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx_native.conditioning import AudioTarget, VideoTarget
from ltx_native.guidance import GuiderParams, guide, passes, std
from ltx_native.patchify import VideoLatentShape
from ltx_native.pipelines.denoise import Denoiser, Guidance
from ltx_native.pipelines.stages import Context
from tests.native.models import tiny_transformer

OFF = GuiderParams()
FULL = GuiderParams(cfg_scale=3.0, stg_scale=1.0, stg_blocks=(1,), rescale_scale=0.7, modality_scale=3.0)


@pytest.mark.parametrize(
    ("video", "audio", "expected"),
    [
        (OFF, OFF, ("cond",)),
        (FULL, FULL, ("cond", "uncond", "stg", "modality")),
        (GuiderParams(cfg_scale=3.0), OFF, ("cond", "uncond")),
        (OFF, GuiderParams(stg_scale=0.5), ("cond", "stg")),
        (GuiderParams(modality_scale=2.0), GuiderParams(cfg_scale=7.0), ("cond", "uncond", "modality")),
    ],
)
def test_a_pass_runs_when_either_modality_wants_it(video: GuiderParams, audio: GuiderParams, expected: tuple[str, ...]) -> None:
    assert passes(video, audio) == expected


def test_guidance_is_the_weighted_sum_of_differences() -> None:
    cond, uncond, stg, modality = (mx.array([[x]]) for x in (1.0, 0.5, 0.25, 0.75))
    params = GuiderParams(cfg_scale=3.0, stg_scale=2.0, modality_scale=1.5)
    assert guide(params, cond, uncond, stg, modality).item() == 1 + 2 * 0.5 + 2 * 0.75 + 0.5 * 0.25
    assert guide(OFF, cond).item() == 1.0


def test_full_rescale_restores_the_deviation() -> None:
    cond, uncond = mx.random.normal((1, 50, 8)), mx.random.normal((1, 50, 8))
    guided = guide(GuiderParams(cfg_scale=5.0, rescale_scale=1.0), cond, uncond)
    assert std(guided).item() == pytest.approx(std(cond).item(), rel=1e-5)


def test_deviation_is_unbiased() -> None:
    x = np.random.default_rng(0).normal(5, 2, (1, 40, 16)).astype(np.float32)
    assert std(mx.array(x)).item() == pytest.approx(x.astype(np.float64).std(ddof=1), rel=1e-6)


def test_guidance_keeps_bfloat16() -> None:
    x = [mx.random.normal((1, 6, 4)).astype(mx.bfloat16) for _ in range(4)]
    assert guide(FULL, *x).dtype == mx.bfloat16


def denoised(
    audio_steps_skipped: int = 0, frozen_audio: bool = False, masked: bool = False, steps: int = 3, **options: bool | None
) -> list[mx.array]:
    """Guided estimates of a few steps of a tiny model."""
    from dataclasses import replace

    model = tiny_transformer()
    mx.random.seed(4)
    video = VideoTarget(VideoLatentShape(2, 2, 2), 24.0).initial_state(mx.float32)
    audio = AudioTarget(6).initial_state(mx.float32)
    video, audio = (replace(s, latent=mx.random.normal(s.latent.shape)) for s in (video, audio))
    if masked:
        half = mx.array([0.25] * 4 + [1.0] * 4).reshape(1, 8, 1)
        video = replace(video, denoise_mask=half)
    if frozen_audio:
        audio = replace(audio, denoise_mask=mx.zeros_like(audio.denoise_mask), frozen=True)
    texts = [Context(mx.random.normal((1, 128, 64)), mx.random.normal((1, 128, 32)), mx.ones((1, 128))) for _ in (0, 1)]
    sound = GuiderParams(7.0, 1.0, (0,), 0.7, 2.0, audio_steps_skipped)
    denoiser = Denoiser(model, texts[0], texts[1], Guidance(FULL, sound), **options)
    return [x for step in range(steps) for x in denoiser(video, audio, 0.9 - 0.2 * step, step)[0]]


@pytest.mark.parametrize("case", [{}, {"masked": True}, {"frozen_audio": True}, {"audio_steps_skipped": 1}])
def test_batched_passes_agree_with_one_after_the_other(case: dict[str, bool]) -> None:
    for one, batched in zip(denoised(batch=False, **case), denoised(batch=True, **case), strict=True):
        assert mx.abs(one - batched).max() < 2e-5 * mx.abs(one).max()


def test_compiled_passes_agree_with_eager_ones() -> None:
    for eager, compiled in zip(denoised(batch=True, compiled=False), denoised(batch=True, compiled=True), strict=True):
        assert mx.abs(eager - compiled).max() < 2e-5 * mx.abs(eager).max()


def test_a_skipped_step_repeats_the_last_estimate() -> None:
    results = denoised(audio_steps_skipped=1, batch=True)
    video, audio = results[0::2], results[1::2]
    assert mx.array_equal(audio[0], audio[1])
    assert not mx.array_equal(audio[1], audio[2])
    assert not mx.array_equal(video[0], video[1])


@pytest.mark.parametrize("scale", ["cfg_scale", "stg_scale", "modality_scale"])
def test_every_strength_changes_the_estimate(scale: str) -> None:
    """A wiring gate: a switch that reaches nothing would pass every comparison of a run without it."""
    from dataclasses import replace

    base, mine = denoised(steps=1, batch=True)[0], replace(FULL, **{scale: getattr(FULL, scale) + 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "FULL", mine)
        changed = denoised(steps=1, batch=True)[0]
    assert mx.abs(base - changed).max() > 1e-4
