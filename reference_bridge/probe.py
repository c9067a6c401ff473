"""Records what a reference computes, from inside the reference's own process.

One file, standard library only: it runs under an interpreter that knows nothing of this project. Tensor libraries are
imported inside functions, and a `Backend` is all that differs between them. Site names, records and the files of a trace
are described in docs/trace-format.md.

A record's place in the run is (stage, step, pass, call). A stage ends where the upsampler begins (`stage_1`, `stage_2`);
text encoding belongs to the first stage, decoding to the last. `step` and `pass` are set while a denoising step and one of
its guidance passes run, and `call` counts the calls of a site at one such place.

A sketch takes the place of a tensor where only error norms are wanted: element i is multiplied by a seeded sign and added to
sum number i mod `SKETCH_SUMS`. The dimension is a prime, so that no axis of a tensor falls into few of the sums. Sketches are
linear: that of a difference is the difference of two, and those of a tensor's pieces add up.
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
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TextIO

Tree = dict[str, Any]
SCHEMA = 1
SHARD_BYTES = 1 << 26
SKETCH_SUMS = 509
SKETCH_SEED = 0x2545F4914F6CDD1D
_SKETCH_PIECE = 2048 * SKETCH_SUMS  # elements taken at a time
_SMALL = 1 << 17  # bytes; smaller tensors wait for one another: while a run goes on, its code is in the caches and ours is not
_WAITING = 1 << 22  # bytes that wait at most
_LINES_WAITING = 1 << 12
_SIGNS: list[Any] = []  # those of the first rows, kept
WHOLE = ("tokenizer", "schedule", "noise.*")  # small, and the other side starts from them
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


class Sketch(NamedTuple):
    """Signed sums of a tensor's elements, the sum of their squares, and how many of them are finite (the rest count as 0)."""

    sums: Any
    energy: float
    finite: int


def signs(start: int, count: int) -> Any:
    """Seeded signs (+1 or -1, int8) of elements `start` to `start + count`: the bits of splitmix64 of every 64th index."""
    import numpy as np

    first = start // 64
    state = np.arange(first, (start + count + 63) // 64, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(SKETCH_SEED)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    bits = np.unpackbits(state.astype("<u8").view(np.uint8), bitorder="little")
    return (bits[start - 64 * first :][:count].astype(np.int8) << 1) - 1


def sketch(values: Any, start: int = 0) -> Sketch:
    """Sketch of a flat NumPy array whose first element is number `start` of the tensor.

    Sums are added up in float64, row by row and so in one order everywhere: the same values give the same bits.
    """
    import numpy as np

    total = Sketch(np.zeros(SKETCH_SUMS), 0.0, 0)
    for begin in range(0, values.size, _SKETCH_PIECE):
        (piece,) = _sketches(values[None, begin : begin + _SKETCH_PIECE], start + begin)
        total = merge(total, piece)
    return total


def merge(one: Sketch, other: Sketch) -> Sketch:
    """The sketch of two pieces of a tensor together."""
    return Sketch(one.sums + other.sums, one.energy + other.energy, one.finite + other.finite)


def _sketches(values: Any, start: int = 0) -> list[Sketch]:
    """Sketches of the rows of a (tensors, elements) array, all at once: what a call costs is shared by small tensors."""
    import numpy as np

    if not _SIGNS:
        _SIGNS.append(signs(0, _SKETCH_PIECE).astype(np.float64))
    tensors, size = values.shape
    lead = start % SKETCH_SUMS  # a piece may begin within a row; the elements before it are zero
    rows = np.empty((tensors, -(-(lead + size) // SKETCH_SUMS), SKETCH_SUMS))
    flat = rows.reshape(tensors, -1)
    flat[:, :lead], flat[:, lead + size :] = 0.0, 0.0
    flat[:, lead : lead + size] = values
    origin = start - lead
    known = origin + flat.shape[1] <= _SIGNS[0].size
    sign = _SIGNS[0][origin : origin + flat.shape[1]] if known else signs(origin, flat.shape[1]).astype(np.float64)
    sign = sign.reshape(rows.shape[1:])
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.einsum("tre,re->te", rows, sign)
        finite = [size] * tensors
        if not np.isfinite(sums).all():
            good = np.isfinite(flat)
            finite = [size - flat.shape[1] + int(count) for count in good.sum(axis=1)]
            flat[~good] = 0.0
            sums = np.einsum("tre,re->te", rows, sign)
        energies = [float(one @ one) for one in flat]
    return [Sketch(*found) for found in zip(sums, energies, finite, strict=True)]


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
            for (leaf, _), found in zip(waiting, _sketches(arrays), strict=True):
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


@dataclasses.dataclass
class Recorder:
    """Turns calls into records at the current place of the run; `sites` are globs, empty for all sites.

    With `sketch`, outputs are recorded as sketches and inputs not at all, but for the sites in `WHOLE`. `masks` holds the valid
    tokens (B, T) of components that compute padding, too: what is in it is nobody's result.
    """

    writer: TraceWriter
    sites: tuple[str, ...] = ()
    outputs_only: bool = False
    sketch: bool = False
    masks: dict[str, Any] = dataclasses.field(default_factory=dict)
    stage: str = "stage_1"
    step: int | None = None
    guidance_pass: str | None = None
    seconds: float = 0.0
    _calls: dict[tuple[str, str, int | None, str | None], int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outputs_only = self.outputs_only or self.sketch

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
        leaf = self.writer.store
        if self.sketch and not _is_whole(site):
            mask = self.masks.get(site.partition(".")[0]) if self.masks else None
            leaf = self.writer.sketch if mask is None else partial(self.writer.sketch, mask=mask)
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
                "outputs": self.writer.tree(outputs, leaf),
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


@cache
def _is_whole(site: str) -> bool:
    return any(fnmatchcase(site, pattern) for pattern in WHOLE)


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
    recorder: Recorder,
    component: str,
    root: Any,
    entries: Mapping[str, str] | None = None,
    skip_root: bool = False,
    own: Mapping[str, Callable[[Any], Any]] | None = None,
) -> list[Any]:
    """Record every wanted module under `root`; handles to `remove`. Taps only look: the outputs are the same bits without them.

    `entries` names, by type, the method of a module that is not entered by `forward`. `own` gives, by type, the part of an
    output that the module made; the rest it was handed, and is left out where inputs are.
    """
    handles = []
    for path, module in root.named_modules():
        site = f"{component}.{path}" if path else component
        if (skip_root and not path) or not recorder.wants(site):
            continue
        name = type(module).__name__
        method = (entries or {}).get(name)
        if method is not None:
            setattr(module, method, recorder.wrap(site, name, getattr(module, method)))
        elif recorder.outputs_only and path:  # a root's `forward` may be called for a tile of its input
            handles.append(_Recorded(recorder, site, module, (own or {}).get(name)))
        else:
            handles += _hook(recorder, site, module)
    return handles


class _Recorded:
    """A module whose outputs are recorded, until `remove`. Half of what a hook would cost is PyTorch's way to it."""

    def __init__(self, recorder: Recorder, site: str, module: Any, own: Callable[[Any], Any] | None) -> None:
        forward, type_name = module.forward, type(module).__name__
        self._module, self._before = module, vars(module).get("forward")

        @wraps(forward)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            start = time.perf_counter()
            recorder.emit(site, "module", type_name, {}, output if own is None else own(output))
            recorder.seconds += time.perf_counter() - start
            return output

        module.forward = recorded

    def remove(self) -> None:
        del self._module.forward
        if self._before is not None:
            self._module.forward = self._before


def _hook(recorder: Recorder, site: str, module: Any) -> list[Any]:
    signature = inspect.signature(module.forward)
    type_name = type(module).__name__
    waiting: list[dict[str, Tree]] = []

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with recorder.timed():
            waiting.append(recorder.inputs(bound(signature, args, kwargs)))

    def after(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        with recorder.timed():
            recorder.emit(site, "module", type_name, waiting.pop(), output)

    pre = module.register_forward_pre_hook(before, with_kwargs=True)
    return [pre, module.register_forward_hook(after, with_kwargs=True)]
