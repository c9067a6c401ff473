"""Run native modules and functions on the reference's own recorded inputs: g(r) of the error ledger."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ltx_native.transformer import args as transformer_args
from ltx_native.transformer import modality as transformer_modality
from ltx_native.transformer import perturbations
from parity.capture.functions import Functions
from parity.capture.tree import arrays_in, output_arrays
from parity.sites import to_native_layout
from parity.trace import Record, Trace, Tree
from reference_bridge.adapters.official.replay import KEPT

Array = npt.NDArray[Any]

# Arguments of the reference's forward that carry nothing the native module needs: caches, flags, values it derives itself.
IGNORED_ARGUMENTS: Mapping[str, str] = {
    "past_key_values": "no cache in text encoding",
    "cache_position": "positions are derived",
    "position_ids": "positions are derived from the sequence",
    "use_cache": "no cache in text encoding",
    "output_attentions": "a flag of the library",
    "output_hidden_states": "hidden states are always returned",
    "return_dict": "a flag of the library",
    "generator": "no randomness in inference",
}

_DATACLASSES: dict[str, Callable[..., Any]] = {
    "TransformerArgs": transformer_args.TransformerArgs,
    "Modality": transformer_modality.Modality,
    "PerturbationConfig": perturbations.PerturbationConfig,
    "BatchedPerturbationConfig": perturbations.BatchedPerturbationConfig,
}


class ReplayError(Exception):
    """A record that the native side cannot run; the row becomes unmeasured, which fails."""


@dataclass(frozen=True)
class Replayer:
    """Native modules by stage and site (stages may have other LoRAs), on the records of one trace.

    With ``dtype`` (bf16) floating inputs are cast on the way in, but for noise levels and coordinates, by the same rule as
    the reference's own replay. Calls of a module with equal recorded inputs (AdaLN in every guidance pass of a step) are
    computed once.
    """

    modules: Mapping[tuple[str, str], nn.Module]
    trace: Trace
    dtype: mx.Dtype | None = None
    functions: Functions | None = None
    _done: dict[str, dict[str, Array]] = field(default_factory=dict)

    def __call__(self, record: Record) -> dict[str, Array] | str | None:
        """Outputs by leaf path, None where the site has no replay (a value of the run), or why it could not be run."""
        try:
            if record.kind == "module":
                return self.run(record)
            if record.kind == "function" and self.functions is not None and self.functions.has(record.key.site):
                return output_arrays(self.functions.run(record, self.trace))
            return None
        except ReplayError as error:
            return str(error)

    def run(self, record: Record) -> dict[str, Array]:
        """Outputs of the native module by leaf path. Raises `ReplayError` with the reason when it cannot be called."""
        site = record.key.site
        module = self.modules.get((record.key.stage, site))
        if module is None:
            raise ReplayError(f"the native side has no module {site}")
        content = f"{id(module)} {json.dumps(record.inputs, sort_keys=True)}"
        if content in self._done:
            return self._done[content]
        named = {name: self.value(tree, site, (record.type, name)) for name, tree in record.inputs.items()}
        try:
            output = _call(module, named)
            mx.eval(arrays_in(output))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise ReplayError(f"{type(module).__name__} refused the reference's inputs: {error!r}") from error
        self._done[content] = output_arrays(output)
        return self._done[content]

    def value(self, tree: Tree, site: str, owner: tuple[str, str]) -> Any:
        """A recorded value as the native side takes it: axes moved, official dataclasses rebuilt."""
        if "tensor" in tree:
            array = to_mlx(to_native_layout(site, self.trace.tensor(tree)), str(tree["dtype"]))
            return array if self.dtype is None or owner in KEPT else narrow(array, self.dtype)
        if "items" in tree:
            return [self.value(child, site, owner) for child in tree["items"]]
        if "fields" in tree:
            name = str(tree.get("type", "dict"))
            return _dataclass(name, {key: self.value(child, site, (name, key)) for key, child in tree["fields"].items()})
        if tree.get("type") == "dtype":
            return self.dtype or getattr(mx, str(tree["value"]))
        return tree["value"]


def to_mlx(array: Array, dtype: str) -> mx.array:
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    value = mx.array(np.ascontiguousarray(array))
    return value.astype(mx.bfloat16) if dtype == "bfloat16" else value


def narrow(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """Cast a floating tensor; a mask's lowest number becomes the narrower type's own instead of infinity."""
    if not mx.issubdtype(array.dtype, mx.floating):
        return array
    limit = mx.finfo(dtype).max
    return mx.clip(array, -limit, limit).astype(dtype)


def _dataclass(name: str, values: dict[str, Any]) -> Any:
    if name == "Perturbation":
        return perturbations.Perturbation(perturbations.PerturbationType(values["type"]), values["blocks"])
    kind = _DATACLASSES.get(name)
    if kind is None:
        return values
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    built = kind(**{key: value for key, value in values.items() if key in known})
    if isinstance(built, transformer_modality.Modality) and built.sigma.ndim == 0:
        return replace(built, sigma=built.sigma[None])
    return built


def _call(module: nn.Module, named: Mapping[str, Any]) -> Any:
    signature = inspect.signature(type(module).__call__)
    accepted = {name: value for name, value in named.items() if name in signature.parameters}
    rest = {name: value for name, value in named.items() if name not in accepted}
    meaningful = [n for n, v in rest.items() if v is not None and v is not False and n not in IGNORED_ARGUMENTS]
    if not accepted and len(meaningful) == 1:
        # A leaf layer: the libraries name its only argument differently.
        return module(rest[meaningful[0]])
    if meaningful:
        raise ReplayError(f"{type(module).__name__} has no argument {', '.join(meaningful)}")
    return module(**accepted)
