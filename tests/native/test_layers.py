"""Layers that the transformer and the connectors share, against NumPy in float64: kernels, RoPE, attention, feed-forward."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx.utils import tree_flatten, tree_map

from ltx_native.kernels import attention, exp2, gelu_tanh
from ltx_native.layers import Attention, FeedForward, RMSNorm, rms_norm
from ltx_native.rope import (
    apply_rotary_emb,
    generate_freq_grid_float32,
    generate_freq_grid_np,
    precompute_freqs_cis,
)

Array = npt.NDArray[np.float64]


def f64(x: mx.array) -> Array:
    return np.array(x.astype(mx.float32), dtype=np.float64)


def rel_l2(a: mx.array | Array, b: Array) -> float:
    x = f64(a) if isinstance(a, mx.array) else a
    assert x.shape == b.shape
    return float(np.linalg.norm(x - b) / np.linalg.norm(b))


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def numpy_attention(q: Array, k: Array, v: Array, scale: float, mask: Array | None) -> Array:
    k, v = (np.repeat(a, q.shape[1] // a.shape[1], axis=1) for a in (k, v))
    scores = scale * q @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


# Kernels --------------------------------------------------------------------------------------------------------------


def test_exp2_over_its_whole_range() -> None:
    x = np.linspace(-126, 126, 200_001).astype(np.float32)
    expected = np.exp2(x.astype(np.float64))
    assert float((np.abs(f64(exp2(mx.array(x))) - expected) / expected).max()) <= 4e-7


@pytest.mark.parametrize("shape", [(1, 4, 64), (2, 3, 5, 8), (1, 64, 64)], ids=["few", "few, four axes", "many"])
def test_rms_norm_of_few_and_of_many_numbers(shape: tuple[int, ...]) -> None:
    x, weight = normal(*shape), 1 + 0.2 * normal(shape[-1], seed=1)
    expected = f64(x) / np.sqrt((f64(x) ** 2).mean(-1, keepdims=True) + 1e-3)
    layer = RMSNorm(shape[-1], eps=1e-3)
    layer.weight = weight
    assert rel_l2(rms_norm(x, eps=1e-3), expected) < 3e-7
    assert rel_l2(layer(x=x), expected * f64(weight)) < 3e-7
    half = rms_norm(x.astype(mx.bfloat16), eps=1e-3)
    assert half.dtype == mx.bfloat16
    assert rel_l2(half, expected) < 1e-2


def test_gelu_tanh_in_both_dtypes() -> None:
    x = mx.array(np.linspace(-12, 12, 50_001).astype(np.float32))
    z = f64(x)
    expected = 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    assert rel_l2(gelu_tanh(x), expected) <= 4e-7
    half = x.astype(mx.bfloat16)
    assert mx.array_equal(gelu_tanh(half), gelu_tanh(half.astype(mx.float32)).astype(mx.bfloat16)), "one rounding"
    assert bool(mx.isnan(gelu_tanh(mx.array([math.nan]))).item())


# below and above the size from which softmax is rebuilt; rows that fold into columns and rows that do not
@pytest.mark.parametrize("length", [7, 90, 150, 157])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "additive"])
def test_attention_against_float64(length: int, groups: int, kind: str) -> None:
    q, k, v = normal(2, 4, length, 16), normal(2, groups, length, 16, seed=1), normal(2, groups, length, 16, seed=2)
    allowed = np.random.default_rng(3).random((2, 1, length, length)) > 0.3
    allowed |= np.eye(length, dtype=bool)
    lowest = float(np.finfo(np.float32).min)
    masks: dict[str, tuple[mx.array | str | None, Array | None]] = {
        "none": (None, None),
        "causal": ("causal", np.where(np.tri(length, dtype=bool), 0.0, -np.inf)),
        "boolean": (mx.array(allowed), np.where(allowed, 0.0, -np.inf)),
        "additive": (mx.array(np.where(allowed, 0.5, lowest).astype(np.float32)), np.where(allowed, 0.5, -np.inf)),
    }
    native, expected = masks[kind]
    result = attention(q, k, v, 0.3, native)
    assert rel_l2(result, numpy_attention(f64(q), f64(k), f64(v), 0.3, expected)) <= 3e-6


def test_attention_in_bfloat16_rounds_its_result_only() -> None:
    q, k, v = (normal(1, 2, 80, 16, seed=i).astype(mx.bfloat16) for i in range(3))
    result = attention(q, k, v, 0.25, None)
    assert result.dtype == mx.bfloat16
    assert rel_l2(result, numpy_attention(f64(q), f64(k), f64(v), 0.25, None)) <= 2**-8


@pytest.mark.parametrize("length", [1024, 1000])
def test_equal_keys_do_not_add_up_their_rounding(length: int) -> None:
    """Registers fill a context with 128 keys over and over, beside a few of the prompt that outweigh them."""
    k = mx.concatenate([4 * normal(1, 2, 1, 16, seed=1), mx.tile(normal(1, 2, 1, 16, seed=2), (1, 1, length - 1, 1))], axis=2)
    q, v = mx.tile(k[:, :, :1], (1, 1, 9, 1)), normal(1, 2, length, 16, seed=3)
    expected = numpy_attention(f64(q), f64(k), f64(v), 0.05, None)
    assert rel_l2(attention(q, k, v, 0.05, None), expected) < 6e-6


@pytest.mark.parametrize("length", [9, 150])
def test_scores_far_apart_and_infinite_masks(length: int) -> None:
    """Weights below the smallest number are 0, and a key that an infinity leaves out has none."""
    q, k, v = 40 * normal(1, 4, length, 16), 40 * normal(1, 4, length, 16, seed=1), normal(1, 4, length, 16, seed=2)
    left_out = np.where(np.arange(length) % 3 == 0, -np.inf, 0.0)[None, None, None]
    result = attention(q, k, v, 0.25, mx.array(left_out.astype(np.float32)))
    assert rel_l2(result, numpy_attention(f64(q), f64(k), f64(v), 0.25, left_out)) <= 1e-5


def test_a_nan_is_not_hidden_by_softmax() -> None:
    q = normal(1, 2, 80, 16)
    k = mx.where(mx.arange(80)[None, None, :, None] == 3, math.nan, q)
    assert bool(mx.isnan(attention(q, k, q, 0.25, None)).all().item())


def test_rms_norm_against_float64() -> None:
    x, weight = 3 * normal(5, 1024), normal(1024, seed=1)
    z = f64(x)
    expected = z / np.sqrt((z**2).mean(axis=-1, keepdims=True) + 1e-6)
    assert rel_l2(rms_norm(x), expected) <= 3e-6
    assert rel_l2(rms_norm(x, weight), expected * f64(weight)) <= 3e-6


# RoPE -----------------------------------------------------------------------------------------------------------------

HEADS, DIM = 4, 16


def positions(tokens: int = 9) -> mx.array:
    start = np.random.default_rng(5).uniform(0, 20, (1, 3, tokens, 1)).astype(np.float32)
    return mx.array(np.concatenate([start, start + 0.5], axis=-1))


def frequencies(rope_type: str) -> tuple[mx.array, mx.array]:
    return precompute_freqs_cis(
        positions(), HEADS * DIM, mx.float32, 10000.0, [20, 2048, 2048], True, HEADS, rope_type, generate_freq_grid_np
    )


def test_the_frequency_grid_is_geometric_from_half_pi() -> None:
    for generate in (generate_freq_grid_np, generate_freq_grid_float32):
        grid = f64(generate(10000.0, 3, 384))
        assert rel_l2(grid, np.pi / 2 * 10000.0 ** np.linspace(0, 1, 64)) <= 3e-6
    assert f64(generate_freq_grid_float32(10000.0, 3, 6)).tolist() == [float(np.float32(np.pi / 2))]


def test_frequencies_are_axis_minor_and_padded_in_front() -> None:
    cos, sin = frequencies("split")
    assert cos.shape == sin.shape == (1, HEADS, 9, DIM // 2)
    middle = f64(positions()).mean(axis=-1)[0]  # (3, T)
    fraction = middle.T / np.array([20, 2048, 2048])  # (T, 3)
    grid = np.pi / 2 * 10000.0 ** np.linspace(0, 1, 10)  # 64 // 6
    angles = (grid[None, :, None] * (2 * fraction[:, None] - 1)).reshape(9, 30)
    flat = f64(cos)[0].swapaxes(0, 1).reshape(9, 32)
    assert np.array_equal(flat[:, :2], np.ones((9, 2)))
    assert np.abs(flat[:, 2:] - np.cos(angles)).max() <= 3e-3, "angles reach 15,708: float32 keeps three digits"
    assert np.abs(flat[:, 2:11] - np.cos(angles[:, :9])).max() <= 1e-5


@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
def test_rotation_keeps_lengths_and_undoes_itself(rope_type: str) -> None:
    cos, sin = frequencies(rope_type)
    x = normal(1, 9, HEADS * DIM)
    turned = apply_rotary_emb(x, (cos, sin), rope_type)
    assert abs(float(mx.square(turned).sum()) / float(mx.square(x).sum()) - 1) <= 3e-6
    back = apply_rotary_emb(turned, (cos, -sin), rope_type)
    back = back.swapaxes(1, 2).reshape(x.shape) if rope_type == "split" else back
    assert rel_l2(back, f64(x)) <= 3e-6


def test_split_rotates_halves_and_interleaved_rotates_neighbours() -> None:
    x = mx.array([[[1.0, 2.0, 3.0, 4.0]]])
    quarter = (mx.zeros((1, 1, 1, 2)), mx.ones((1, 1, 1, 2)))
    assert apply_rotary_emb(x, quarter, "split").flatten().tolist() == [-3.0, -4.0, 1.0, 2.0]
    quarter = (mx.zeros((1, 1, 4)), mx.ones((1, 1, 4)))
    assert apply_rotary_emb(x, quarter, "interleaved").flatten().tolist() == [-2.0, 1.0, -4.0, 3.0]


def test_rope_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="rope_type is 'spiral'"):
        frequencies("spiral")
    with pytest.raises(ValueError, match="positions have 3 dimensions, max_pos has 1"):
        precompute_freqs_cis(positions(), 64, mx.float32, 1e4, [20], True, HEADS, "split", generate_freq_grid_np)


# Attention and feed-forward -------------------------------------------------------------------------------------------


def layer(heads: int = HEADS, gated: bool = True, rope_type: str = "split") -> Attention:
    made = Attention(HEADS * DIM, None, heads, HEADS * DIM // heads, 1e-6, rope_type, gated)
    mx.random.seed(1)
    made.update(tree_map(lambda p: 0.2 * mx.random.normal(p.shape) + (p.ndim == 1), made.parameters()))
    return made


def test_attention_layer_has_the_official_keys() -> None:
    linears = {f"{n}.{kind}" for n in ("to_q", "to_k", "to_v", "to_out.0") for kind in ("weight", "bias")}
    norms = {"q_norm.weight", "k_norm.weight"}
    assert {k for k, _ in tree_flatten(layer(gated=False).parameters())} == linears | norms
    gate = {"to_gate_logits.weight", "to_gate_logits.bias"}
    assert {k for k, _ in tree_flatten(layer().parameters())} == linears | norms | gate


@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
@pytest.mark.parametrize("heads", [HEADS, 2])  # with 2, RoPE has more heads than the attention
def test_attention_layer_against_float64(rope_type: str, heads: int) -> None:
    made, x = layer(heads, rope_type=rope_type), normal(1, 9, HEADS * DIM)
    cos, sin = frequencies(rope_type)
    w = {k: f64(p) for k, p in tree_flatten(made.parameters())}

    def linear(name: str, value: Array) -> Array:
        return value @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def prepared(name: str) -> Array:
        y = linear(f"to_{name}", f64(x))
        y = y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + 1e-6) * w[f"{name}_norm.weight"]
        turned = f64(apply_rotary_emb(mx.array(y.astype(np.float32)), (cos, sin), rope_type))
        turned = turned.swapaxes(1, 2).reshape(1, 9, -1) if rope_type == "split" else turned
        return turned.reshape(1, 9, heads, -1).swapaxes(1, 2)

    v = linear("to_v", f64(x)).reshape(1, 9, heads, -1).swapaxes(1, 2)
    out = numpy_attention(prepared("q"), prepared("k"), v, (HEADS * DIM // heads) ** -0.5, None)
    gates = 2 / (1 + np.exp(-linear("to_gate_logits", f64(x))))
    out = (out.swapaxes(1, 2) * gates[..., None]).reshape(1, 9, -1)
    assert rel_l2(made(x, pe=(cos, sin)), linear("to_out.0", out)) <= 3e-6


def test_perturbation_blends_with_the_values() -> None:
    made, x = layer(), normal(2, 9, HEADS * DIM)
    plain, skipped = made(x), made(x, all_perturbed=True)
    mixed = made(x, perturbation_mask=mx.array([1.0, 0.0])[:, None, None])
    assert rel_l2(mixed[0], f64(plain[0])) <= 3e-6
    assert rel_l2(mixed[1], f64(skipped[1])) <= 3e-6
    assert rel_l2(plain[1], f64(skipped[1])) >= 1e-2


@pytest.mark.parametrize("shape", [(9, 5), (1, 9, 5), (1, 1, 9, 5)])
def test_masks_of_every_rank(shape: tuple[int, ...]) -> None:
    made, x, context = layer(), normal(1, 9, HEADS * DIM), normal(1, 5, HEADS * DIM, seed=4)
    additive = mx.where(mx.arange(5) < 3, 0.0, float(np.finfo(np.float32).min))
    masked = made(x, context=context, mask=mx.broadcast_to(additive, shape))
    assert rel_l2(masked, f64(made(x, context=context[:, :3]))) <= 3e-6


def test_zero_gate_logits_change_nothing() -> None:
    gated, plain = layer(gated=True), layer(gated=False)
    plain.update({k: v for k, v in gated.parameters().items() if k != "to_gate_logits"})
    gated.to_gate_logits.weight, gated.to_gate_logits.bias = mx.zeros((HEADS, HEADS * DIM)), mx.zeros(HEADS)
    x = normal(1, 9, HEADS * DIM)
    assert rel_l2(gated(x), f64(plain(x))) <= 3e-6


def test_feed_forward_keys_and_width() -> None:
    made = FeedForward(8, dim_out=6)
    shapes = {k: v.shape for k, v in tree_flatten(made.parameters())}
    assert shapes == {"net.0.proj.weight": (32, 8), "net.0.proj.bias": (32,), "net.2.weight": (6, 32), "net.2.bias": (6,)}
    assert made(normal(2, 3, 8)).shape == (2, 3, 6)
