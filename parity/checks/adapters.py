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
from parity.checks.configs import unpacked
from parity.checks.exam import Clue, Exam, Problem
from parity.matrix import inputs

# Half a step of 15 between the ends of a group of 32 standard normal values, against their size, with room.
FOUR_BITS = 0.15


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
    expected, clues = dict(plain), {}
    for layer in layers:
        a, b = source[f"{layer}.lora_A.weight"], source[f"{layer}.lora_B.weight"]
        name = f"{layer.removeprefix('diffusion_model.')}.weight"
        expected[name] = plain[name] + strength * alpha / a.shape[0] * (b @ a)
        given = {"plain": plain[name], "a": a, "b": b, "strength": strength, "alpha": alpha}
        clues[name] = Clue(type="fused parameter", name=name, given=given)
    for name in sorted(expected):
        what = "is not the weight plus the adapter's delta"
        clue = clues.get(name, Clue(type="fused parameter", name=name))
        yield from exam.compare("fusion", "transformer", f"transformer.{name}", found[name], expected[name], 1e-6, what, clue)
    yield from _refuses(exam, source)
    yield from _several(exam)


def _several(exam: Exam) -> Iterator[Problem]:
    """Two adapters on one layer, the layer plain or packed: what it stands for afterwards."""
    rng = np.random.default_rng(23)
    shapes = ((48, 128), (4, 128), (48, 4), (2, 128), (48, 2))
    weight, *factors = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    expected = weight + 0.5 * factors[1] @ factors[0] + 0.25 * factors[3] @ factors[2]
    names = ("weight", "scales", "biases")
    packed = dict(zip(names, mx.quantize(mx.array(weight), group_size=32, bits=4), strict=True))
    stored = {"plain.weight": mx.array(weight), **{f"packed.{name}": value for name, value in packed.items()}}
    with tempfile.TemporaryDirectory() as folder:
        loras = []
        for index, strength in enumerate((0.5, 0.25)):
            path = Path(folder) / f"{index}.safetensors"
            ends = zip(("A", "B"), factors[2 * index : 2 * index + 2], strict=True)
            pair = {f"lora_{end}.weight": factor for end, factor in ends}
            save_file({f"diffusion_model.{layer}.{k}": v for layer in ("plain", "packed") for k, v in pair.items()}, path)
            loras.append(lora.LoRA.open(path, strength))
        fused = lora.fuse(stored, loras, mx.float32)
    meant = {"plain": np.array(fused["plain.weight"]), "packed": unpacked(*(np.array(fused[f"packed.{n}"]) for n in names))}
    for layer, bound in (("plain", 1e-6), ("packed", FOUR_BITS)):
        what = f"a {layer} weight plus two adapters stands for something else"
        yield from exam.compare("fusion", "transformer", f"transformer.{layer}", meant[layer], expected, bound, what)


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
