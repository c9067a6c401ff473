"""A capsule's native side: the weights of one module cut out of the checkpoint, and the module rebuilt from them alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy.typing as npt
from safetensors import safe_open

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.checkpoint import fill
from ltx_native.locate import AGGREGATE
from ltx_native.models import COMPONENTS, Models
from parity.capture.functions import Functions
from parity.capture.reference import Checkpoint
from parity.capture.replay import Replayer
from parity.taps import sites_of
from parity.trace import Record, Trace, TraceWriter, Tree

Array = npt.NDArray[Any]
SMALL = 64 << 20  # bytes of a tokenizer's or configuration's file


class CapsuleError(ValueError):
    """A site that cannot be cut out, or a folder that is no capsule."""


def write_record(source: Trace, record: Record, folder: Path, mask: tuple[Record, Tree] | None) -> None:
    """A trace of one record; ``mask`` is the root record whose attention mask says which of its tokens are valid."""
    about = {name: source.manifest[name] for name in ("side", "engine", "dtype", "device", "versions", "checkpoint")}
    with TraceWriter(folder, about) as writer:
        inputs = {name: _copy(tree, source, writer) for name, tree in record.inputs.items()}
        _append(writer, record, inputs, _copy(record.outputs, source, writer))
        if mask is not None and mask[0].key != record.key:  # after what it holds, as in a run
            _append(writer, mask[0], {"attention_mask": _copy(mask[1], source, writer)}, {"value": None})


def _append(writer: TraceWriter, record: Record, inputs: Mapping[str, Tree], outputs: Tree) -> None:
    key = record.key
    place = {"stage": key.stage, "step": key.step, "guidance_pass": key.guidance_pass}
    writer.append(key.site, outputs, inputs=inputs, kind=record.kind, type_name=record.type, **place)  # type: ignore[arg-type]


def _copy(tree: Tree, source: Trace, writer: TraceWriter) -> dict[str, Any]:
    if "tensor" in tree:
        return writer.store(source.tensor(tree), str(tree["dtype"]))
    if "fields" in tree:
        return {**tree, "fields": {name: _copy(child, source, writer) for name, child in tree["fields"].items()}}
    if "items" in tree:
        return {"items": [_copy(child, source, writer) for child in tree["items"]]}
    return dict(tree)


def write_weights(checkpoint: Checkpoint, native: NativeCheckpoint, site: str, folder: Path) -> int:
    """Cut what the module at ``site`` owns out of the files, as stored, beside the configurations; how many tensors."""
    component, _, path = site.partition(".")
    folder.mkdir(parents=True)
    (folder / "gemma").mkdir()
    for file in sorted(checkpoint.gemma.iterdir()):
        if file.is_file() and file.suffix != ".safetensors" and file.stat().st_size <= SMALL:
            shutil.copyfile(file, folder / "gemma" / file.name)
    chosen: dict[Path, set[str]] = {}
    if component in COMPONENTS:
        for source, names in native.names(component):
            chosen[source] = {key for key, name in names.items() if _inside(name, path)}
    count = 0
    files = [(checkpoint.model, folder / checkpoint.model.name)]
    files += [(file, folder / "gemma" / file.name) for file in sorted(checkpoint.gemma.glob("*.safetensors"))]
    files += [(checkpoint.upsampler, folder / checkpoint.upsampler.name)] if checkpoint.upsampler else []
    for source, target in files:
        keys = chosen.get(source, set())
        count += len(keys)
        _cut(source, target, keys)
    return count


def _inside(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}.") or name == path


def _cut(source: Path, target: Path, keys: set[str]) -> None:
    """Some tensors of a file, with its metadata. The text projection's width is read off its weight: a row of it stays."""
    tensors: dict[str, mx.array] = mx.load(str(source))  # type: ignore[assignment]
    with safe_open(source, framework="np") as file:
        metadata = file.metadata() or {}
    kept = {key: tensors[key] for key in keys}
    if AGGREGATE in tensors and AGGREGATE not in kept:
        kept[AGGREGATE] = tensors[AGGREGATE][:1]
    mx.save_safetensors(str(target), kept, metadata)


class Cut:
    """The module (or the functions) of a capsule, rebuilt when first asked for. Raises `CapsuleError` or `UserError`."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._module: nn.Module | None = None
        self._functions: Functions | None = None

    def replay(self, trace: Trace, record: Record) -> dict[str, Array] | str | None:
        """Native outputs by leaf path on a record's inputs, or why there are none."""
        site = record.key.site
        if self._module is None and self._functions is None:
            self._rebuild(site)
        placed = {} if self._module is None else {(record.key.stage, site): self._module}
        return Replayer(placed, trace, functions=self._functions)(record)

    def _rebuild(self, site: str) -> None:
        models = sorted(path for path in self._weights.glob("*.safetensors") if "upscaler" not in path.name)
        upsamplers = sorted(self._weights.glob("*upscaler*.safetensors"))
        if len(models) != 1:
            raise CapsuleError(f"{self._weights}: {len(models)} model files, expected the one that was cut out")
        native = NativeCheckpoint.open(str(models[0]), str(self._weights / "gemma"), str(upsamplers[0]) if upsamplers else None)
        component, _, path = site.partition(".")
        if component not in COMPONENTS:
            with Models(native, mx.float32).use("tokenizer") as tokenizer:
                self._functions = Functions(tokenizer, native.config.audio_vae)
            return
        module = sites_of(component, Models(native, mx.float32).build(component)).get(site)
        if module is None:
            raise CapsuleError(f"the native {component} has no module {site}")
        own = {
            name.removeprefix(f"{path}." if path else ""): value
            for name, value in native.weights(component, mx.float32).items()
            if _inside(name, path)
        }
        self._module = fill(module, own, mx.float32, site)
