"""Official single files that mean what a quantised split folder means, for a reference that cannot read the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ltx_native.checkpoint import Checkpoint
from ltx_native.errors import CheckpointError
from ltx_native.files import read_header
from ltx_native.quantize import Quantisation, dequantise, derive, quantised_layers
from ltx_native.streaming import StreamedBlocks, streamed_transformer
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


def write_dequantised_block(split: Path, block: int | None, out: Path) -> Path:
    """One transformer block of `split` (None: what is in no block) under its official keys, dequantised, float32.

    Keys keep the block's own number. One tensor is in memory in float32 at a time, the block as it is stored.
    Raises CheckpointError where there is no such block.
    """
    checkpoint = Checkpoint.open(split)
    config = checkpoint.config.transformer
    if block is not None and not 0 <= block < config.num_layers:
        raise CheckpointError(
            "The model has no such block", str(split), block, f"0 to {config.num_layers - 1}", "Name one of them"
        )
    module: nn.Module = (
        streamed_transformer(checkpoint, mx.float32) if block is None else StreamedBlocks(checkpoint, mx.float32).load(block)
    )
    prefix = PREFIX if block is None else f"{PREFIX}transformer_blocks.{block}."
    metadata = {"config": json.dumps(checkpoint.located.raw_config), "model_version": checkpoint.config.model_version}
    partial = out.with_name(f".{out.name}.partial")
    try:
        write_safetensors(partial, [Pending(prefix + name, tensor) for name, tensor in _dense(module)], metadata)
        os.replace(partial, out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return out


def _dense(module: nn.Module) -> Iterator[tuple[str, mx.array]]:
    """Parameters by name, quantised layers as the lazy weights that they stand for."""
    quantised = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.QuantizedLinear)}
    for name, tensor in tree_flatten(module.parameters()):
        path, _, part = name.rpartition(".")
        layer = quantised.get(path)
        if layer is None or part == "bias":
            yield name, tensor
        elif part == "weight":
            how = Quantisation(layer.bits, layer.group_size)
            yield name, dequantise(tensor, layer.scales, layer.biases, how)
