"""Writes the trace of a reference, from inside the reference's own process: tensors once per content, records line by line.

Standard library only; tensor libraries are imported inside functions, and a `Backend` is all that differs between them. Records
and the files of a trace are described in docs/trace-format.md.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TextIO

from reference_bridge.probe_sketch import Sketch, sketch, sketches

Tree = dict[str, Any]
SCHEMA = 1
SHARD_BYTES = 1 << 26
_SMALL = 1 << 17  # bytes; smaller tensors wait for one another: while a run goes on, its code is in the caches and ours is not
_WAITING = 1 << 22  # bytes that wait at most
_LINES_WAITING = 1 << 12
_SAFETENSORS_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
}  # fmt: skip

_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Dump(NamedTuple):
    """A copy of a tensor's bytes in C order. `stored` is their type, `dtype` the tensor's own (bf16 is widened)."""

    data: bytes
    stored: str
    dtype: str
    shape: tuple[int, ...]


class Backend(Protocol):
    """What the probe asks of a tensor library."""

    def is_tensor(self, value: object) -> bool: ...

    def dump(self, value: Any) -> Dump: ...

    def special(self, value: object) -> Tree | None:
        """The tree of a library object that is no tensor (a dtype, a generator); None for anything else."""


class TorchBackend:
    """PyTorch tensors, on any device."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._names: dict[Any, str] = {}

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, self._torch.Tensor)

    def dump(self, value: Any) -> Dump:
        dtype = stored = self._names.get(value.dtype) or self._name(value.dtype)
        if dtype not in _SAFETENSORS_NAMES:
            value, stored = value.float(), "float32"
        if value.requires_grad or not value.is_cpu:
            value = value.detach().cpu()
        array = value.numpy()
        return Dump(array.tobytes(), stored, dtype, array.shape)

    def _name(self, dtype: Any) -> str:
        return self._names.setdefault(dtype, str(dtype).removeprefix("torch."))

    def special(self, value: object) -> Tree | None:
        if isinstance(value, self._torch.dtype):
            return {"type": "dtype", "value": str(value).removeprefix("torch.")}
        if isinstance(value, (self._torch.Generator, self._torch.device)):
            return {"type": type(value).__name__, "value": None}
        return None


class TraceWriter:
    """Write a trace to `<folder>.partial`; it gets its final name in `close`, and `abort` removes it.

    Tensors are kept once per content (`store`, or `sketch` for their sketches), trees of values are built by `tree`, `append`
    writes one record.
    """

    def __init__(self, folder: Path, backend: Backend, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.partial = folder.with_name(folder.name + ".partial")
        self.records = 0
        self._backend = backend
        self._shard_bytes = shard_bytes
        self._known: set[str] = set()
        self._pending: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
        self._pending_bytes = 0
        self._files: dict[str, str] = {}
        self._lines_waiting: list[Mapping[str, Any]] = []
        self._small: list[tuple[Tree, Dump]] = []
        self._small_sketches: dict[tuple[str, int], list[tuple[Tree, bytes]]] = {}
        self._small_bytes = 0
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        self._lines: TextIO = (self.partial / "records.jsonl").open("w", encoding="utf-8")

    def store(self, value: Any) -> Tree:
        dump = self._backend.dump(value)
        leaf: Tree = {"tensor": "", "shape": list(dump.shape), "dtype": dump.dtype}
        if len(dump.data) > _SMALL:
            leaf["tensor"] = self._keep(dump.stored, dump.shape, dump.data)
        else:
            self._small.append((leaf, dump))
            self._small_bytes += len(dump.data)
        return leaf

    def sketch(self, value: Any, mask: Any = None) -> Tree:
        """A sketch in place of the tensor. `mask` (B, T) marks valid tokens; the others of a (B, T, …) tensor count as 0."""
        import numpy as np

        dump = self._backend.dump(value)
        data = dump.data
        if mask is not None and dump.shape[:2] == tuple(mask.shape):
            valid = np.frombuffer(self._backend.dump(mask).data, dtype=self._backend.dump(mask).stored).astype(bool)
            data = np.where(valid[:, None], np.frombuffer(data, dtype=dump.stored).reshape(valid.size, -1), 0).tobytes()
        leaf: Tree = {"sketch": "", "shape": list(dump.shape), "dtype": dump.dtype, "norm": 0.0, "finite": 0}
        if len(data) > _SMALL:
            array = np.frombuffer(data, dtype=dump.stored)
            self._fill(leaf, sketch(array), array.size)
        else:
            self._small_sketches.setdefault((dump.stored, len(data)), []).append((leaf, data))
            self._small_bytes += len(data)
        return leaf

    def _fill(self, leaf: Tree, found: Sketch, size: int) -> None:
        sums = found.sums[:size]  # a tensor smaller than the sketch has one element to a sum
        leaf["sketch"] = self._keep("float64", sums.shape, sums.tobytes())
        leaf["norm"], leaf["finite"] = math.sqrt(found.energy), found.finite

    def flush(self) -> None:
        """Hash and sketch the small tensors that wait, and write the records that wait for them."""
        import numpy as np

        for leaf, dump in self._small:
            leaf["tensor"] = self._keep(dump.stored, dump.shape, dump.data)
        for (stored, _), waiting in self._small_sketches.items():
            joined = np.frombuffer(b"".join([data for _, data in waiting]), dtype=stored)
            arrays = joined.reshape(len(waiting), joined.size // len(waiting))
            for (leaf, _), found in zip(waiting, sketches(arrays), strict=True):
                self._fill(leaf, found, arrays.shape[1])
        self._small, self._small_sketches, self._small_bytes = [], {}, 0
        first = self.records - len(self._lines_waiting)
        self._lines.writelines(
            [_json({"index": index, **record}) + "\n" for index, record in enumerate(self._lines_waiting, first)]
        )
        self._lines_waiting = []

    def _keep(self, stored: str, shape: tuple[int, ...], data: bytes) -> str:
        digest = hashlib.sha256(f"{stored}{shape}".encode())
        digest.update(data)
        key = digest.hexdigest()[:32]
        if key not in self._known:
            self._known.add(key)
            self._pending[key] = (stored, shape, data)
            self._pending_bytes += len(data)
            if self._pending_bytes >= self._shard_bytes:
                self._write_shard()
        return key

    def tree(self, value: Any, leaf: Callable[[Any], Tree] | None = None) -> Tree:
        """The tree of any value a module takes or gives; an object of unknown kind is named by its type alone.

        `leaf` makes the tree of a tensor: `store` unless said otherwise.
        """
        if self._backend.is_tensor(value):
            return (leaf or self.store)(value)
        if type(value) is dict:
            return {"fields": {str(name): self.tree(child, leaf) for name, child in value.items()}}
        special = self._backend.special(value)
        if special is not None:
            return special
        if isinstance(value, enum.Enum):
            return {"value": value.value}
        if value is None or isinstance(value, (bool, int, str)):
            return {"value": value}
        if isinstance(value, float):
            return {"value": value if math.isfinite(value) else repr(value)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            return {"type": type(value).__name__, "fields": {n: self.tree(getattr(value, n), leaf) for n in names}}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"type": type(value).__name__, "fields": {n: self.tree(getattr(value, n), leaf) for n in value._fields}}
        if isinstance(value, Mapping):
            return {"fields": {str(name): self.tree(child, leaf) for name, child in value.items()}}
        if isinstance(value, (list, tuple)):
            return {"items": [self.tree(child, leaf) for child in value]}
        return {"type": type(value).__name__, "value": None}

    def append(self, record: Mapping[str, Any]) -> None:
        self._lines_waiting.append(record)
        self.records += 1
        if self._small_bytes > _WAITING or len(self._lines_waiting) > _LINES_WAITING:
            self.flush()

    def close(self, manifest: Mapping[str, Any]) -> None:
        """Finish the trace. `manifest` says where it comes from; counts, hashes and completeness are added here."""
        self.flush()
        self._write_shard()
        self._lines.close()
        self._files["records.jsonl"] = file_sha256(self.partial / "records.jsonl")
        whole = {"schema": SCHEMA, **manifest, "complete": True, "records": self.records, "files": self._files}
        (self.partial / "manifest.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        os.replace(self.partial, self.folder)

    def abort(self) -> None:
        self._lines.close()
        shutil.rmtree(self.partial, ignore_errors=True)

    def _write_shard(self) -> None:
        if self._pending:
            name = f"tensors-{len(self._files):05d}.safetensors"
            with (self.partial / name).open("wb") as file:
                self._files[name] = write_safetensors(file, self._pending)
            self._pending, self._pending_bytes = {}, 0


def write_safetensors(file: BinaryIO, tensors: Mapping[str, tuple[str, Sequence[int], bytes]]) -> str:
    """Write name -> (dtype, shape, bytes in C order) as one safetensors file and return its sha256."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        end = offset + len(data)
        header[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    for part in (len(text).to_bytes(8, "little"), text, *(data for _, _, data in tensors.values())):
        file.write(part)
        digest.update(part)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
