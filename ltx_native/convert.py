"""The official single file → the split MLX folder, in bfloat16, float32, or with 8- or 4-bit transformer blocks.

One tensor is in memory at a time. Every key of the source ends in the report: where it went and what was done to it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_native import layout, quantize
from ltx_native.errors import CheckpointError, RequestError
from ltx_native.files import Header, read_header, resolve
from ltx_native.locate import CheckpointFiles
from ltx_native.quantize import Quantisation
from ltx_native.tensor_files import Pending, read_tensors, write_safetensors

FORMATS = ("bfloat16", "float32", "q8", "q4")


@dataclass(frozen=True)
class Converted:
    """What became of one key: `targets` are `file: key`; `actions` say what changed."""

    source: str
    targets: tuple[str, ...]
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    folder: Path
    entries: tuple[Converted, ...]

    def summary(self) -> str:
        """One line of counts: keys, and how often each action was taken."""
        counts = Counter(action.split(" (")[0] for entry in self.entries for action in entry.actions)
        done = ", ".join(f"{number} {action}" for action, number in counts.most_common())
        return f"{len(self.entries)} keys -> {self.folder}: {done or 'copied as they are'}"


def convert(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str = "bfloat16",
    group_size: int = 64,
    variant: str = "dev",
    upsamplers: Sequence[str | Path] = (),
) -> Report:
    """Write the split folder `out` (which must not exist) from an official file and any latent upsamplers' files.

    `dtype` is one of FORMATS; q8 and q4 quantise the transformer blocks' linear weights in groups of `group_size` and keep
    the rest in bfloat16. `variant` names the transformer's file: `dev` or `distilled`.
    """
    target = Path(out)
    _check_arguments(dtype, group_size, target)
    located = CheckpointFiles.find(source)
    if located.layout != "official":
        raise CheckpointError(
            "Only the official single file can be converted", str(located.root), "a split folder",
            "an official LTX-2.3 .safetensors file", "Give the file that Lightricks published",
        )  # fmt: skip
    header = located.headers[located.components["transformer"][0]]
    _ = located.config  # refuses what the port could not run, before anything is written
    extra = [read_header(resolve(path)) for path in upsamplers]
    how = Quantisation(int(dtype[1]), group_size) if dtype in ("q8", "q4") else None
    cast = mx.float32 if dtype == "float32" else mx.bfloat16
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        entries = _write_model(header, temporary, cast, how, variant)
        for upsampler in extra:
            entries += _write_upsampler(upsampler, temporary, cast)
        config, version = json.loads(header.metadata["config"]), header.metadata.get("model_version", "")
        write_configs(config, version, temporary, how, variant)
        report = Report(target, tuple(entries))
        _write_json(temporary / "conversion.json", [asdict(entry) for entry in entries])
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return report


def _check_arguments(dtype: str, group_size: int, target: Path) -> None:
    if dtype not in FORMATS:
        raise RequestError("Unknown format", "convert", dtype, ", ".join(FORMATS), "Choose one of them")
    if group_size not in quantize.GROUP_SIZES:
        raise RequestError("Unknown group size", "convert", group_size, quantize.GROUP_SIZES, "Choose one of them")
    if target.exists():
        raise RequestError("The output exists", "convert", str(target), "a new folder", "Remove it or name another one")


def _write_model(header: Header, folder: Path, cast: mx.Dtype, how: Quantisation | None, variant: str) -> list[Converted]:
    files = {"transformer": f"transformer-{variant}.safetensors"} | layout.SPLIT_FILES
    plan: dict[str, dict[str, tuple[str, str]]] = {}  # file → split key → (official key, native name)
    entries: dict[str, tuple[list[str], list[str]]] = {}
    for key in header.shapes:
        pairs = layout.from_official(key)
        if pairs is None:
            raise CheckpointError(
                "The file holds a tensor that no part of the model accounts for", header.path.name, key,
                "only keys of LTX-2.3", "Use the file as published",
            )  # fmt: skip
        entries[key] = ([], [] if pairs else ["dropped (no forward pass reads it)"])
        for component, name in pairs:
            plan.setdefault(files[component], {})[layout.to_split(component, name)] = (key, name)
    for file, wanted in sorted(plan.items()):
        pending: list[Pending] = []
        tensors = read_tensors(header.path)
        for split_key, (key, name) in sorted(wanted.items()):
            converted, actions = _convert_one(tensors[key], name, split_key, cast, how)
            pending += converted
            targets, done = entries[key]
            targets += [f"{file}: {tensor.key}" for tensor in converted]
            moved = ["renamed"] if split_key != key else []
            done += [action for action in (*moved, *actions) if action not in done]
        del tensors
        write_safetensors(folder / file, pending)
    return [Converted(key, tuple(targets), tuple(done)) for key, (targets, done) in entries.items()]


def _convert_one(
    tensor: mx.array, name: str, key: str, cast: mx.Dtype, how: Quantisation | None
) -> tuple[list[Pending], list[str]]:
    actions: list[str] = []
    axes = layout.to_mlx_axes(name, tensor.ndim)
    if axes is not None:
        tensor = tensor.transpose(axes)
        actions.append(f"transposed {axes}")
    if how is not None and quantize.convertible(name, tensor.shape, how.group_size):
        parts = quantize.quantise(tensor.astype(cast), how)
        stem = key.removesuffix("weight")
        actions.append(f"quantised (q{how.bits}, groups of {how.group_size})")
        return [Pending(stem + part, array) for part, array in parts.items()], actions
    if how is not None and quantize.too_narrow(name, tensor.shape, how.group_size):
        actions.append(f"left unquantised ({tensor.shape[-1]} inputs are no multiple of {how.group_size})")
    if tensor.dtype != cast:
        actions.append(f"cast to {str(cast).removeprefix('mlx.core.')}")
    return [Pending(key, tensor.astype(cast))], actions


def _write_upsampler(header: Header, folder: Path, cast: mx.Dtype) -> list[Converted]:
    stem = header.path.stem
    entries: list[Converted] = []
    pending: list[Pending] = []
    tensors = read_tensors(header.path)
    for key in sorted(header.shapes):
        converted, actions = _convert_one(tensors[key], key, f"{stem}.{key}", cast, None)
        pending += converted
        entries.append(Converted(f"{stem}: {key}", (f"{stem}.safetensors: {stem}.{key}",), ("renamed", *actions)))
    del tensors
    write_safetensors(folder / f"{stem}.safetensors", pending)
    _write_json(folder / f"{stem}_config.json", {"config": json.loads(header.metadata["config"])})
    return entries


def write_configs(config: dict[str, Any], version: str, folder: Path, how: Quantisation | None, variant: str) -> None:
    """`embedded_config.json` is the official config; `config.json` the flat one that ltx-2-mlx falls back to."""
    _write_json(folder / "embedded_config.json", config)
    flat: dict[str, Any] = {
        "model_version": version,
        "is_v2": True,
        "model_type": "AudioVideo",
    }
    flat |= {key: value for key, value in config["transformer"].items() if key != "_class_name"}
    flat |= {"variants": {variant: {"cross_attention_adaln": config["transformer"]["cross_attention_adaln"]}}}
    _write_json(folder / "config.json", flat)
    _write_json(folder / "split_model.json", {"format": "split", "files": sorted(p.name for p in folder.glob("*.safetensors"))})
    if how is not None:
        quantization = {"bits": how.bits, "group_size": how.group_size, "only_transformer_blocks": True}
        _write_json(folder / "quantize_config.json", {"quantization": quantization})


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
