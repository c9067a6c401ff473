"""LoRA adapters, fused into the weights while they are loaded: W + Σ strength · B · A.

As in ltx-core: each product is formed in the adapter's own dtype, brought to the dtype of the weights, summed, and then
added to the weight. A quantised weight is dequantised to float32, fused, and quantised again with its bits and groups.
Every key of an adapter is accounted for; a key that fits no weight is an error, because an adapter that applies in part
looks like one that applies.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import mlx.core as mx
import numpy as np

from ltx_native.errors import CheckpointError
from ltx_native.files import read_header, resolve
from ltx_native.quantize import dequantise, derive, quantise
from ltx_native.tensor_files import read_tensors

_PREFIX = re.compile(r"^((model\.)?diffusion_model|transformer)\.")
_FACTOR = re.compile(r"\.(lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight$")
_ROLE = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B"}


@dataclass(frozen=True)
class Factors:
    """A (rank, in) and B (out, rank) of one layer; `scale` is alpha / rank where the file gives an alpha, else 1."""

    a: mx.array
    b: mx.array
    scale: float


@dataclass(frozen=True)
class LoRA:
    path: Path
    strength: float
    layers: Mapping[str, Factors]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, source: str | Path, strength: float = 1.0) -> LoRA:
        """Read an adapter's keys and shapes; its tensors are read when they are fused."""
        path = resolve(source)
        header = read_header(path)
        tensors = read_tensors(path)
        parts: dict[str, dict[str, mx.array]] = {}
        unknown: list[str] = []
        for key, tensor in tensors.items():
            layer, role = _read_key(key)
            if role is None or role in parts.setdefault(layer, {}):
                unknown.append(key)
            else:
                parts[layer][role] = tensor
        unknown += [layer for layer, found in parts.items() if not {"A", "B"} <= found.keys()]
        if unknown or not parts:
            raise _unfit(path, "keys that are no complete A and B pair", unknown or ["(no keys)"])
        return cls(path, strength, {k: _factors(path, k, v) for k, v in parts.items()}, header.metadata)


def fuse(weights: dict[str, mx.array], loras: Sequence[LoRA], dtype: mx.Dtype) -> dict[str, mx.array]:
    """New weights with all adapters added; raises if any key of any adapter finds no weight of its shape."""
    result = dict(weights)
    deltas: dict[str, list[mx.array]] = {}
    check_layers(loras, weights)
    for lora in loras:
        for layer, factors in lora.layers.items():
            deltas.setdefault(layer, []).append(_delta(factors, lora.strength).astype(dtype))
    for layer, parts in deltas.items():
        total = reduce(mx.add, (part.astype(mx.float32) for part in parts)).astype(dtype)
        if f"{layer}.scales" in weights:
            _fuse_quantised(result, layer, total)
            continue
        weight = weights[f"{layer}.weight"]
        if weight.shape != total.shape:
            raise _misfit(layer, total.shape, weight.shape)
        result[f"{layer}.weight"] = (total + weight.astype(dtype)).astype(dtype)
    return result


def check_layers(loras: Sequence[LoRA], names: Container[str]) -> None:
    """Raise unless every layer of every adapter has its weight among `names`."""
    for lora in loras:
        unmatched = [layer for layer in lora.layers if f"{layer}.weight" not in names]
        if unmatched:
            share = "none" if len(unmatched) == len(lora.layers) else f"only {len(lora.layers) - len(unmatched)}"
            raise _unfit(lora.path, f"{share} of its {len(lora.layers)} layers fits the model; unmatched", unmatched)


def _delta(factors: Factors, strength: float) -> mx.array:
    """strength · B · A with ltx-core's roundings: float32 inside each operation, the adapter's dtype between them.

    (MLX would round a Python scalar to bfloat16 before multiplying; PyTorch multiplies in float32.)
    """
    own = mx.result_type(factors.a, factors.b)
    b = (factors.b.astype(mx.float32) * (strength * factors.scale)).astype(own)
    return (b.astype(mx.float32) @ factors.a.astype(mx.float32)).astype(own)


def _fuse_quantised(result: dict[str, mx.array], layer: str, delta: mx.array) -> None:
    packed, scales, biases = (result[f"{layer}.{part}"] for part in ("weight", "scales", "biases"))
    if packed.shape[0] != delta.shape[0]:
        raise _misfit(layer, delta.shape, packed.shape)
    how = derive(delta.shape[1], packed.shape, scales.shape, layer)
    weight = dequantise(packed, scales.astype(mx.float32), biases.astype(mx.float32), how)
    for part, tensor in quantise(weight + delta.astype(mx.float32), how).items():
        result[f"{layer}.{part}"] = tensor if part == "weight" else tensor.astype(scales.dtype)


def _read_key(key: str) -> tuple[str, str | None]:
    """(layer, "A" | "B" | "alpha"), or a role of None for a key that is nothing known."""
    tail = _PREFIX.sub("", key)
    if tail.endswith(".alpha"):
        return tail.removesuffix(".alpha"), "alpha"
    if match := _FACTOR.search(tail):
        return tail[: match.start()], _ROLE[match[1]]
    return tail, None


def _factors(path: Path, layer: str, parts: Mapping[str, mx.array]) -> Factors:
    a, b = parts["A"], parts["B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            "A LoRA's factors do not fit each other",
            f"{path.name}: {layer}",
            f"A {a.shape}, B {b.shape}",
            "A (rank, in), B (out, rank)",
            "Use an adapter for linear layers",
        )
    scale = float(np.array(parts["alpha"].astype(mx.float32))) / a.shape[0] if "alpha" in parts else 1.0
    return Factors(a, b, scale)


def _unfit(path: Path, problem: str, keys: Sequence[str]) -> CheckpointError:
    listed = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    return CheckpointError(
        "A LoRA cannot be applied whole",
        str(path),
        f"{problem}: {listed}",
        "diffusion_model.<layer>.lora_A.weight and .lora_B.weight for layers of this transformer",
        "Use an adapter trained for LTX-2.3",
    )


def _misfit(layer: str, delta: tuple[int, ...], weight: tuple[int, ...]) -> CheckpointError:
    return CheckpointError(
        "A LoRA has another width than the model", layer, delta, weight, "Use an adapter trained for this model"
    )
