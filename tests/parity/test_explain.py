"""Hypotheses: the NumPy restatements are the official formulas, planted edits are named, and nothing is named without cause."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from ltx_native import guidance, schedule
from ltx_native.audio_vae.generator import SnakeBeta
from ltx_native.audio_vae.resample import UpSample1d
from ltx_native.conv import Conv3d, ConvTranspose1d
from ltx_native.layers import Attention, FeedForward
from ltx_native.rope import generate_freq_grid_np, precompute_freqs_cis
from ltx_native.upsampler import LatentUpsampler
from parity.explain import load_rooms
from parity.hypotheses import attention, conv, rope, sampling, upsampler, values
from parity.hypotheses.base import FORMULA, Candidate, Suspect, bfloat16, candidates, ranked
from parity.hypotheses.official import Official

RNG = np.random.default_rng(7)


def _normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _best(suspect: Suspect) -> str:
    load_rooms()
    found = ranked(suspect, candidates(suspect))
    return found[0].cause if found and found[0].convincing else ""


def _off(one: Any, other: Any) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


REFERENCE = _normal(1, 8, 16)
PLANTED: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "value.scale": lambda x: 0.37 * x,
    "value.offset": lambda x: x + 0.5,
    "value.affine": lambda x: 1.4 * x - 0.3,
    "value.negated": lambda x: -x,
    "value.doubled": lambda x: 2 * x,
    "value.zero": lambda x: 0 * x,
    "value.centred": lambda x: x - x.mean(axis=1, keepdims=True),
    "value.clipped": lambda x: np.clip(x, -0.7, 0.8),
    "order.reversed": lambda x: x[:, ::-1],
    "order.halves": lambda x: np.roll(x, 8, axis=2),
    "order.permuted": lambda x: x[..., np.random.default_rng(0).permutation(16)],
    "order.interleaved": lambda x: x.reshape(1, 8, 2, 8).swapaxes(2, 3).reshape(1, 8, 16),
    "order.first-for-all": lambda x: np.repeat(x[:, :1], 8, axis=1),
    "length.tail-cut": lambda x: x[:, :-2],
    "length.head-kept": lambda x: np.concatenate([x[:, :1], x], axis=1),
    "dtype.bfloat16": bfloat16,
    "dtype.float16": lambda x: x.astype(np.float16).astype(np.float32),
}


@pytest.mark.parametrize("cause", PLANTED)
def test_a_closed_form_is_found_on_any_tensor(cause: str) -> None:
    assert _best(Suspect("some.site", "Unknown", "x", PLANTED[cause](REFERENCE), REFERENCE)) == cause


def test_a_shift_is_found_although_something_came_in_from_outside() -> None:
    moved = np.concatenate([_normal(1, 2, 16), REFERENCE[:, :-2]], axis=1)
    assert _best(Suspect("some.site", "Unknown", "x", moved, REFERENCE)) == "order.shift"


def test_noise_has_no_cause() -> None:
    assert _best(Suspect("some.site", "Unknown", "x", REFERENCE + _normal(1, 8, 16), REFERENCE)) == ""


def test_a_formula_is_preferred_to_a_probe_that_fits_as_well() -> None:
    suspect = Suspect("s", "Unknown", "x", 2 * REFERENCE, REFERENCE)
    edits = [
        Candidate("value.scale", "a factor of 2", lambda: 2 * REFERENCE, rank=3),
        Candidate("lora.twice", "the adapter added twice", lambda: 2 * REFERENCE * (1 + 1e-6), rank=FORMULA),
    ]
    assert [one.cause for one in ranked(suspect, edits)] == ["lora.twice", "value.scale"]


def test_a_candidate_that_does_not_fit_is_left_out() -> None:
    edits = [
        Candidate("a", "another shape", lambda: np.zeros((3, 3))),
        Candidate("b", "a missing ingredient", lambda: {}["x"]),  # type: ignore[index]
    ]
    assert ranked(Suspect("s", "Unknown", "x", 2 * REFERENCE, REFERENCE), edits) == []


def test_values_that_are_not_finite_must_be_the_same_ones() -> None:
    native, other = REFERENCE.copy(), REFERENCE.copy()
    native[0, 2], other[0, 3] = np.nan, np.nan
    suspect = Suspect("s", "Unknown", "x", native, REFERENCE)
    right, wrong = (Candidate(name, name, lambda v=value: v) for name, value in (("right", native), ("wrong", other)))  # type: ignore[misc]
    found = {one.cause: one for one in ranked(suspect, [right, wrong])}
    assert found["right"].convincing
    assert not found["wrong"].convincing


def test_the_sentence_says_what_a_colleague_would() -> None:
    suspect = Suspect("s", "Unknown", "x", 2 * REFERENCE, REFERENCE)
    (one,) = ranked(suspect, [Candidate("rope.layout", "RoPE interleaved instead of split", lambda: 2 * REFERENCE)])
    assert one.sentence() == "native = reference with RoPE interleaved instead of split (removes 100 % of the error)"


# The restatements against the port's own modules on drawn weights: both were written from the official code.


def _parameters(module: Any) -> dict[str, np.ndarray]:
    from mlx.utils import tree_flatten

    from parity.checks.configs import official_axes

    return {name: official_axes(name, value) for name, value in tree_flatten(module.parameters())}


def _drawn(module: Any) -> Any:
    from mlx.utils import tree_map

    module.update(tree_map(lambda p: mx.array(0.3 * _normal(*p.shape)), module.parameters()))
    return module


@pytest.fixture(scope="module")
def attending() -> tuple[Attention, Suspect]:
    module = _drawn(Attention(32, None, 4, 8, 1e-6, "split", True))
    x, cos, sin = _normal(1, 6, 32), _normal(1, 4, 6, 4), _normal(1, 4, 6, 4)
    mask = np.where(np.arange(6) < 5, 0.0, -1e9).astype(np.float32)[None, None, None]
    given = {"x": x, "context": None, "mask": mask, "pe.0": cos, "pe.1": sin, "k_pe": None, "all_perturbed": False}
    out = np.array(module(mx.array(x), mask=mx.array(mask), pe=(mx.array(cos), mx.array(sin))))
    parameters = _parameters(module)
    return module, Suspect("t.attn1", "Attention", "attn1", out, out, given, {}, parameters.get)


def test_attention_is_the_official_formula(attending: tuple[Attention, Suspect]) -> None:
    _, suspect = attending
    assert _off(attention._official(suspect, attention.Edits()), suspect.reference) < 1e-5


@pytest.mark.parametrize(
    ("cause", "switches"),
    [
        ("rope.layout", {"rotation": "interleaved"}),
        ("rope.missing", {"rotation": "none"}),
        ("attention.scale", {"scale": "none"}),
        ("attention.mask-missing", {"mask": "none"}),
        ("attention.gate-missing", {"gate": "none"}),
        ("attention.gate-factor", {"gate": "sigmoid"}),
        ("attention.heads", {"heads_last": True}),
        ("norm.missing", {"q_norm": False, "k_norm": False}),
        ("norm.order", {"norm_after_rotation": True}),
        ("attention.values-from-keys", {"values_from_keys": True}),
        ("perturbation.always", {"perturbed": "always"}),
    ],
)
def test_a_mistake_in_attention_is_named(attending: tuple[Attention, Suspect], cause: str, switches: dict[str, Any]) -> None:
    _, suspect = attending
    wrong = attention._official(suspect, attention.Edits(**switches)).astype(np.float32)
    assert _best(replace(suspect, native=wrong)) == cause


def test_feed_forward_is_the_official_formula_and_its_activation_is_named() -> None:
    module, x = _drawn(FeedForward(16, 16)), _normal(1, 5, 16)
    reference = np.array(module(mx.array(x)))
    from parity.hypotheses.functions import gelu_erf, gelu_tanh, linear

    p = _parameters(module)

    def run(act: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        hidden = act(linear(x, p["net.0.proj.weight"], p["net.0.proj.bias"]))
        return linear(hidden, p["net.2.weight"], p["net.2.bias"])

    assert _off(run(gelu_tanh), reference) < 1e-5
    wrong = run(gelu_erf).astype(np.float32)
    assert _best(Suspect("t.ff", "FeedForward", "ff", wrong, reference, {"x": x}, {}, p.get)) == "activation.gelu-erf"


def test_rotary_tables_are_the_official_ones_and_a_wrong_interval_is_named() -> None:
    positions = np.abs(_normal(1, 3, 7, 2)).astype(np.float32) * np.array([1, 32, 32], np.float32)[None, :, None, None]
    cos, sin = precompute_freqs_cis(
        mx.array(positions), 64, mx.float32, 10000.0, (20, 2048, 2048), True, 4, "split", generate_freq_grid_np
    )
    official = rope.Tables(positions, 64, 4, 10000.0, (20, 2048, 2048))
    for ours, theirs in zip(official.cos_sin(), (cos, sin), strict=True):
        assert float(np.abs(ours - np.array(theirs)).max()) < 2e-3  # float32 angles of up to 1e4
    for part, cause, changes in (
        (0, "rope.interval", {"point": "start"}),
        (1, "rope.layout", {"layout": "interleaved"}),
        (0, "rope.theta", {"theta": 1000.0}),
        (1, "rope.axes", {"axes": (0, 2, 1)}),
        (0, "rope.max-pos", {"max_pos": (20, 1024, 2048)}),
    ):
        wrong = replace(official, **changes).cos_sin()[part].astype(np.float32)
        name = f"block.pe.{part}"
        suspect = Suspect("transformer.block", "LTXModel", "pe", wrong, official.cos_sin()[part], {"rope": official}, name=name)
        assert _best(suspect) == cause


@pytest.mark.parametrize("steps", [2, 8, 40])
def test_the_schedule_is_the_official_one(steps: int) -> None:
    assert _off(sampling.sigmas(steps), schedule.ltx2_sigmas(steps)) < 1e-6


@pytest.mark.parametrize(
    ("cause", "native"),
    [
        ("schedule.terminal", sampling.sigmas(8)[:-1]),
        ("schedule.shift", sampling.sigmas(8, shifted=False)),
        ("schedule.stretch", sampling.sigmas(8, stretch=False)),
        ("schedule.tokens", sampling.sigmas(8, tokens=1500)),
        ("schedule.table", np.array(sampling.DISTILLED)),
    ],
)
def test_a_wrong_schedule_is_named(cause: str, native: np.ndarray) -> None:
    suspect = Suspect("schedule", "LTX2Scheduler", "sigmas", native.astype(np.float32), sampling.sigmas(8), {"steps": 8})
    assert _best(suspect) == cause


def test_guidance_is_the_official_formula_and_its_mistakes_are_named() -> None:
    names = ("cond", "uncond_text", "uncond_perturbed", "uncond_modality")
    estimates = {name: _normal(1, 9, 16) + 0.2 for name in names}
    params = guidance.GuiderParams(3.0, 1.0, (1,), 0.7, 3.0)
    scales = {"cfg_scale": 3.0, "stg_scale": 1.0, "modality_scale": 3.0, "rescale_scale": 0.7}
    given = {**estimates, **{f"params.{n}": v for n, v in scales.items()}}
    arrays = [mx.array(estimates[name]) for name in names]
    reference = np.array(guidance.guide(params, *arrays))
    for cause, changed in (
        ("guidance.stg-missing", replace(params, stg_scale=0.0)),
        ("guidance.rescale-missing", replace(params, rescale_scale=0.0)),
        ("guidance.scale", replace(params, cfg_scale=7.0)),
    ):
        wrong = np.array(guidance.guide(changed, *arrays))
        assert _best(Suspect("guidance.video", "MultiModalGuider", "guided", wrong, reference, given)) == cause
    swapped = np.array(guidance.guide(params, arrays[0], arrays[2], arrays[1], arrays[3]))
    assert _best(Suspect("guidance.video", "MultiModalGuider", "guided", swapped, reference, given)) == "guidance.passes"


def test_convolutions_are_pytorchs() -> None:
    module, x = _drawn(Conv3d(4, 6, 3, (1, 1, 1))), _normal(1, 4, 5, 6, 4)
    p = _parameters(module)
    reference = np.array(module(mx.array(x)))
    assert _off(conv.convolved(x, p["weight"], p["bias"], (1, 1, 1)), reference) < 1e-5
    wrong = conv.convolved(x, p["weight"], p["bias"], (1, 1, 1), mode="reflect").astype(np.float32)
    assert _best(Suspect("d.conv", "Conv3d", "conv", wrong, reference, {"input": x}, {}, p.get)) == "padding.reflect"

    up, x = _drawn(ConvTranspose1d(4, 3, 11, 5, 3)), _normal(1, 8, 4)
    p = {"weight": np.array(up.weight).transpose(2, 0, 1), "bias": np.array(up.bias)}
    reference = np.array(up(mx.array(x)))
    up.weight = up.weight[:, ::-1]
    wrong = np.array(up(mx.array(x)))
    assert _best(Suspect("v.ups.0", "ConvTranspose1d", "ups", wrong, reference, {"input": x}, {}, p.get)) == "conv.flipped"


def test_the_vocoders_layers_are_the_official_ones() -> None:
    snake, x = _drawn(SnakeBeta(6)), _normal(1, 20, 6)
    p = _parameters(snake)
    reference = np.array(snake(mx.array(x)))
    wrong = (x + np.sin(x * p["alpha"]) ** 2 / (p["beta"] + 1e-9)).astype(np.float32)
    assert _best(Suspect("v.act", "SnakeBeta", "act", wrong, reference, {"x": x}, {}, p.get)) == "snake.exp-missing"
    up = _drawn(UpSample1d(2, 12))
    reference = np.array(up(mx.array(x)))
    filter_ = np.array(up.filter).reshape(1, 1, 12)
    wrong = reference / 2
    suspect = Suspect("v.up", "UpSample1d", "up", wrong, reference, {"x": x}, {}, {"filter": filter_}.get)
    assert _best(suspect) == "resample.gain"


@pytest.mark.parametrize(
    "stem", ["ltx-2.3-spatial-upscaler-x2", "ltx-2.3-spatial-upscaler-x1.5", "ltx-2.3-temporal-upscaler-x2"]
)
def test_the_upsampler_is_the_official_network(stem: str) -> None:
    from ltx_native.config import UpsamplerConfig
    from parity.world.presets import UPSAMPLERS

    config = {**UPSAMPLERS[stem], "in_channels": 8}
    names = UpsamplerConfig.__dataclass_fields__
    module = _drawn(LatentUpsampler(UpsamplerConfig(**{k: v for k, v in config.items() if k in names})))
    latent = _normal(1, 3, 2, 4, 8)
    ours = upsampler.upsample(latent, _parameters(module), config, upsampler.Edits())
    assert _off(ours, np.array(module(mx.array(latent)))) < 1e-4


def test_official_parameters_come_from_the_file_in_either_dtype(tmp_path: Path) -> None:
    weight = bfloat16(_normal(4, 3))
    metadata = {"config": json.dumps({"transformer": {"norm_eps": 1e-6}})}
    name = "model.diffusion_model.transformer_blocks.0.ff.net.2.weight"
    save_file({name: weight, "vae.decoder.conv_in.conv.weight": weight}, tmp_path / "model.safetensors", metadata)
    known = Official(tmp_path / "model.safetensors", tmp_path, None)
    assert np.array_equal(known.parameter("transformer.transformer_blocks.0.ff", "net.2.weight"), weight)  # type: ignore[arg-type]
    assert known.parameter("transformer.transformer_blocks.0.ff", "net.3.weight") is None
    assert known.config("transformer") == {"norm_eps": 1e-6}
    mx.save_safetensors(str(tmp_path / "low.safetensors"), {name: mx.array(weight).astype(mx.bfloat16)}, metadata)
    low = Official(tmp_path / "low.safetensors", tmp_path, None)
    assert np.array_equal(low.parameter("transformer", "transformer_blocks.0.ff.net.2.weight"), weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sentence", "cause"),
    [
        ("transformer.block.k_norm: eps is 1e-05, the official module has 1e-06", "norm.eps"),
        ("the port refused: The weights do not fit the model: found 35 missing: a, b", "weights.missing"),
        ("transformer.attn1: is handed or gives float32 where the model is in bfloat16", "dtype.promoted"),
        ("video_encoder: 20 frames of a source became 25, expected 17", "frames.rounding"),
        ("transformer: stage 2 runs without lora.safetensors", "lora.not-applied"),
    ],
)
def test_what_the_evidence_says_itself(sentence: str, cause: str) -> None:
    assert [said.cause for said in values.of_words(sentence)] == [cause]


def test_settings_are_compared_down_to_the_entry_that_differs() -> None:
    said = values.of_values("constants.default video guidance", {"cfg": 3.0, "stg": 1.0}, {"cfg": 1.0, "stg": 1.0})
    assert said.cause == "config.value"
    assert "constants.default video guidance.cfg = 3.0" in said.sentence
    assert "a factor of 3" in said.sentence
