"""Conversion to the split layout, and quantised folders: what is quantised, how it is read back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx_native.checkpoint import Checkpoint
from ltx_native.convert import FORMATS, convert
from ltx_native.errors import CheckpointError, RequestError
from ltx_native.files import read_header
from ltx_native.quantize import Quantisation, dequantise, derive, prepare, quantise
from ltx_native.quantized_matmul import WAYS, dequantised_float32, quantized_matmul
from ltx_native.transformer.model import LTXModel

Paths = dict[str, Path]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_derive_finds_bits_and_groups_from_shapes(bits: int, group_size: int) -> None:
    how = Quantisation(bits, group_size)
    parts = quantise(mx.random.normal((6, 256)), how)
    assert derive(256, parts["weight"].shape, parts["scales"].shape, "layer") == how


@pytest.mark.parametrize(
    ("inputs", "packed", "scales"),
    [(256, (6, 32), (6, 3)), (256, (6, 33), (6, 4)), (256, (6, 32), (5, 4)), (256, (6, 32), (6, 1)), (100, (6, 32), (6, 4))],
)
def test_derive_refuses_shapes_that_fit_no_scheme(inputs: int, packed: tuple[int, ...], scales: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="does not fit the model"):
        derive(inputs, packed, scales, "layer")


@pytest.mark.parametrize(("dtype", "bits"), [("q8", 8), ("q4", 4)])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_quantised_folder_computes_with_the_dequantised_weights(
    tiny: Paths, tmp_path: Path, dtype: str, bits: int, group_size: int
) -> None:
    """Layer by layer, in float32: the quantised layer equals a dense one that holds its dequantised weight."""
    report = convert(tiny["model"], tmp_path / "split", dtype=dtype, group_size=group_size)
    checkpoint = Checkpoint.open(tmp_path / "split")
    model = checkpoint.load("transformer", LTXModel(checkpoint.config.transformer), "float32")
    dense = Checkpoint.open(tiny["model"]).weights("transformer", "float32")
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.QuantizedLinear)}
    expected = {
        name.removesuffix(".weight")
        for name, value in dense.items()
        if name.startswith("transformer_blocks.")
        and name.endswith(".weight")
        and value.ndim == 2
        and value.shape[-1] % group_size == 0
    }
    assert set(layers) == expected
    assert len(expected) == {32: 68, 64: 34, 128: 4}[group_size]
    for path, layer in layers.items():
        assert (layer.bits, layer.group_size) == (bits, group_size)
        how = Quantisation(bits, group_size)
        weight = dequantise(layer.weight, layer.scales, layer.biases, how)
        assert weight.dtype == mx.float32
        x = mx.random.normal((5, weight.shape[-1]), key=mx.random.key(1))
        want = np.array(x) @ np.array(weight).T + np.array(layer.bias)
        error = np.linalg.norm(np.array(layer(input=x)) - want) / np.linalg.norm(want)
        assert error < 1e-5, path
        source = np.array(dense[f"{path}.weight"])
        assert np.linalg.norm(np.array(weight) - source) < {8: 0.01, 4: 0.12}[bits] * np.linalg.norm(source), path
    assert sum("quantised" in action for e in report.entries for action in e.actions if "unq" not in action) == len(layers)
    kept = [e for e in report.entries if any(a.startswith("left unquantised") for a in e.actions)]
    assert len(kept) == 68 - len(layers)


def test_published_quantisation_touches_only_2d_block_weights(tiny: Paths, tmp_path: Path) -> None:
    convert(tiny["model"], tmp_path / "split", dtype="q8", group_size=32)
    for file in (tmp_path / "split").glob("*.safetensors"):
        packed = [k for k, d in read_header(file).dtypes.items() if d == "U32"]
        assert bool(packed) == file.name.startswith("transformer"), file.name
        assert all(".transformer_blocks." in key and key.endswith(".weight") for key in packed)
    assert json.loads((tmp_path / "split" / "quantize_config.json").read_text()) == {
        "quantization": {"bits": 8, "group_size": 32, "only_transformer_blocks": True}
    }


def test_wrong_scales_are_refused_at_load(tiny: Paths, tmp_path: Path) -> None:
    convert(tiny["model"], tmp_path / "split", dtype="q8", group_size=32)
    checkpoint = Checkpoint.open(tmp_path / "split")
    config = checkpoint.config.transformer
    weights = checkpoint.weights("transformer", "float32")
    weights["transformer_blocks.0.attn1.to_q.scales"] = mx.zeros((64, 3))
    object.__setattr__(checkpoint, "weights", lambda *_: weights)
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.0\.attn1\.to_q"):
        checkpoint.load("transformer", LTXModel(config), "float32")


def test_a_layer_that_would_lose_its_own_arithmetic_is_refused() -> None:
    class Doubled(nn.Linear):
        def __call__(self, x: mx.array) -> mx.array:
            return 2 * super().__call__(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Doubled(64, 8, bias=False)

    parts = quantise(mx.zeros((8, 64)), Quantisation(8, 32))
    with pytest.raises(CheckpointError, match=r"cannot be quantised \(in model: layer\): found Doubled"):
        prepare(Model(), {f"layer.{part}": value for part, value in parts.items()}, "model")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_conversion_keeps_every_value(tiny: Paths, tmp_path: Path, dtype: str) -> None:
    report = convert(tiny["model"], tmp_path / "split", dtype=dtype, variant="distilled", upsamplers=[tiny["upsampler"]])
    single, split = Checkpoint.open(tiny["model"]), Checkpoint.open(tmp_path / "split")
    for component in set(split.located.components):
        one, other = single.weights(component, "float32"), split.weights(component, "float32")
        assert one.keys() == other.keys()
        assert all(mx.array_equal(one[name], other[name]).item() for name in one), component
    stored = {d for f in (tmp_path / "split").glob("*.safetensors") for d in read_header(f).dtypes.values()}
    assert stored == {"F32" if dtype == "float32" else "BF16"}
    assert (tmp_path / "split" / "transformer-distilled.safetensors").exists()
    keys = [e.source for e in report.entries]
    assert len(keys) == len(set(keys)) == len(read_header(tiny["model"]).shapes) + len(read_header(tiny["upsampler"]).shapes)
    assert all(e.targets for e in report.entries), "nothing is dropped from this file"
    targets = {t for e in report.entries for t in e.targets}
    files = (tmp_path / "split").glob("*.safetensors")
    assert targets == {f"{f.name}: {key}" for f in files for key in read_header(f).shapes}
    assert f"{len(keys)} keys" in report.summary()
    assert len(json.loads((tmp_path / "split" / "conversion.json").read_text())) == len(keys)


def test_shapes_are_those_of_the_published_folder(tiny: Paths) -> None:
    """Widths aside, the layout table of the public MLX repositories."""
    shapes = {f.name: read_header(f).shapes for f in tiny["split"].glob("*.safetensors")}
    dit = shapes["transformer-dev.safetensors"]
    assert len(dit) == 58 + 86 * 2
    assert dit["transformer.transformer_blocks.0.audio_to_video_attn.to_out.weight"] == (64, 32)
    assert dit["transformer.transformer_blocks.1.scale_shift_table_a2v_ca_audio"] == (5, 32)
    vocoder = shapes["vocoder.safetensors"]
    assert len(vocoder) == 1227
    assert vocoder["vocoder.conv_pre.weight"] == (64, 7, 128)
    assert vocoder["vocoder.ups.0.weight"] == (32, 11, 64)
    assert vocoder["vocoder.resblocks.0.acts1.0.downsample.lowpass.filter"] == (1, 12, 1)
    assert vocoder["vocoder.mel_stft.stft_fn.forward_basis"] == (514, 512, 1)
    assert shapes["vae_decoder.safetensors"]["vae_decoder.conv_in.conv.weight"] == (32, 3, 3, 3, 128)
    assert shapes["vae_decoder.safetensors"]["vae_decoder.per_channel_statistics.mean"] == (128,)
    assert shapes["audio_vae.safetensors"]["audio_vae.per_channel_statistics._std_of_means"] == (128,)


@pytest.mark.parametrize("arguments", [{"dtype": "q3"}, {"dtype": "q8", "group_size": 48}])
def test_bad_arguments(tiny: Paths, tmp_path: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        convert(tiny["model"], tmp_path / "split", **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_output_is_never_overwritten_and_never_partial(tiny: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(RequestError, match="The output exists"):
        convert(tiny["model"], tmp_path / "there")
    with pytest.raises(CheckpointError, match="Only the official single file"):
        convert(tiny["split"], tmp_path / "again")
    monkeypatch.setattr("ltx_native.convert.write_configs", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(tiny["model"], tmp_path / "half")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert set(FORMATS) == {"bfloat16", "float32", "q8", "q4"}


def test_quantised_parameters_keep_their_dtypes(tiny: Paths, tmp_path: Path) -> None:
    convert(tiny["model"], tmp_path / "split", dtype="q4", group_size=32)
    checkpoint = Checkpoint.open(tmp_path / "split")
    model = checkpoint.load("transformer", LTXModel(checkpoint.config.transformer), "bfloat16")
    dtypes = {str(v.dtype) for _, v in tree_flatten(model.parameters())}
    assert dtypes == {"mlx.core.uint32", "mlx.core.bfloat16"}


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64])
def test_kernel_and_dequantised_product_agree(bits: int, group_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    how, keys = Quantisation(bits, group_size), mx.random.split(mx.random.key(bits), 2)
    parts = quantise(mx.random.normal((96, 256), key=keys[0]), how)
    packed, scales, biases = (parts[name] for name in ("weight", "scales", "biases"))
    dense = dequantise(packed, scales, biases, how)
    assert mx.array_equal(dequantised_float32(packed, scales, biases, group_size, bits), dense).item()
    for dtype, bound in (
        (mx.float32, {"kernel": 3e-6, "dequantise": 3e-6}),
        (mx.bfloat16, {"kernel": 0.06, "dequantise": 0.01}),
    ):
        x = mx.random.normal((2, 7, 256), key=keys[1]).astype(dtype)
        own = scales.astype(dtype), biases.astype(dtype)
        wide = dequantise(packed, *(part.astype(mx.float32) for part in own), how)
        truth = np.array(x.astype(mx.float32), np.float64) @ np.array(wide, np.float64).T
        for way in WAYS:  # MLX's CPU kernel adds up in bfloat16
            monkeypatch.setenv("LTX_QUANTIZED", way)
            got = quantized_matmul(x, packed, *own, group_size, bits)
            assert got.dtype == dtype
            assert got.shape == (2, 7, 96)
            assert np.linalg.norm(np.array(got.astype(mx.float32)) - truth) < bound[way] * np.linalg.norm(truth), way


@pytest.mark.skipif(mx.default_device().type != mx.DeviceType.cpu, reason="about the choice on a CPU")
def test_few_rows_take_the_kernel_and_more_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LTX_QUANTIZED", raising=False)
    taken: list[int] = []
    real = mx.quantized_matmul

    def kernel(x: mx.array, *args: Any, **options: Any) -> mx.array:
        taken.append(x.shape[0])
        return real(x, *args, **options)

    monkeypatch.setattr(mx, "quantized_matmul", kernel)
    parts = quantise(mx.random.normal((8, 64)), Quantisation(4, 64))
    for rows in (1, 3, 4, 9):
        quantized_matmul(mx.ones((rows, 64)), parts["weight"], parts["scales"], parts["biases"], 64, 4)
    assert taken == [1, 3]
    monkeypatch.setenv("LTX_QUANTIZED", "fast")
    with pytest.raises(RequestError, match=r"in LTX_QUANTIZED\): found fast, expected kernel or dequantise"):
        quantized_matmul(mx.ones((1, 64)), parts["weight"], parts["scales"], parts["biases"], 64, 4)
