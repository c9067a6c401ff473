"""Where numbers come from: config and constants against the checkpoint and the official pipelines, weights by hash, eps."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from safetensors import safe_open

from ltx_native import quantize, schedule
from ltx_native.models import COMPONENTS
from ltx_native.request import DEFAULT_IMAGE_CRF, Request
from ltx_native.text_encoder.tokenizer import MAX_LENGTH
from ltx_native.video_vae.tiling import TilingConfig
from parity.checks.exam import Array, Clue, Exam, Problem

# Parameters of one side that no forward pass of the other needs: tables that are computed there.
_COMPUTED = re.compile(r"(.*\.)?(inv_freq|original_inv_freq|resampler\.filter|.*_inv_freq|embed_scale|.*_filter)$")


def configs(exam: Exam) -> Iterator[Problem]:
    """Every config field that the checkpoint states under the same name, and what the official pipelines pass."""
    with safe_open(exam.evidence.checkpoint.model, framework="np") as file:
        stated = json.loads(file.metadata()["config"])
    gemma = json.loads((exam.evidence.checkpoint.gemma / "config.json").read_text())["text_config"]
    config = exam.native.config
    ddconfig = stated["audio_vae"]["model"]["params"]
    sections: tuple[tuple[str, Any, Mapping[str, Any]], ...] = (
        ("transformer", config.transformer, stated["transformer"]),
        ("video_vae", config.video_vae, stated["vae"]),
        ("audio_vae", config.audio_vae, {**ddconfig, **ddconfig["ddconfig"]}),
        ("vocoder", config.vocoder, stated["vocoder"]["vocoder"]),
        ("bwe", config.bwe, stated["vocoder"]["bwe"]),
        ("gemma", exam.native.gemma_config, gemma),
    )
    for name, read, section in sections:
        for item in fields(read):
            if item.name in section and section[item.name] is not None:
                ours, theirs = _plain(getattr(read, item.name)), _plain(section[item.name])
                text = f"{item.name} is {ours}, the checkpoint says {theirs}"
                clue = Clue(values=(ours, theirs))
                yield from exam.require("configs", "config", f"{name}.{item.name}", ours == theirs, text, clue)
    yield from _constants(exam)


def _constants(exam: Exam) -> Iterator[Problem]:
    official = exam.facts.values["constants"]
    dev, hq = Request("x").resolved(), Request("x", pipeline="two-stages-hq").resolved()
    tiling = TilingConfig.default()
    assert tiling.spatial_config is not None
    assert tiling.temporal_config is not None
    pairs: list[tuple[str, str, Any, Any]] = [
        ("schedule", "distilled_sigmas", schedule.DISTILLED_SIGMAS.tolist(), _single(official["distilled_sigmas"])),
        ("schedule", "stage_2_sigmas", schedule.STAGE_2_DISTILLED_SIGMAS.tolist(), _single(official["stage_2_sigmas"])),
        ("config", "image_crf", DEFAULT_IMAGE_CRF, official["image_crf"]),
        ("config", "steps", dev.steps, official["steps"]),
        ("config", "frame_rate", dev.frame_rate, official["frame_rate"]),
        ("config", "seed", dev.seed, official["seed"]),
        ("config", "steps of hq", hq.steps, official["hq"]["num_inference_steps"]),
        ("tokenizer", "max_length", MAX_LENGTH, 1024),
        ("video_decoder", "tiling.spatial", vars(tiling.spatial_config), official["tiling"]["spatial_config"]),
        ("video_decoder", "tiling.temporal", vars(tiling.temporal_config), official["tiling"]["temporal_config"]),
    ]
    for request, source, name in ((dev, official, "default"), (hq, official["hq"], "hq")):
        for side, guider in (("video", request.video_guider()), ("audio", request.audio_guider())):
            key = f"{side}_guider" if name == "default" else f"{side}_guider_params"
            pairs.append(("config", f"{name} {side} guidance", _plain(vars(guider)), _plain(source[key])))
    for component, name, ours, theirs in pairs:
        text = f"{name} is {ours}, the official pipelines have {theirs}"
        clue = Clue(values=(ours, theirs))
        yield from exam.require("configs", component, f"constants.{name}", ours == theirs, text, clue)


def _single(values: list[float]) -> list[float]:
    found: list[float] = np.array(values, dtype=np.float32).tolist()
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def weights(exam: Exam) -> Iterator[Problem]:
    """Every parameter as loaded, moved back to the official axes, has the official module's bytes; every norm its eps."""
    for component in COMPONENTS:
        module = exam.module(component)
        expected = exam.facts.values["weights"][component]
        found = {name: _official(name, value) for name, value in tree_flatten(module.parameters())}
        wanted = {_native_name(name): digest for name, digest in expected.items()}
        for name in sorted(wanted.keys() | found.keys()):
            if _COMPUTED.match(name):
                continue
            same = name in found and wanted.get(name) == found[name]
            text = "is not the official parameter" if name in found and name in wanted else "stands on one side only"
            clue = Clue(type="parameter", name=name)
            yield from exam.require("weights", component, f"{component}.{name}", same, text, clue)
        for path, layer in module.named_modules():
            eps = exam.facts.values["eps"].get(f"{component}.{path}")
            if eps is not None and isinstance(layer.get("eps", getattr(layer, "eps", None)), float):
                text = f"eps is {layer.eps}, the official module has {eps}"
                yield from exam.require("weights", component, f"{component}.{path}", layer.eps == eps, text)


def _official(name: str, value: mx.array) -> str:
    """SHA-256 of a parameter in the official axes."""
    return hashlib.sha256(np.ascontiguousarray(official_axes(name, value)).tobytes()).hexdigest()


def official_axes(name: str, value: mx.array) -> Array:
    """A parameter in PyTorch's axes: channels second, transposed convolutions (in, out, k)."""
    array: Array = np.array(value.astype(mx.float32))
    if re.search(r"(^|\.)ups\.\d+\.weight$", name):
        array = array.transpose(2, 0, 1)
    elif array.ndim >= 3:
        array = np.moveaxis(array, -1, 1)
    return array


def _native_name(name: str) -> str:
    return re.sub(r"(mean|std)-of-means", r"\1_of_means", name)


def quantised(exam: Exam) -> Iterator[Problem]:
    """Which layers a conversion quantises, and that a quantised layer computes with what its packed weight stands for."""
    from mlx import nn

    from ltx_native.layers import Linear

    names = [(name, value.shape) for name, value in tree_flatten(exam.module("transformer").parameters())]
    chosen = [name for name, shape in names if quantize.convertible(name, shape, 32)]
    outside = [name for name in chosen if not name.startswith("transformer_blocks.")]
    text = f"outside the blocks, {len(outside)} layers would be quantised, first {outside[:1]}"
    yield from exam.require("quantised", "transformer", "transformer", bool(chosen) and not outside, text)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = Linear(128, 48, bias=False)

    rng = np.random.default_rng(3)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((48, 128), (5, 128)))
    packed, scales, biases = mx.quantize(mx.array(weight), group_size=32, bits=4)
    holder = Holder()
    stored = {"proj.weight": packed, "proj.scales": scales, "proj.biases": biases}
    quantize.prepare(holder, stored, "transformer")
    holder.load_weights(list(stored.items()), strict=True)
    expected = x @ unpacked(np.array(packed), np.array(scales), np.array(biases)).T
    site = "transformer.quantised"
    given = {"x": x, "packed": np.array(packed), "scales": np.array(scales), "biases": np.array(biases)}
    clue = Clue(type="quantised layer", given=given)
    yield from exam.compare(
        "quantised", "transformer", site, holder.proj(mx.array(x)), expected, 1e-5, "4 bits in groups of 32", clue
    )


def unpacked(packed: Array, scales: Array, biases: Array) -> Array:
    """4-bit affine weights in NumPy: eight values in a word, the lowest bits first."""
    values = (packed[..., None] >> (4 * np.arange(8, dtype=np.uint32))) & np.uint32(15)
    grouped = values.reshape(packed.shape[0], scales.shape[1], -1).astype(np.float32)
    return (grouped * scales[..., None] + biases[..., None]).reshape(packed.shape[0], -1)
