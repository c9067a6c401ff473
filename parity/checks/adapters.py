"""LoRA fusion against its formula, and that an adapter that is switched on changes the weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from ltx_native import lora
from ltx_native.models import Models
from ltx_native.request import Lora
from parity.checks.exam import Exam, Problem
from parity.matrix import inputs


def fusion(exam: Exam) -> Iterator[Problem]:
    """W + strength · alpha / rank · B · A for every layer of an adapter, nothing else changed; loaded as a run loads it."""
    source = load_file(inputs()["lora"])
    layers = sorted({name.removesuffix(".lora_A.weight") for name in source if name.endswith(".lora_A.weight")})
    strength, alpha = 0.8, 2.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        save_file({**source, **{f"{layer}.alpha": np.array(alpha, dtype=np.float32) for layer in layers}}, path)
        with Models(exam.native, mx.float32).use("transformer", (Lora(str(path), strength),)) as fused:
            found = {name: np.array(value) for name, value in tree_flatten(fused.parameters())}
    plain = {name: np.array(value) for name, value in tree_flatten(exam.module("transformer").parameters())}
    expected = dict(plain)
    for layer in layers:
        a, b = source[f"{layer}.lora_A.weight"], source[f"{layer}.lora_B.weight"]
        name = f"{layer.removeprefix('diffusion_model.')}.weight"
        expected[name] = plain[name] + strength * alpha / a.shape[0] * (b @ a)
    for name in sorted(expected):
        what = "is not the weight plus the adapter's delta"
        yield from exam.compare("fusion", "transformer", f"transformer.{name}", found[name], expected[name], 1e-6, what)
    yield from _refuses(exam, source)


def _refuses(exam: Exam, source: dict[str, np.ndarray]) -> Iterator[Problem]:
    """An adapter whose keys fit no layer must be an error: silently applying nothing looks like applying it."""
    from ltx_native.errors import CheckpointError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "foreign.safetensors"
        save_file({name.replace("transformer_blocks", "blocks"): value for name, value in source.items()}, path)
        weights = {"transformer_blocks.0.attn1.to_q.weight": mx.zeros((2, 2))}
        try:
            lora.fuse(weights, [lora.LoRA.open(path)], mx.float32)
            refused = False
        except CheckpointError:
            refused = True
    text = "an adapter with foreign keys was accepted"
    yield from exam.require("fusion", "transformer", "transformer", refused, text)
