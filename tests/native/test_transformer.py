"""The transformer beyond the golden: batches, masks, shared noise levels, dtypes, names."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx_native.transformer.args import context_bias, self_attention_bias
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.passes import Pass, run_batched, run_one
from ltx_native.transformer.perturbations import (
    BatchedPerturbationConfig,
    Perturbation,
    PerturbationConfig,
    PerturbationType,
)
from tests.native.models import CONFIG, tiny_transformer

VIDEO, AUDIO, TEXT = 12, 7, 16
KINDS = tuple(PerturbationType)


def modalities(batch: int = 1, seed: int = 0, dtype: mx.Dtype = mx.float32) -> tuple[Modality, Modality]:
    """Both modalities with a different noise level for every token and sample."""
    mx.random.seed(seed)

    def one(tokens: int, axes: int, width: int) -> Modality:
        return Modality(
            latent=mx.random.normal((batch, tokens, 128)).astype(dtype),
            sigma=mx.random.uniform(shape=(batch,)),
            timesteps=mx.random.uniform(shape=(batch, tokens, 1)),
            positions=mx.random.uniform(high=40, shape=(batch, axes, tokens, 2)),
            context=mx.random.normal((batch, TEXT, width)).astype(dtype),
        )

    return one(VIDEO, 3, 64), one(AUDIO, 1, 32)


def row(modality: Modality, i: int) -> Modality:
    names = ("latent", "sigma", "timesteps", "positions", "context", "context_mask", "attention_mask")
    given = {name: getattr(modality, name) for name in names}
    return replace(modality, **{name: value[i : i + 1] for name, value in given.items() if value is not None})


def close(a: mx.array, b: mx.array, bound: float = 1e-5) -> bool:
    return float(mx.linalg.norm(a - b) / mx.linalg.norm(b)) < bound


def skips(*kinds: PerturbationType, blocks: list[int] | None = None) -> PerturbationConfig:
    return PerturbationConfig([Perturbation(kind, blocks) for kind in kinds])


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_sample_does_not_depend_on_its_batch(kind: PerturbationType | None) -> None:
    model = tiny_transformer()
    video, audio = modalities(batch=3)
    configs = [PerturbationConfig.empty(), skips(kind) if kind else PerturbationConfig.empty(), PerturbationConfig.empty()]
    together = model(video, audio, BatchedPerturbationConfig(configs))
    for i, config in enumerate(configs):
        alone = model(row(video, i), row(audio, i), BatchedPerturbationConfig([config]))
        assert close(together[0][i : i + 1], alone[0])
        assert close(together[1][i : i + 1], alone[1])


@pytest.mark.parametrize(
    "names", ["cond", "cond uncond", "cond stg", "cond uncond stg", "cond stg uncond", "cond uncond modality stg"]
)
def test_batched_passes_agree_with_each_alone(names: str) -> None:
    """Whichever passes share a text: each reads its own, from the first block on and where it joins later."""
    model = tiny_transformer()
    video, audio = modalities()
    cond = Pass("cond", video.context, audio.context)
    made = {
        "cond": cond,
        "uncond": Pass("uncond", -video.context, -audio.context),
        "stg": replace(cond, perturbations=skips(PerturbationType.SKIP_VIDEO_SELF_ATTN, blocks=[1])),
        "modality": replace(cond, perturbations=skips(PerturbationType.SKIP_A2V_CROSS_ATTN)),
    }
    jobs = [made[name] for name in names.split()]
    for job, batched in zip(jobs, run_batched(model, video, audio, jobs), strict=True):
        alone = run_one(model, video, audio, job)
        assert close(batched[0], alone[0])
        assert close(batched[1], alone[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_perturbation_reaches_its_modality(kind: PerturbationType) -> None:
    model = tiny_transformer()
    plain = model(*modalities())
    for blocks in (None, [1]):
        perturbed = model(*modalities(), BatchedPerturbationConfig([skips(kind, blocks=blocks)]))
        # In the last block only the modality itself can change; before that it reaches the other one.
        own = 0 if kind in (PerturbationType.SKIP_VIDEO_SELF_ATTN, PerturbationType.SKIP_A2V_CROSS_ATTN) else 1
        assert not close(perturbed[own], plain[own], 1e-3)


def test_a_perturbation_of_another_block_changes_nothing() -> None:
    model = tiny_transformer()
    plain = model(*modalities())
    other = model(*modalities(), BatchedPerturbationConfig([skips(*KINDS, blocks=[7])]))
    assert mx.array_equal(plain[0], other[0])
    assert mx.array_equal(plain[1], other[1])


def test_one_shared_noise_level_is_the_same_as_one_per_token() -> None:
    model = tiny_transformer()
    video, audio = modalities(batch=2)
    shared = video.sigma.reshape(2, 1, 1)
    per_token = model(replace(video, timesteps=mx.broadcast_to(shared, (2, VIDEO, 1))), audio)
    at_once = model(replace(video, timesteps=shared), audio)
    assert close(at_once[0], per_token[0], 1e-6)
    assert close(at_once[1], per_token[1], 1e-6)


def test_a_few_noise_levels_by_row_are_the_same_as_one_per_token() -> None:
    model = tiny_transformer()
    video, audio = modalities()
    rows = mx.array([0, 0, 1, 2] * 3)
    levels = mx.array([0.1, 0.6, 0.9]).reshape(1, 3, 1)
    by_row = model(replace(video, timesteps=levels, timestep_rows=rows), audio)
    per_token = model(replace(video, timesteps=mx.take(levels, rows, axis=1)), audio)
    assert close(by_row[0], per_token[0], 1e-6)
    assert close(by_row[1], per_token[1], 1e-6)


def test_every_noise_level_matters() -> None:
    """Own timesteps, own sigma (prompt AdaLN) and the other's sigma (gate) each change the output."""
    model = tiny_transformer()
    video, audio = modalities()
    plain = model(video, audio)[0]
    for changed in (
        (replace(video, timesteps=video.timesteps * 0.5), audio),
        (replace(video, sigma=video.sigma * 0.5), audio),
        (video, replace(audio, sigma=audio.sigma * 0.5)),
    ):
        assert not close(model(*changed)[0], plain, 1e-3)


def test_masked_text_tokens_do_not_count() -> None:
    model = tiny_transformer()
    video, audio = modalities()
    mask = mx.array([[0] * 5 + [1] * (TEXT - 5)])
    garbage = mx.concatenate([1e3 * mx.ones((1, 5, 64)), video.context[:, 5:]], axis=1)
    first = model(replace(video, context_mask=mask), audio)[0]
    second = model(replace(video, context_mask=mask, context=garbage), audio)[0]
    assert close(first, second)
    assert not close(model(replace(video, context=garbage), audio)[0], first, 1e-3)


def test_masked_tokens_do_not_see_each_other() -> None:
    model = tiny_transformer()
    video, audio = modalities()
    mask = np.ones((1, VIDEO, VIDEO), dtype=np.float32)
    mask[:, :6, 6:] = mask[:, 6:, :6] = 0
    isolated = BatchedPerturbationConfig([skips(PerturbationType.SKIP_A2V_CROSS_ATTN, PerturbationType.SKIP_V2A_CROSS_ATTN)])
    changed = mx.concatenate([video.latent[:, :6], video.latent[:, 6:] + 1], axis=1)
    first = model(replace(video, attention_mask=mx.array(mask)), audio, isolated)[0]
    second = model(replace(video, attention_mask=mx.array(mask), latent=changed), audio, isolated)[0]
    assert close(first[:, :6], second[:, :6])
    assert not close(first[:, 6:], second[:, 6:], 1e-3)


def test_biases_of_masks() -> None:
    bias = self_attention_bias(mx.array([[[1.0, 0.5], [0.0, 1.0]]]), mx.float32)
    assert bias.shape == (1, 1, 2, 2)
    assert bias[0, 0, 0].tolist() == pytest.approx([0.0, np.log(0.5)])
    assert bias[0, 0, 1, 0].item() == mx.finfo(mx.float32).min
    assert context_bias(mx.array([[0, 1]]), mx.bfloat16).dtype == mx.bfloat16
    given = mx.array([[-1.0, 0.0]])
    assert context_bias(given, mx.float32) is given


@pytest.mark.parametrize("which", [0, 1])
def test_a_modality_switched_off_stays_and_is_still_heard(which: int) -> None:
    model = tiny_transformer()
    given = list(modalities())
    given[which] = replace(given[which], enabled=False)
    off = model(*given)
    on = model(*modalities())
    assert not close(off[which], on[which], 1e-3)
    alone = model(*(m if i != which else None for i, m in enumerate(modalities())))
    assert alone[which] is None
    assert not close(off[1 - which], alone[1 - which], 1e-3)


def test_bfloat16_stays_bfloat16_and_near_float32() -> None:
    half = tiny_transformer(dtype=mx.bfloat16)
    outputs = half(*modalities(dtype=mx.bfloat16))
    exact = tiny_transformer()(*modalities())
    for output, expected in zip(outputs, exact, strict=True):
        assert output.dtype == mx.bfloat16
        assert close(output.astype(mx.float32), expected, 0.1)


@pytest.mark.parametrize(
    "change", [{"rope_type": "interleaved"}, {"cross_attention_adaln": False}, {"apply_gated_attention": False}]
)
def test_other_switches_run_and_matter(change: dict[str, object]) -> None:
    config = replace(CONFIG, **change)
    output = tiny_transformer(config)(*modalities())[0]
    assert output.shape == (1, VIDEO, 128)
    assert not close(output, tiny_transformer()(*modalities())[0], 1e-3)


def test_parameters_bear_the_official_names() -> None:
    names = {name for name, _ in tree_flatten(tiny_transformer().parameters())}
    for expected in (
        "patchify_proj.weight",
        "adaln_single.emb.timestep_embedder.linear_1.bias",
        "av_ca_a2v_gate_adaln_single.linear.weight",
        "transformer_blocks.1.attn1.to_out.0.weight",
        "transformer_blocks.0.audio_ff.net.2.bias",
        "transformer_blocks.0.scale_shift_table_a2v_ca_video",
        "transformer_blocks.1.prompt_scale_shift_table",
        "audio_proj_out.bias",
    ):
        assert expected in names
    assert len(names) == 230


def test_rope_tables_are_kept_for_a_run_and_not_for_ever() -> None:
    model = tiny_transformer()
    video, audio = modalities()
    model(video, audio)
    kept = dict(model._rope_tables)
    model(replace(video, latent=video.latent + 1), audio)
    assert model._rope_tables == kept
    for seed in range(6):
        model(*modalities(seed=seed))
    assert len(model._rope_tables) <= 8
