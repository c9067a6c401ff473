"""Records what a reference computes, from inside the reference's own process.

One file, standard library only: it runs under an interpreter that knows nothing of this project. Tensor libraries are
imported inside functions, and a `Backend` is all that differs between them. Site names, records and the files of a trace
are described in docs/trace-format.md.

A record's place in the run is (stage, step, pass, call). A stage ends where the upsampler begins (`stage_1`, `stage_2`);
text encoding belongs to the first stage, decoding to the last. `step` and `pass` are set while a denoising step and one of
its guidance passes run, and `call` counts the calls of a site at one such place.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import inspect
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TextIO

Tree = dict[str, Any]
SCHEMA = 1
SHARD_BYTES = 1 << 26
_SAFETENSORS_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
}  # fmt: skip


class Dump(NamedTuple):
    """A tensor's bytes in C order. `stored` is the type of those bytes, `dtype` the tensor's own (bf16 is widened)."""

    data: memoryview
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

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, self._torch.Tensor)

    def dump(self, value: Any) -> Dump:
        tensor = value.detach().cpu()
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _SAFETENSORS_NAMES:
            tensor = tensor.float()
        shape = tuple(tensor.shape)
        flat = tensor.contiguous().reshape(-1).view(self._torch.uint8) if tensor.numel() else None
        data = memoryview(b"") if flat is None else memoryview(flat.numpy())
        return Dump(data, str(tensor.dtype).removeprefix("torch."), dtype, shape)

    def special(self, value: object) -> Tree | None:
        if isinstance(value, self._torch.dtype):
            return {"type": "dtype", "value": str(value).removeprefix("torch.")}
        if isinstance(value, (self._torch.Generator, self._torch.device)):
            return {"type": type(value).__name__, "value": None}
        return None


class TraceWriter:
    """Write a trace to `<folder>.partial`; it gets its final name in `close`, and `abort` removes it.

    Tensors are kept once per content (`store`), trees of values are built by `tree`, `append` writes one record.
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
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        self._lines: TextIO = (self.partial / "records.jsonl").open("w", encoding="utf-8")

    def store(self, value: Any) -> Tree:
        dump = self._backend.dump(value)
        digest = hashlib.sha256(f"{dump.stored}{dump.shape}".encode())
        digest.update(dump.data)
        key = digest.hexdigest()[:32]
        if key not in self._known:
            self._known.add(key)
            self._pending[key] = (dump.stored, dump.shape, bytes(dump.data))
            self._pending_bytes += len(dump.data)
            if self._pending_bytes >= self._shard_bytes:
                self._write_shard()
        return {"tensor": key, "shape": list(dump.shape), "dtype": dump.dtype}

    def tree(self, value: Any) -> Tree:
        """The tree of any value a module takes or gives; an object of unknown kind is named by its type alone."""
        if self._backend.is_tensor(value):
            return self.store(value)
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
            return {"type": type(value).__name__, "fields": {n: self.tree(getattr(value, n)) for n in names}}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"type": type(value).__name__, "fields": {n: self.tree(getattr(value, n)) for n in value._fields}}
        if isinstance(value, Mapping):
            return {"fields": {str(name): self.tree(child) for name, child in value.items()}}
        if isinstance(value, (list, tuple)):
            return {"items": [self.tree(child) for child in value]}
        return {"type": type(value).__name__, "value": None}

    def append(self, record: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps({"index": self.records, **record}, separators=(",", ":"), allow_nan=False) + "\n")
        self.records += 1

    def close(self, manifest: Mapping[str, Any]) -> None:
        """Finish the trace. `manifest` says where it comes from; counts, hashes and completeness are added here."""
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


@dataclasses.dataclass
class Recorder:
    """Turns calls into records at the current place of the run; `sites` are globs, empty for all sites."""

    writer: TraceWriter
    sites: tuple[str, ...] = ()
    outputs_only: bool = False
    stage: str = "stage_1"
    step: int | None = None
    guidance_pass: str | None = None
    seconds: float = 0.0
    _calls: dict[tuple[str, str, int | None, str | None], int] = dataclasses.field(default_factory=dict)

    def wants(self, site: str) -> bool:
        return not self.sites or any(fnmatchcase(site, pattern) for pattern in self.sites)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time spent inside as the probe's own."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def inputs(self, named: Mapping[str, Any]) -> dict[str, Tree]:
        """Inputs as trees. Taken before a call, because a callee may write to its arguments."""
        return {} if self.outputs_only else {name: self.writer.tree(value) for name, value in named.items()}

    def emit(self, site: str, kind: str, type_name: str, inputs: Mapping[str, Tree], outputs: Any) -> None:
        place = (site, self.stage, self.step, self.guidance_pass)
        call = self._calls.get(place, 0)
        self._calls[place] = call + 1
        self.writer.append(
            {
                "site": site,
                "kind": kind,
                "type": type_name,
                "stage": self.stage,
                "step": self.step,
                "pass": self.guidance_pass,
                "call": call,
                "inputs": inputs,
                "outputs": self.writer.tree(outputs),
            }
        )

    def value(self, site: str, kind: str, type_name: str, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Record a function or a value in one go."""
        if self.wants(site):
            with self.timed():
                self.emit(site, kind, type_name, self.inputs(inputs), outputs)

    def seen(self, site: str) -> bool:
        """Whether this site has a record in the current stage."""
        return any(key[0] == site and key[1] == self.stage for key in self._calls)

    def wrap(self, site: str, type_name: str, call: Callable[..., Any], kind: str = "module") -> Callable[..., Any]:
        """The same callable, recorded."""
        signature = inspect.signature(call)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            with self.timed():
                inputs = self.inputs(bound(signature, args, kwargs))
            result = call(*args, **kwargs)
            with self.timed():
                self.emit(site, kind, type_name, inputs, result)
            return result

        return recorded


def bound(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by parameter name with defaults filled in; what a `**kwargs` parameter took is listed by its own names."""
    arguments = signature.bind(*args, **kwargs)
    arguments.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in arguments.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return named


def tap_torch(
    recorder: Recorder, component: str, root: Any, entries: Mapping[str, str] | None = None, skip_root: bool = False
) -> None:
    """Hook every module under `root`. `entries` names, by type, the method of a module that is not entered by `forward`.

    Hooks only look: outputs with and without them are the same bits.
    """
    for path, module in root.named_modules():
        site = f"{component}.{path}" if path else component
        if (skip_root and not path) or not recorder.wants(site):
            continue
        method = (entries or {}).get(type(module).__name__)
        if method is not None:
            setattr(module, method, recorder.wrap(site, type(module).__name__, getattr(module, method)))
        else:
            _hook(recorder, site, module)


def _hook(recorder: Recorder, site: str, module: Any) -> None:
    signature = inspect.signature(module.forward)
    type_name = type(module).__name__
    waiting: list[dict[str, Tree]] = []

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with recorder.timed():
            waiting.append(recorder.inputs(bound(signature, args, kwargs)))

    def after(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        with recorder.timed():
            recorder.emit(site, "module", type_name, waiting.pop(), output)

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after, with_kwargs=True)
