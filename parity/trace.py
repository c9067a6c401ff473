"""Read and write traces: the tensors of one run with its manifest.

A trace is a folder: ``manifest.json`` (provenance), ``records.jsonl`` (one line per call, in order of completion) and
content-addressed ``tensors-*.safetensors``. The reference's probe writes the same format, see docs/trace-format.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
Tree = Mapping[str, Any]
SCHEMA = 1
XXH3 = "xxh3_128:"  # before a file's hash in a manifest; without it the hash is a sha256, which is all that the probe has
_SHARD_BYTES = 1 << 28


class TraceError(Exception):
    """A trace that cannot be trusted: missing, partial, truncated or altered."""


@dataclass(frozen=True)
class Key:
    """Where in a run a record belongs; the same on both sides."""

    site: str
    stage: str
    step: int | None
    guidance_pass: str | None
    call: int

    def __str__(self) -> str:
        where = [self.stage]
        if self.step is not None:
            where.append(f"step {self.step}")
        if self.guidance_pass:
            where.append(self.guidance_pass)
        if self.call:
            where.append(f"call {self.call}")
        return f"{self.site} [{', '.join(where)}]"


@dataclass(frozen=True)
class Record:
    """One call of one site. ``inputs`` and ``outputs`` are trees of tensor references and JSON values."""

    index: int
    key: Key
    kind: str
    type: str
    inputs: Mapping[str, Tree]
    outputs: Tree

    @staticmethod
    def from_json(line: Mapping[str, Any]) -> Record:
        key = Key(
            str(line["site"]),
            str(line["stage"]),
            None if line["step"] is None else int(line["step"]),
            None if line["pass"] is None else str(line["pass"]),
            int(line["call"]),
        )
        return Record(int(line["index"]), key, str(line["kind"]), str(line["type"]), line["inputs"], line["outputs"])

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "site": self.key.site,
            "kind": self.kind,
            "type": self.type,
            "stage": self.key.stage,
            "step": self.key.step,
            "pass": self.key.guidance_pass,
            "call": self.key.call,
            "inputs": self.inputs,
            "outputs": self.outputs,
        }


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Tree]]:
    """Every tensor or value of a tree with its dotted path (``""`` for a bare leaf)."""
    if "fields" in tree:
        for name, child in tree["fields"].items():
            yield from leaves(child, f"{prefix}.{name}" if prefix else name)
    elif "items" in tree:
        for position, child in enumerate(tree["items"]):
            yield from leaves(child, f"{prefix}.{position}" if prefix else str(position))
    else:
        yield prefix, tree


class Trace:
    """A complete trace on disk. Opening verifies the manifest, the record count and every file's hash.

    Raises `TraceError` when anything is missing or differs from the manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = self._read_manifest()
        self._verify_files()
        self.records = self._read_records()
        self._index = self._index_tensors()

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise TraceError(f"{path}: no readable manifest ({error})") from error
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise TraceError(
                f"{path}: schema {manifest.get('schema') if isinstance(manifest, dict) else '?'}, expected {SCHEMA}"
            )
        if manifest.get("complete") is not True:
            raise TraceError(f"{path}: the run that wrote this trace did not finish")
        return manifest

    def _verify_files(self) -> None:
        files = self.manifest.get("files")
        if not isinstance(files, dict) or "records.jsonl" not in files:
            raise TraceError(f"{self.folder}: the manifest lists no files")
        for name, expected in files.items():
            path = self.folder / name
            if not path.is_file():
                raise TraceError(f"{path}: missing, the manifest lists it")
            found = file_xxh3(path) if str(expected).startswith(XXH3) else file_sha256(path)
            if found != expected:
                raise TraceError(f"{path}: content differs from its hash in the manifest (truncated or edited)")

    def _read_records(self) -> list[Record]:
        path = self.folder / "records.jsonl"
        try:
            records = [Record.from_json(json.loads(line)) for line in path.read_text().splitlines() if line]
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(f"{path}: unreadable record ({error!r})") from error
        if len(records) != self.manifest.get("records"):
            raise TraceError(f"{path}: {len(records)} records, the manifest says {self.manifest.get('records')}")
        return records

    def _index_tensors(self) -> dict[str, Any]:
        index: dict[str, Any] = {}
        for name in self.manifest["files"]:
            if not name.endswith(".safetensors"):
                continue
            try:
                handle = safe_open(self.folder / name, framework="np")
            except (OSError, SafetensorError) as error:
                raise TraceError(f"{self.folder / name}: {error}") from error
            index.update({str(key): handle for key in handle.keys()})  # noqa: SIM118
        return index

    def tensor(self, leaf: Tree) -> Array:
        """The tensor a leaf refers to, as stored (bf16 tensors are stored as float32)."""
        key = leaf["tensor"]
        handle = self._index.get(key)
        if handle is None:
            raise TraceError(f"{self.folder}: tensor {key} is referred to but not stored")
        return np.asarray(handle.get_tensor(key))

    def by_key(self) -> dict[Key, Record]:
        found: dict[Key, Record] = {}
        for record in self.records:
            if record.key in found:
                raise TraceError(f"{self.folder}: {record.key} is recorded twice")
            found[record.key] = record
        return found

    def site(self, name: str) -> list[Record]:
        return [record for record in self.records if record.key.site == name]

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()


@dataclass
class TraceWriter:
    """Write a trace; it appears under its final name only when `close` has been called.

    Usable as a context manager: an exception inside the block removes the partial folder.
    """

    folder: Path
    manifest: dict[str, Any]
    _records: list[str] = field(default_factory=list)
    _pending: dict[str, Array] = field(default_factory=dict)
    _pending_bytes: int = 0
    _stored: set[str] = field(default_factory=set)
    _files: dict[str, str] = field(default_factory=dict)
    _calls: dict[tuple[Any, ...], int] = field(default_factory=dict)

    @property
    def _partial(self) -> Path:
        return self.folder.with_name(self.folder.name + ".partial")

    def __enter__(self) -> TraceWriter:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.close()
        else:
            shutil.rmtree(self._partial, ignore_errors=True)

    def store(self, array: Array, dtype: str | None = None) -> dict[str, Any]:
        """Store a tensor once by content and return its leaf; ``dtype`` names the original type when it was cast."""
        return {"tensor": self.keep(array), "shape": list(array.shape), "dtype": dtype or str(array.dtype)}

    def keep(self, array: Array) -> str:
        """Store an array once by content and return its key."""
        contiguous = np.ascontiguousarray(array)
        digest = xxhash.xxh3_128(f"{contiguous.dtype.str}{contiguous.shape}".encode())
        digest.update(contiguous.data if contiguous.size else b"")
        key = digest.hexdigest()
        if key not in self._stored:
            self._stored.add(key)
            self._pending[key] = contiguous
            self._pending_bytes += contiguous.nbytes
            if self._pending_bytes >= _SHARD_BYTES:
                self._flush()
        return key

    def append(
        self,
        site: str,
        outputs: Tree,
        *,
        inputs: Mapping[str, Tree] | None = None,
        kind: str = "module",
        type_name: str = "",
        stage: str,
        step: int | None = None,
        guidance_pass: str | None = None,
    ) -> None:
        context = (site, stage, step, guidance_pass)
        call = self._calls.get(context, 0)
        self._calls[context] = call + 1
        key = Key(site, stage, step, guidance_pass, call)
        record = Record(len(self._records), key, kind, type_name, inputs or {}, outputs)
        self._records.append(json.dumps(record.to_json()))

    def _flush(self) -> None:
        if not self._pending:
            return
        name = f"tensors-{len(self._files):05d}.safetensors"
        save_file(self._pending, self._partial / name)
        self._files[name] = file_xxh3(self._partial / name)
        self._pending, self._pending_bytes = {}, 0

    def close(self) -> None:
        self._flush()
        records = self._partial / "records.jsonl"
        records.write_text("\n".join(self._records) + "\n")
        self._files["records.jsonl"] = file_sha256(records)
        manifest = {
            "schema": SCHEMA,
            **self.manifest,
            "complete": True,
            "records": len(self._records),
            "files": self._files,
        }
        (self._partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(self.folder, ignore_errors=True)
        self._partial.rename(self.folder)


def file_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_xxh3(path: Path) -> str:
    """Guards against accidents, not against forgers, at the speed of reading: full traces have gigabytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return XXH3 + str(digest.hexdigest())
