"""Between native values and the trees of a trace: tensors, dataclasses, sequences and plain values."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Store = Callable[[Array, str], dict[str, Any]]


def arrays_in(value: Any) -> list[mx.array]:
    """Every MLX array inside a value, for one evaluation of them all."""
    if isinstance(value, mx.array):
        return [value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [a for field in dataclasses.fields(value) for a in arrays_in(getattr(value, field.name))]
    if isinstance(value, Mapping):
        return [a for child in value.values() for a in arrays_in(child)]
    if isinstance(value, (list, tuple)):
        return [a for child in value for a in arrays_in(child)]
    return []


def to_numpy(array: mx.array) -> tuple[Array, str]:
    """The array in NumPy, without a copy, and its original dtype's name; bf16 is widened because NumPy cannot hold it."""
    name = str(array.dtype).removeprefix("mlx.core.")
    if array.dtype == mx.bfloat16:
        array = array.astype(mx.float32)
    return np.asarray(array), name


def to_tree(value: Any, store: Store, known: dict[int, dict[str, Any]] | None = None) -> dict[str, Any]:
    """A trace tree of any value a module takes or gives.

    ``known`` holds the leaves of MLX arrays by identity, for values that stay alive meanwhile: what one module gives, others
    take, and copying and hashing it once is enough.
    """
    if isinstance(value, mx.array):
        if known is None:
            return store(*to_numpy(value))
        if id(value) not in known:
            known[id(value)] = store(*to_numpy(value))
        return known[id(value)]
    if isinstance(value, np.ndarray):
        return store(value, str(value.dtype))
    if isinstance(value, enum.Enum):
        return {"value": value.value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_tree(getattr(value, f.name), store, known) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, "fields": fields}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        named = {name: to_tree(getattr(value, name), store, known) for name in value._fields}
        return {"type": type(value).__name__, "fields": named}
    if isinstance(value, Mapping):
        return {"fields": {str(name): to_tree(child, store, known) for name, child in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"items": [to_tree(child, store, known) for child in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    return {"value": repr(value)}


def output_arrays(value: Any, prefix: str = "") -> dict[str, Array]:
    """Tensors of a native result by leaf path, named as `parity.trace.leaves` names those of a trace."""
    if isinstance(value, mx.array):
        return {prefix: to_numpy(value)[0]}
    if isinstance(value, np.ndarray):
        return {prefix: value}
    children: dict[str, Any] = {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        children = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        children = {name: getattr(value, name) for name in value._fields}
    elif isinstance(value, Mapping):
        children = {str(name): child for name, child in value.items()}
    elif isinstance(value, (list, tuple)):
        children = {str(i): child for i, child in enumerate(value)}
    found: dict[str, Array] = {}
    for name, child in children.items():
        found.update(output_arrays(child, f"{prefix}.{name}" if prefix else name))
    return found
