"""LoRA fusion: the arithmetic, several adapters, every key accounted for, quantised weights."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx_native.checkpoint import Checkpoint
from ltx_native.convert import convert
from ltx_native.errors import CheckpointError, UserError
from ltx_native.lora import LoRA, fuse
from ltx_native.quantize import dequantise, derive
from ltx_native.tensor_files import Pending, read_tensors, write_safetensors
from ltx_native.transformer.model import LTXModel
from parity.world.random_checkpoint import write_lora

Paths = dict[str, Path]
LAYER = "transformer_blocks.1.attn2.to_k"


def save(path: Path, **tensors: mx.array) -> Path:
    write_safetensors(path, [Pending(k.replace("__", "."), v) for k, v in tensors.items()])
    return path


def test_two_adapters_are_added_with_their_strengths(tiny: Paths, tmp_path: Path) -> None:
    first = LoRA.open(write_lora(tmp_path / "a.safetensors", rank=4, seed=1), 0.8)
    second = LoRA.open(write_lora(tmp_path / "b.safetensors", rank=7, seed=2, only="attn2"), 0.3)
    assert len(first.layers) == 2 * (6 * 4 + 4)
    assert len(second.layers) == 2 * 2 * 4
    plain = Checkpoint.open(tiny["model"]).weights("transformer", "float32")
    fused = fuse(plain, [first, second], mx.float32)
    assert fused.keys() == plain.keys()
    for name, value in fused.items():
        want = np.array(plain[name], np.float64)
        for lora in (first, second):
            if (layer := name.removesuffix(".weight")) in lora.layers and name.endswith(".weight"):
                factors = lora.layers[layer]
                want = want + lora.strength * np.array(factors.b, np.float64) @ np.array(factors.a, np.float64)
        assert np.linalg.norm(np.array(value) - want) <= 3e-6 * np.linalg.norm(want), name
    changed = {n.removesuffix(".weight") for n in plain if not mx.array_equal(plain[n], fused[n]).item()}
    assert changed == set(first.layers) | set(second.layers)


def test_fused_while_loading(tiny: Paths, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny["model"])
    lora = LoRA.open(write_lora(tmp_path / "a.safetensors"), 1.0)
    model = checkpoint.load("transformer", LTXModel(checkpoint.config.transformer), "float32", loras=[lora])
    want = fuse(checkpoint.weights("transformer", "float32"), [lora], mx.float32)
    assert mx.array_equal(model.transformer_blocks[1].attn2.to_k.weight, want[f"{LAYER}.weight"]).item()


def test_product_is_formed_in_the_adapters_dtype_and_summed_in_the_weights(tmp_path: Path) -> None:
    """ltx-core's order of roundings, in bfloat16: b·strength, the product, the sum of deltas, the sum with the weight."""
    a, b = mx.random.normal((4, 32), key=mx.random.key(1)), mx.random.normal((16, 4), key=mx.random.key(2))
    half = {"diffusion_model.x.lora_A.weight": a.astype(mx.bfloat16), "diffusion_model.x.lora_B.weight": b.astype(mx.bfloat16)}
    write_safetensors(tmp_path / "l.safetensors", [Pending(k, v) for k, v in half.items()])
    weight = mx.random.normal((16, 32), key=mx.random.key(3)).astype(mx.bfloat16)
    lora = LoRA.open(tmp_path / "l.safetensors", 0.3)
    fused = fuse({"x.weight": weight}, [lora, lora, lora], mx.bfloat16)["x.weight"]

    def rounded(x: mx.array) -> mx.array:
        return x.astype(mx.bfloat16).astype(mx.float32)

    wide_a, wide_b, wide_w = (x.astype(mx.bfloat16).astype(mx.float32) for x in (a, b, weight))
    delta = rounded(rounded(wide_b * 0.3) @ wide_a)
    want = rounded(rounded(3 * delta) + wide_w)
    assert fused.dtype == mx.bfloat16
    assert mx.array_equal(fused.astype(mx.float32), want).item()


def test_alpha_is_applied(tmp_path: Path) -> None:
    a, b = mx.random.normal((4, 8)), mx.random.normal((6, 4))
    path = tmp_path / "alpha.safetensors"
    save(path, diffusion_model__x__lora_down__weight=a, diffusion_model__x__lora_up__weight=b,
         diffusion_model__x__alpha=mx.array(2.0))  # fmt: skip
    fused = fuse({"x.weight": mx.zeros((6, 8))}, [LoRA.open(path)], mx.float32)["x.weight"]
    assert np.allclose(np.array(fused), 0.5 * np.array(b) @ np.array(a), atol=1e-6)


def test_adapter_that_matches_nothing(tiny: Paths, tmp_path: Path) -> None:
    path = save(
        tmp_path / "other.safetensors",
        diffusion_model__blocks__0__q__lora_A__weight=mx.zeros((2, 8)),
        diffusion_model__blocks__0__q__lora_B__weight=mx.zeros((8, 2)),
    )
    weights = Checkpoint.open(tiny["model"]).weights("transformer", "float32")
    with pytest.raises(UserError, match=r"none of its 1 layers fits the model; unmatched: blocks\.0\.q"):
        fuse(weights, [LoRA.open(path)], mx.float32)


def test_adapter_that_matches_in_part(tiny: Paths, tmp_path: Path) -> None:
    tensors = read_tensors(write_lora(tmp_path / "a.safetensors"))
    tensors = {k.replace("blocks.1.attn1.to_q", "blocks.7.attn1.to_q"): v for k, v in tensors.items()}
    write_safetensors(tmp_path / "part.safetensors", [Pending(k, v) for k, v in tensors.items()])
    weights = Checkpoint.open(tiny["model"]).weights("transformer", "float32")
    with pytest.raises(UserError, match=r"only 55 of its 56 layers.*transformer_blocks\.7\.attn1\.to_q"):
        fuse(weights, [LoRA.open(tmp_path / "part.safetensors")], mx.float32)


@pytest.mark.parametrize(
    "tensors",
    [
        {"diffusion_model__x__lora_A__weight": mx.zeros((2, 8))},
        {"diffusion_model__x__weight": mx.zeros((2, 8))},
        {"diffusion_model__x__lora_A__weight": mx.zeros((2, 8)), "diffusion_model__x__lora_B__weight": mx.zeros((8, 3))},
        {
            "diffusion_model__x__lora_A__weight": mx.zeros((2, 8)),
            "diffusion_model__x__lora_down__weight": mx.zeros((2, 8)),
            "diffusion_model__x__lora_B__weight": mx.zeros((8, 2)),
        },
        {},
    ],
)
def test_malformed_adapters(tmp_path: Path, tensors: dict[str, mx.array]) -> None:
    with pytest.raises(UserError, match="LoRA"):
        LoRA.open(save(tmp_path / "bad.safetensors", **tensors))


def test_adapter_of_another_width(tiny: Paths, tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    key = f"diffusion_model.{LAYER}.lora_"
    pair = {f"{key}A.weight": mx.zeros((2, 64)), f"{key}B.weight": mx.zeros((128, 2))}
    write_safetensors(path, [Pending(k, v) for k, v in pair.items()])
    weights = Checkpoint.open(tiny["model"]).weights("transformer", "float32")
    with pytest.raises(CheckpointError, match="another width"):
        fuse(weights, [LoRA.open(path)], mx.float32)


@pytest.mark.parametrize(("dtype", "bits"), [("q8", 8), ("q4", 4)])
def test_into_quantised_weights(tiny: Paths, tmp_path: Path, dtype: str, bits: int) -> None:
    """Dequantise, fuse, quantise: off by no more than one step of the new grid (MLX shifts it to hold zero exactly)."""
    convert(tiny["model"], tmp_path / "split", dtype=dtype, group_size=32)
    checkpoint = Checkpoint.open(tmp_path / "split")
    lora = LoRA.open(write_lora(tmp_path / "a.safetensors"), 0.5)
    weights = checkpoint.weights("transformer", "float32")
    fused = fuse(weights, [lora], mx.float32)
    model = checkpoint.load("transformer", LTXModel(checkpoint.config.transformer), "float32", loras=[lora])
    assert mx.array_equal(model.transformer_blocks[1].attn2.to_k.scales, fused[f"{LAYER}.scales"]).item()
    for layer, factors in lora.layers.items():
        before, after = ([w[f"{layer}.{p}"] for p in ("weight", "scales", "biases")] for w in (weights, fused))
        how = derive(factors.a.shape[1], before[0].shape, before[1].shape, layer)
        assert how.bits == bits
        want = dequantise(*before, how) + 0.5 * (factors.b @ factors.a)
        step = mx.repeat(mx.abs(after[1]), how.group_size, axis=-1)
        assert mx.all(mx.abs(dequantise(*after, how) - want) <= step + 1e-6).item(), layer
