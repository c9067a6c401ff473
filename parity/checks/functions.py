"""Native functions on made inputs against the official ones: prompts, conditionings, guidance, tiles, upsamplers, blending."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ltx_native import conditioning, guidance, sampler
from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.conditioning import (
    ConditioningItemAttentionStrengthWrapper,
    VideoConditionByKeyframeIndex,
    VideoConditionByLatentIndex,
    VideoTarget,
)
from ltx_native.models import Models
from ltx_native.patchify import VideoLatentShape
from ltx_native.pipelines import retake, stages
from ltx_native.request import Request
from ltx_native.video_vae.tiling import SpatialTilingConfig, TemporalTilingConfig, TilingConfig
from parity.checks.exam import Array, Clue, Exam, Problem
from parity.checks.facts import GUIDED, PROMPTS
from parity.matrix import inputs

STEP = 1e-5


def _last(array: Array) -> mx.array:
    """A tensor of the official layout with its channels last."""
    return mx.array(np.ascontiguousarray(np.moveaxis(array, 1, -1)))


def prompts(exam: Exam) -> Iterator[Problem]:
    """From the string to ids and mask: spaces, line breaks, and a prompt of more than 1,024 tokens."""
    with Models(exam.native, mx.float32).use("tokenizer") as tokenizer:
        for index, text in enumerate(PROMPTS):
            tokens = tokenizer(text)
            ids, mask = (exam.facts.tensors[f"prompt.{index}.{n}"] for n in ("input_ids", "attention_mask"))
            what = f"the mask of prompt {index} is another"
            given = {"text": text, "input_ids": ids, "attention_mask": mask, "native_ids": np.array(tokens.input_ids[0])}
            clue = Clue(name="attention_mask", given=given)
            yield from exam.compare("prompts", "tokenizer", "tokenizer", tokens.attention_mask[0], mask, 0.0, what, clue)
            valid = mask.astype(bool)
            ours = np.array(tokens.input_ids[0])[valid]
            what = f"the ids of prompt {index} are others ({int(valid.sum())} tokens)"
            clue = Clue(name="input_ids", given={**given, "input_ids": ids[valid], "attention_mask": mask[valid]})
            yield from exam.compare("prompts", "tokenizer", "tokenizer", ours, ids[valid], 0.0, what, clue)


def conditionings(exam: Exam) -> Iterator[Problem]:
    """A replaced frame, a keyframe at frame 8 and a clip at frame 16 with their own attention strengths, 25 fps."""
    clip, image = (_last(exam.facts.given[f"conditioned.{name}"]) for name in ("clip", "image"))
    target = VideoTarget(VideoLatentShape.of(clip), 25.0)
    state = target.initial_state(mx.float32, clip)
    for item in (
        VideoConditionByLatentIndex(image, 0.75, 0),
        ConditioningItemAttentionStrengthWrapper(VideoConditionByKeyframeIndex(image, 8, 0.5), 0.25),
        ConditioningItemAttentionStrengthWrapper(VideoConditionByKeyframeIndex(clip[:, :2], 16, 1.0), 0.5),
    ):
        state = item.apply_to(state, target)
    for name in ("latent", "denoise_mask", "positions", "clean_latent", "attention_mask"):
        official = exam.facts.tensors[f"conditioned.{name}"]
        what = f"`{name}` with two keyframes is another"
        given = {"frame_rate": 25.0, "tokens": 24, "noisy": 24, "appended": [(6, 0.25), (12, 0.5)]}
        clue = Clue(name=name, given=given)
        yield from exam.compare("conditionings", "state", "state.video", getattr(state, name), official, 0.0, what, clue)


def guiding(exam: Exam) -> Iterator[Problem]:
    """The guider with each part on and off; a modality scale of 0 is on."""
    estimates = [mx.array(exam.facts.given[f"guided.{name}"]) for name in ("cond", "uncond", "stg", "modality")]
    for row in GUIDED:
        cfg, stg, modality, rescale = row
        params = guidance.GuiderParams(cfg, stg, (1,), rescale, modality)
        official = exam.facts.tensors["guided." + "-".join(map(str, row))]
        ours = guidance.guide(params, *estimates)
        what = f"guided with cfg {cfg}, stg {stg}, modality {modality}, rescale {rescale}"
        names = ("cond", "uncond_text", "uncond_perturbed", "uncond_modality")
        given = {name: np.array(estimate) for name, estimate in zip(names, estimates, strict=True)}
        scales = {"cfg_scale": cfg, "stg_scale": stg, "modality_scale": modality, "rescale_scale": rescale}
        clue = Clue(given=given | {f"params.{name}": value for name, value in scales.items()})
        yield from exam.compare("guiding", "guidance", "guidance.video", ours, official, STEP, what, clue)
    # The official rule: of every skip_step + 1 steps the first is computed, the others repeat it.
    wrong = [
        (every, step)
        for every in range(4)
        for step in range(9)
        if guidance.GuiderParams(skip_step=every).skips(step) != bool(every and step % (every + 1))
    ]
    text = f"with skip_step {wrong[0][0]}, step {wrong[0][1]} is not treated as officially" if wrong else ""
    yield from exam.require("guiding", "guidance", "guidance.video", not wrong, text)


def blending(exam: Exam) -> Iterator[Problem]:
    """Post-processing at as many tokens as channels, where a lost axis would broadcast without a word; SDE coefficients."""
    rng = np.random.default_rng(9)
    denoised, clean = (rng.standard_normal((1, 128, 128)).astype(np.float32) for _ in range(2))
    mask = rng.uniform(size=(1, 128, 1)).astype(np.float32)
    ours = conditioning.post_process_latent(*map(mx.array, (denoised, mask, clean)))
    expected = denoised * mask + clean * (1 - mask)
    what = "128 tokens of 128 channels"
    clue = Clue(given={"denoised": denoised, "denoise_mask": mask, "clean": clean})
    yield from exam.compare("blending", "post_process", "post_process.video", ours, expected, 1e-6, what, clue)
    for eta in (0.25, 0.5, 1.0):
        sigma = np.float64(0.6)
        up = min(sigma * eta, sigma * 0.9999)
        residual = np.sqrt(sigma**2 - up**2)
        expected = np.array([1 - sigma + residual, residual / (1 - sigma + residual), up])
        found = np.array(sampler.sde_coefficients(sigma, eta))
        what, clue = f"SDE coefficients for eta {eta}", Clue(given={"sigma_next": sigma, "eta": eta})
        yield from exam.compare("blending", "sampler", "sampler.sde", found, expected, 1e-12, what, clue)


def second_order(exam: Exam) -> Iterator[Problem]:
    """The state that the second evaluation of a res_2s step is handed, for a model that halves what it is given."""
    from ltx_native.noise import Draws, Noise
    from ltx_native.pipelines.res_2s import res_2s

    rng = np.random.default_rng(13)
    x, fresh = (rng.standard_normal((1, 6, 128)).astype(np.float32) for _ in range(2))
    handed: list[Array] = []

    class Halving:
        def __call__(self, video: conditioning.LatentState, audio: conditioning.LatentState, sigma: float, step: int) -> object:
            handed.append(np.array(video.latent))
            return (0.5 * video.latent, 0.5 * audio.latent), {}

    target = VideoTarget(VideoLatentShape(1, 2, 3), 25.0)
    state = replace(target.initial_state(mx.float32), latent=mx.array(x))
    double = fresh.astype(np.float64)
    draws = Draws(0, Noise(double, double, {2: double, 3: double}))
    sigma, following = np.float64(np.float32(0.9)), np.float64(np.float32(0.2))
    run = res_2s(draws, Halving(), np.array([0.9, 0.2, 0.0], np.float32), state, state)  # type: ignore[arg-type]
    while len(handed) < 2:
        next(run)
    middle_sigma, h = np.sqrt(sigma * following), -np.log(following / sigma)
    middle = x + h * 0.5 * ((1 - np.exp(-h / 2)) / (h / 2)) * (-0.5 * x.astype(np.float64))
    up = middle_sigma * 0.5
    residual = np.sqrt(middle_sigma**2 - up**2)
    ratio = 1 - middle_sigma + residual
    eps = (x - middle) / (sigma - middle_sigma)
    expected = ratio * (x - sigma * eps + residual / ratio * eps) + up * fresh
    what = "the state between the evaluations"
    levels = {"sigma": sigma, "sigma_next": following}
    clue = Clue(given={"sample": x, "noise": fresh, "denoised": 0.5 * x, **levels})
    yield from exam.compare("second_order", "sampler", "sampler.res_2s", handed[1], expected, 1e-6, what, clue)


def tiles(exam: Exam) -> Iterator[Problem]:
    """A clip that is not square, decoded in tiles of 128 pixels and 16 frames, as the official decoder decodes it."""
    tiling = TilingConfig(SpatialTilingConfig(128, 32), TemporalTilingConfig(16, 8))
    latent = _last(exam.facts.given["tiled.latent"])
    decode = vars(stages)["tiled_decode"]  # as the pipelines call it
    frames = mx.concatenate(list(decode(exam.module("video_decoder"), latent, tiling)), axis=1)
    official = np.moveaxis(exam.facts.tensors["tiled.frames"], 1, -1)
    yield from exam.compare("tiles", "video_decoder", "video_decoder.tiled", frames, official, STEP, "decoded in tiles")


def upsamplers(exam: Exam) -> Iterator[Problem]:
    """The temporal and the rational upsampler on the weights of made files."""
    files = exam.evidence.checkpoint
    for stem, path in exam.facts.variants.items():
        native = NativeCheckpoint.open(str(files.model), str(files.gemma), str(path))
        with Models(native, mx.float32).use("upsampler") as model:
            ours = model(_last(exam.facts.given["upsampler.latent"]))
        official = np.moveaxis(exam.facts.tensors[f"upsampler.{stem}"], 1, -1)
        given = {"latent": np.moveaxis(exam.facts.given["upsampler.latent"], 1, -1), "file": path}
        clue = Clue(type="LatentUpsampler", given=given)
        yield from exam.compare("upsamplers", "upsampler", "upsampler", ours, official, STEP, stem, clue)


def sources(exam: Exam) -> Iterator[Problem]:
    """A source of 20 frames counts as 17: the last whole 8k + 1."""
    path = str(inputs()["odd_clip"])
    sized = vars(retake)["sized_by_source"](
        Request("x", source_video_path=path, mode="retake", retake_start=0.1, retake_end=0.3)
    )
    text = f"20 frames of a source became {sized.num_frames}, expected 17"
    yield from exam.require("sources", "video_encoder", "video_encoder", sized.num_frames == 17, text)


def wiring(exam: Exam) -> Iterator[Problem]:
    """A mask between tokens has to reach the model, and mean there what it says."""
    from ltx_native.pipelines.denoise import Denoiser
    from ltx_native.pipelines.stages import Context
    from ltx_native.transformer import model as models

    clip = _last(exam.facts.given["conditioned.clip"])
    target = VideoTarget(VideoLatentShape.of(clip), 25.0)
    mask = mx.array(exam.facts.tensors["conditioned.attention_mask"][:, : target.tokens, : target.tokens])
    state = replace(target.initial_state(mx.float32, clip), attention_mask=mask)
    nothing = Context(mx.zeros((1, 8, 64)), mx.zeros((1, 8, 32)), mx.ones((1, 8)))
    given = Denoiser(exam.module("transformer"), nothing, batch=False)._modality(state, 0.5)
    reached = given.attention_mask is not None and bool(mx.array_equal(given.attention_mask, mask))
    text = "an attention mask of the state does not reach the model"
    yield from exam.require("wiring", "transformer", "transformer", reached, text)
    weights = mx.array([[[1.0, 0.5], [0.0, 1.0]]])
    bias = vars(models)["self_attention_bias"](weights, mx.float32)
    assert bias is not None
    expected = np.exp(np.array(bias, dtype=np.float64)).reshape(2, 2)
    clue = Clue(name="self_attention_bias")
    yield from exam.compare(
        "wiring", "transformer", "transformer", expected, np.array(weights)[0], 1e-6, "weights as a bias", clue
    )
