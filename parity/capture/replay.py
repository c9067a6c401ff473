"""Run native modules on the reference's own recorded inputs: g(r) of the error ledger."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ltx_native.transformer import args as transformer_args
from ltx_native.transformer import modality as transformer_modality
from ltx_native.transformer import perturbations
from parity.capture.tree import arrays_in, output_arrays
from parity.sites import component_of, to_native_layout
from parity.taps import sites_of
from parity.trace import Record, Trace, Tree

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
    """The native modules by site. ``roots`` maps component names to loaded modules."""

    modules: Mapping[str, nn.Module]

    @staticmethod
    def of(roots: Mapping[str, nn.Module]) -> Replayer:
        modules: dict[str, nn.Module] = {}
        for component, root in roots.items():
            modules.update(sites_of(component, root))
        return Replayer(modules)

    def can(self, record: Record) -> bool:
        return record.kind == "module"

    def run(self, record: Record, trace: Trace) -> dict[str, Array]:
        """Outputs of the native module by leaf path. Raises `ReplayError` with the reason when it cannot be called."""
        site = record.key.site
        module = self.modules.get(site)
        if module is None:
            raise ReplayError(f"the native side has no module {site}")
        named = {name: native_value(tree, site, trace) for name, tree in record.inputs.items()}
        try:
            output = _call(module, named)
            mx.eval(arrays_in(output))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise ReplayError(f"{type(module).__name__} refused the reference's inputs: {error!r}") from error
        return output_arrays(output)


def native_value(tree: Tree, site: str, trace: Trace) -> Any:
    """A recorded value as the native side takes it: axes moved, dtype as recorded, official dataclasses rebuilt."""
    if "tensor" in tree:
        return to_mlx(to_native_layout(site, trace.tensor(tree)), str(tree["dtype"]))
    if "items" in tree:
        return [native_value(child, site, trace) for child in tree["items"]]
    if "fields" in tree:
        values = {name: native_value(child, site, trace) for name, child in tree["fields"].items()}
        return _dataclass(str(tree.get("type", "")), values)
    if tree.get("type") == "dtype":
        return getattr(mx, str(tree["value"]))
    return tree["value"]


def to_mlx(array: Array, dtype: str) -> mx.array:
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    value = mx.array(np.ascontiguousarray(array))
    return value.astype(mx.bfloat16) if dtype == "bfloat16" else value


def _dataclass(name: str, values: dict[str, Any]) -> Any:
    if name == "Perturbation":
        return perturbations.Perturbation(perturbations.PerturbationType(values["type"]), values["blocks"])
    kind = _DATACLASSES.get(name)
    if kind is None:
        return values
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in values.items() if key in known})


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


def valid_tokens(record: Record, trace: Trace, masks: Mapping[str, Array]) -> Array | None:
    """The token mask (B, T) of a site's component, if it has one."""
    return masks.get(f"{component_of(record.key.site)}:{record.key.call}")
