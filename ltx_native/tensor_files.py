"""Reading and writing safetensors with MLX arrays, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

_DTYPE_NAMES = {mx.float32: "F32", mx.bfloat16: "BF16", mx.float16: "F16", mx.uint32: "U32"}


@dataclass
class Pending:
    """A tensor still to be written: its lazy array and the name it gets."""

    key: str
    array: mx.array


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Lazy arrays: the bytes of one are read when it is evaluated. Check the header first (files.read_header)."""
    return cast(dict[str, mx.array], mx.load(str(path)))


def write_safetensors(path: Path, tensors: Iterable[Pending], metadata: dict[str, str] | None = None) -> None:
    """Write tensors one by one, each evaluated, copied out and let go before the next."""
    pending = list(tensors)
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "mlx"}}
    offset = 0
    for tensor in pending:
        header[tensor.key] = {
            "dtype": _DTYPE_NAMES[tensor.array.dtype],
            "shape": list(tensor.array.shape),
            "data_offsets": [offset, offset + tensor.array.nbytes],
        }
        offset += tensor.array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pending.reverse()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while pending:
            file.write(_raw(pending.pop().array))


def _raw(array: mx.array) -> bytes:
    array = mx.contiguous(array)
    if array.dtype == mx.bfloat16:  # NumPy has no bfloat16
        array = array.view(mx.uint16)
    return np.array(array).tobytes()
