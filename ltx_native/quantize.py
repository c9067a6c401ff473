"""Affine quantisation of linear weights as MLX does it: which layers, with how many bits, and what the shapes tell.

A quantised layer stores `weight` (uint32, in · bits / 32 columns) with `scales` and `biases` (in / group_size columns).
Nothing else says the bits and the group size: they follow from the layer's true width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_native.errors import CheckpointError
from ltx_native.layers import Linear
from ltx_native.quantized_matmul import quantized_matmul

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Quantisation:
    bits: int
    group_size: int


class QuantizedLinear(nn.QuantizedLinear):
    """nn.QuantizedLinear whose argument has the official name, as `layers.Linear` has, and that is fast on a CPU, too."""

    def __call__(self, input: mx.array) -> mx.array:
        out = quantized_matmul(input, self.weight, self.scales, self.biases, self.group_size, self.bits)
        return out + self.bias if "bias" in self else out


def derive(in_features: int, packed: tuple[int, ...], scales: tuple[int, ...], where: str) -> Quantisation:
    """Bits and group size of a layer of `in_features` from the shapes of its packed weight and its scales."""
    bits, rest = divmod(packed[-1] * 32, in_features)
    group_size, left = divmod(in_features, scales[-1])
    if rest or left or bits not in BITS or group_size not in GROUP_SIZES or packed[:-1] != scales[:-1]:
        raise CheckpointError(
            "A quantised layer does not fit the model",
            where,
            f"weight {packed}, scales {scales}",
            f"{in_features} inputs in groups of {GROUP_SIZES} with {BITS} bits",
            "Use weights converted for this model",
        )
    return Quantisation(bits, group_size)


def quantised_layers(weights: Mapping[str, mx.array]) -> list[str]:
    return [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]


def prepare(module: nn.Module, weights: Mapping[str, mx.array], where: str) -> dict[str, Quantisation]:
    """Turn those layers of `module` into quantised ones that `weights` holds quantised; says which and how."""
    layers = dict(module.named_modules())
    found: dict[str, Quantisation] = {}
    for path in quantised_layers(weights):
        layer = layers.get(path)
        if layer is None or not hasattr(layer, "to_quantized") or f"{path}.weight" not in weights:
            raise CheckpointError(
                "A quantised weight has no layer", where, path, "a linear layer of the model", "Use weights for this model"
            )
        _check_class(type(layer), f"{where}: {path}")
        shapes = weights[f"{path}.weight"].shape, weights[f"{path}.scales"].shape
        found[path] = derive(layer.weight.shape[-1], *shapes, f"{where}: {path}")

    def parameters(path: str, layer: nn.Module) -> bool | dict[str, Any]:
        chosen = found.get(path)
        return {"bits": chosen.bits, "group_size": chosen.group_size} if chosen else False

    if found:
        nn.quantize(module, class_predicate=parameters)
        for layer in module.modules():
            if type(layer) is nn.QuantizedLinear:
                layer.__class__ = QuantizedLinear
    return found


def _check_class(cls: type[nn.Module], where: str) -> None:
    """A layer that computes more than its base class would lose it in `nn.quantize`, silently, unless it says how."""
    base = nn.Embedding if issubclass(cls, nn.Embedding) else nn.Linear
    if cls not in (base, Linear) and cls.to_quantized is base.to_quantized:
        raise CheckpointError(
            "A layer of this port cannot be quantised", where, cls.__name__, "a class with its own to_quantized", "Report this"
        )


def quantise(weight: mx.array, how: Quantisation) -> dict[str, mx.array]:
    """`weight` (out, in) → its three tensors, by the suffix they are stored under."""
    packed, scales, biases = mx.quantize(weight, group_size=how.group_size, bits=how.bits)
    return {"weight": packed, "scales": scales, "biases": biases}


def dequantise(packed: mx.array, scales: mx.array, biases: mx.array, how: Quantisation) -> mx.array:
    """The (out, in) weight that the three tensors stand for, in the dtype of the scales."""
    return mx.dequantize(packed, scales, biases, group_size=how.group_size, bits=how.bits)


def convertible(name: str, shape: tuple[int, ...], group_size: int) -> bool:
    """Published quantised folders hold every 2-D `.weight` of the transformer blocks quantised, and nothing else."""
    return _is_block_weight(name, shape) and shape[-1] % group_size == 0


def too_narrow(name: str, shape: tuple[int, ...], group_size: int) -> bool:
    """A layer that would be quantised but whose width is no multiple of the group: it stays as it is."""
    return _is_block_weight(name, shape) and shape[-1] % group_size != 0


def _is_block_weight(name: str, shape: tuple[int, ...]) -> bool:
    return name.startswith("transformer_blocks.") and name.endswith(".weight") and len(shape) == 2
