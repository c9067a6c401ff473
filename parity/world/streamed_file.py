"""Writes a safetensors file larger than memory, tensor by tensor, and goes on where an interrupted run stopped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

ITEM_BYTES = {"F32": 4, "BF16": 2, "U32": 4}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written. `make` gives its numbers in pieces, in the dtype of the file (bfloat16 as uint16 bits)."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Iterable[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def write_streamed(path: Path, entries: Sequence[Entry], metadata: dict[str, str]) -> Iterator[int]:
    """Write `path`, yielding bytes as they are done. A file with the same header is continued at its last whole tensor.

    The caller writes into a folder or under a name that is renamed when everything is complete. Raises ValueError if a
    key stands twice or a tensor's pieces do not amount to its shape.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for entry in entries:
        if entry.key in header:
            raise ValueError(f"{entry.key} stands twice in the plan of {path.name}")
        start, end = end, end + entry.nbytes
        header[entry.key] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    there = _written(path, head)
    with path.open("r+b" if there else "wb") as file:
        if not there:
            file.write(head)
        for entry in entries:
            start, end = (len(head) + offset for offset in header[entry.key]["data_offsets"])
            if end <= there:
                yield entry.nbytes
                continue
            file.seek(start)
            file.truncate()
            for piece in entry.make():
                yield file.write(piece.tobytes())
            if file.tell() != end:
                raise ValueError(
                    f"{entry.key} has {file.tell() - start} bytes, its shape {entry.shape} asks for {entry.nbytes}"
                )
        file.flush()
        os.fsync(file.fileno())


def _written(path: Path, head: bytes) -> int:
    """How long an earlier run's file of the same plan is; 0 where there is none."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size if file.read(len(head)) == head else 0
    except FileNotFoundError:
        return 0
