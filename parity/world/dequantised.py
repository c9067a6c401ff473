"""The official single file that means what a quantised split folder means, for a reference that cannot read the folder."""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx

from ltx_native.checkpoint import Checkpoint
from ltx_native.files import read_header
from ltx_native.quantize import dequantise, derive, quantised_layers
from ltx_native.tensor_files import Pending, read_tensors, write_safetensors

PREFIX = "model.diffusion_model."


def write_dequantised(split: Path, single: Path, out: Path) -> Path:
    """Copy `single` to `out` with every layer that `split` holds quantised replaced by its dequantised weight, float32."""
    header, tensors = read_header(single), read_tensors(single)
    weights = Checkpoint.open(split).weights("transformer", mx.float32)
    for layer in quantised_layers(weights):
        packed, scales, biases = (weights[f"{layer}.{part}"] for part in ("weight", "scales", "biases"))
        key = f"{PREFIX}{layer}.weight"
        how = derive(header.shapes[key][-1], packed.shape, scales.shape, layer)
        tensors[key] = dequantise(packed, scales, biases, how)
    partial = out.with_name(f".{out.name}.partial")
    write_safetensors(partial, [Pending(key, tensors[key]) for key in header.shapes], dict(header.metadata))
    os.replace(partial, out)
    return out
