"""Writes a checkpoint of LTX-2.3's true size with random weights, in the split MLX layout as published, quantised.

    python -m parity.world.full_size OUT [--blocks 48] [--bits 4] [--group 64] [--seed N]     the folder, about 12 GB
    python -m parity.world.full_size OUT --block N|root [--dtype float32|bfloat16] ...        one block, official layout

The folder is written tensor by tensor and continued where an interrupted run left it. The second form writes the
dequantised weights of one block of that same checkpoint (`root`: all of the transformer that is in no block) as an official
single file, so that the official code computes with the same numbers; the folder need not exist for it.

True-size are the transformer and the widths of the connectors; these have one layer each (published: eight), and VAEs,
vocoder and Gemma are the tiny preset's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx_native.convert import write_configs
from ltx_native.errors import RequestError, UserError
from ltx_native.layout import SPLIT_FILES, from_official, to_mlx_axes, to_split
from ltx_native.progress import Bar
from ltx_native.quantize import BITS, GROUP_SIZES, Quantisation, convertible
from parity.world import layout, quick_weights
from parity.world.presets import MODEL_VERSION, preset
from parity.world.random_checkpoint import write_gemma
from parity.world.streamed_file import Entry, write_streamed

PREFIX = "model.diffusion_model."
BLOCKS = 48
Q4 = Quantisation(4, 64)
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 32, "attention_head_dim": 128, "cross_attention_dim": 4096,
    "audio_num_attention_heads": 32, "audio_attention_head_dim": 64, "audio_cross_attention_dim": 2048,
    "connector_num_attention_heads": 32, "connector_attention_head_dim": 128, "connector_num_layers": 1,
    "audio_connector_num_attention_heads": 32, "audio_connector_attention_head_dim": 64, "audio_connector_num_layers": 1,
}  # fmt: skip
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
_BRANCH_END = re.compile(r"transformer_blocks\.\d+\..*(\.to_out\.0|ff\.net\.2)\.")


def full_config(blocks: int = BLOCKS) -> dict[str, Any]:
    """The official config of the checkpoint: true transformer, connectors of one layer, tiny VAEs and vocoder."""
    config, _ = preset("tiny")
    config["transformer"] |= TRANSFORMER | {"num_layers": blocks}
    return config


def write_full_size(
    out: Path, *, config: dict[str, Any] | None = None, how: Quantisation = Q4, seed: int = 0, bar: Bar | None = None
) -> Path:
    """Write the folder `out`, which must not exist; `config` replaces the true-size one (tests)."""
    if out.exists():
        raise RequestError("The output exists", "full_size", str(out), "a new folder", "Remove it or name another one")
    config = full_config() if config is None else config
    _, gemma = preset("tiny")
    temporary = out.with_name(f".{out.name}.partial")
    temporary.mkdir(parents=True, exist_ok=True)
    plan = _plan(config, gemma["text_config"]["num_hidden_layers"] + 1, how, seed)
    total, done = sum(entry.nbytes for entries in plan.values() for entry in entries), 0
    for file, entries in plan.items():
        # The seed in the header keeps a run from continuing another seed's file.
        for written in write_streamed(temporary / file, entries, {"format": "mlx", "seed": str(seed)}):
            done += written
            if bar is not None:
                bar.update(f"writing {file}, MB", done >> 20, total >> 20)
    if not (temporary / "gemma" / "tokenizer_config.json").exists():
        write_gemma(temporary / "gemma", gemma, seed)
    write_configs(config, MODEL_VERSION, temporary, how, "dev")
    (temporary / "README.md").write_text(_readme(config, how, seed), encoding="utf-8")
    os.replace(temporary, out)
    return out


def write_block(
    out: Path,
    block: int | None,
    *,
    config: dict[str, Any] | None = None,
    how: Quantisation = Q4,
    seed: int = 0,
    dtype: str = "float32",
) -> Path:
    """Write block `block` (None: what is in no block) of the same checkpoint, dequantised, as an official single file.

    bfloat16 is the float32 number rounded to nearest.
    """
    config = full_config() if config is None else config
    blocks = config["transformer"]["num_layers"]
    if block is not None and not 0 <= block < blocks:
        raise RequestError("The model has no such block", "--block", block, f"0 to {blocks - 1}, or root", "Name one of them")
    entries = []
    for tensor in _transformer(config):
        name = tensor.key.removeprefix(PREFIX)
        if _block_of(name) == block:
            quantised = convertible(name, tensor.shape, how.group_size)
            values = partial(_whole, tensor, how, seed) if quantised else partial(quick_weights.plain, tensor, seed)
            entries.append(Entry(tensor.key, *_stored(dtype, tensor.shape, values)))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.partial")
    try:
        for _ in write_streamed(temporary, entries, {"config": json.dumps(config), "model_version": MODEL_VERSION}):
            pass
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return out


def _transformer(config: dict[str, Any]) -> Iterator[layout.Tensor]:
    """The transformer's table. Each branch of a block adds little, so that the sum over all blocks stays of order 1."""
    calm = min(1.0, 2 / config["transformer"]["num_layers"] ** 0.5)
    for tensor in layout.transformer(config["transformer"]):
        yield replace(tensor, gain=tensor.gain * calm) if _BRANCH_END.search(tensor.key) else tensor


def _plan(config: dict[str, Any], num_states: int, how: Quantisation, seed: int) -> dict[str, list[Entry]]:
    """Every file of the folder with its tensors, blocks in order."""
    others = (t for t in layout.official(config, num_states) if _component(t.key) != "transformer")
    return split_files((*_transformer(config), *others), how, seed)


def split_files(tensors: Iterable[layout.Tensor], how: Quantisation | None, seed: int) -> dict[str, list[Entry]]:
    """Official tensors as files of the split layout, in bfloat16; `how` (None: not at all) quantises the blocks."""
    files = {"transformer": "transformer-dev.safetensors"} | SPLIT_FILES
    found: dict[str, dict[str, Entry]] = {}
    for tensor in tensors:
        for component, name in from_official(tensor.key) or ():
            entries = found.setdefault(files[component], {})
            for entry in _entries(tensor, component, name, how, seed):
                entries[entry.key] = entry
    return {file: list(entries.values()) for file, entries in found.items()}


def _component(key: str) -> str:
    pairs = from_official(key)
    return pairs[0][0] if pairs else ""


def _entries(tensor: layout.Tensor, component: str, name: str, how: Quantisation | None, seed: int) -> Iterator[Entry]:
    key = to_split(component, name)
    if how is not None and component == "transformer" and convertible(name, tensor.shape, how.group_size):
        rows, columns = tensor.shape
        stem = key.removesuffix("weight")
        yield Entry(key, "U32", (rows, columns * how.bits // 32), partial(quick_weights.packed, tensor, how, seed))
        for index, part in enumerate(("scales", "biases")):
            values = partial(_part, tensor, how, seed, index)
            yield Entry(stem + part, *_stored("bfloat16", (rows, columns // how.group_size), values))
        return
    yield dense(tensor, key, seed, axes=to_mlx_axes(name, len(tensor.shape)))


def dense(tensor: layout.Tensor, key: str, seed: int, *, axes: tuple[int, ...] | None = None, dtype: str = "bfloat16") -> Entry:
    """An unquantised tensor under its key in a file, transposed by `axes`."""
    if axes is None:
        return Entry(key, *_stored(dtype, tensor.shape, partial(quick_weights.plain, tensor, seed)))
    moved = tuple(tensor.shape[axis] for axis in axes)
    return Entry(key, *_stored(dtype, moved, partial(_moved, tensor, seed, axes)))


Pieces = partial[Iterator[NDArray[np.float32]]]


def _stored(dtype: str, shape: tuple[int, ...], values: Pieces) -> tuple[str, tuple[int, ...], partial[Iterator[Any]]]:
    """dtype, shape and numbers of an `Entry` for float32 `values`."""
    return ("F32", shape, values) if dtype == "float32" else ("BF16", shape, partial(_halved, values))


def _halved(values: Pieces) -> Iterator[NDArray[np.uint16]]:
    return (quick_weights.bfloat16_bits(piece) for piece in values())


def _whole(tensor: layout.Tensor, how: Quantisation, seed: int) -> Iterator[NDArray[np.float32]]:
    yield quick_weights.dequantised(tensor, how, seed)


def _part(tensor: layout.Tensor, how: Quantisation, seed: int, index: int) -> Iterator[NDArray[np.float32]]:
    yield quick_weights.groups(tensor, how, seed)[index]


def _moved(tensor: layout.Tensor, seed: int, axes: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    pieces = quick_weights.plain(tensor, seed)
    if axes[0] != 0:
        yield np.concatenate(list(pieces)).reshape(tensor.shape).transpose(axes)
        return
    rest, row = np.empty(0, np.float32), int(np.prod(tensor.shape[1:]))
    for piece in pieces:  # whole rows of the first axis, which stays where it is: a convolution of the true size is large
        rest = np.concatenate([rest, piece])
        whole = len(rest) - len(rest) % row
        yield rest[:whole].reshape(-1, *tensor.shape[1:]).transpose(axes)
        rest = rest[whole:]


def _block_of(name: str) -> int | None:
    found = _BLOCK.match(name)
    return int(found[1]) if found else None


def _readme(config: dict[str, Any], how: Quantisation, seed: int) -> str:
    c = config["transformer"]
    return (
        f"Random weights (seed {seed}) in the shapes of LTX-2.3: {c['num_layers']} transformer blocks, "
        f"{c['num_attention_heads']} x {c['attention_head_dim']} video heads, {c['audio_num_attention_heads']} x "
        f"{c['audio_attention_head_dim']} audio heads, blocks quantised to {how.bits} bits in groups of {how.group_size}.\n\n"
        f"Not of the true size: connectors ({c['connector_num_layers']} layer instead of 8), Gemma, VAEs and vocoder "
        "(those of the tiny test checkpoint). It makes no sensible picture.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity.world.full_size", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the folder, or with --block the file, to write; the folder must not exist")
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--bits", type=int, choices=BITS, default=Q4.bits)
    parser.add_argument("--group", type=int, choices=GROUP_SIZES, default=Q4.group_size)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", help="write only this block, dequantised, in the official layout (a number, or root)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of --block")
    parser.add_argument("-q", "--quiet", action="store_true")
    args = parser.parse_args(argv)
    how, config = Quantisation(args.bits, args.group), full_config(args.blocks)
    try:
        if args.block is None:
            with Bar(sys.stderr, enabled=not args.quiet) as bar:
                write_full_size(args.out, config=config, how=how, seed=args.seed, bar=bar)
        else:
            block = None if args.block == "root" else _number(args.block)
            write_block(args.out, block, config=config, how=how, seed=args.seed, dtype=args.dtype)
    except UserError as error:
        print(f"full_size: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("full_size: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if not args.quiet:
        size = sum(file.stat().st_size for file in (args.out.rglob("*") if args.out.is_dir() else [args.out]) if file.is_file())
        print(f"{args.out}: {size / 1e9:.2f} GB")
    return 0


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RequestError("Not a block", "--block", text, "a number or root", "Correct it") from None


if __name__ == "__main__":
    sys.exit(main())
