"""A native module once more on the reference's inputs, looked into: where inside it leaves the reference, on which backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.models import COMPONENTS, Models
from parity.capture.functions import Functions
from parity.capture.replay import Replayer, ReplayError
from parity.capture.tree import arrays_in, output_arrays
from parity.compare import spread
from parity.metrics import MetricError, measure
from parity.sites import component_of, skip_rule, to_native_layout
from parity.taps import call_name, sites_of, tapped
from parity.trace import Record, Trace, Tree, leaves

Array = np.ndarray[Any, Any]
# What two right computations of one value may differ by inside a module; a mistake is far above.
ALIKE = 3e-5
# Modules whose inputs differ by construction: the native side computes its tables once, on its own argument.
_OWN_WAY = ("rotary_emb",)


@dataclass(frozen=True)
class Call:
    """One call inside a module: its tensors and plain values by dotted path, native layout."""

    site: str
    type: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Departure:
    """The first place inside a module where native hands a child something else than the reference does.

    ``kind``: tensor, value (plain, or absent on one side), skipped (a child that native never calls), extra (only native
    calls it).
    """

    kind: str
    site: str
    path: str  # of the child, relative to the module
    argument: str = ""
    native: Any = None
    reference: Any = None
    type: str = ""


@dataclass
class Inside:
    """A module's replay with taps on everything below it, and the reference's records of the same call."""

    site: str
    trace: Trace
    record: Record
    output: dict[str, Array] = field(default_factory=dict)
    native: list[Call] = field(default_factory=list)
    problem: str = ""

    def reference(self) -> list[Record]:
        """The records of the module's children in this call, in order of completion."""
        key, index = self.record.key, self.record.index
        same = (key.stage, key.step, key.guidance_pass)
        records = [r for r in self.trace.records if r.index < index and (r.key.stage, r.key.step, r.key.guidance_pass) == same]
        first = max((r.index for r in records if r.key.site == self.site), default=-1)
        return [r for r in records if r.index > first and r.key.site.startswith(f"{self.site}.") and r.kind == "module"]

    def known(self) -> dict[str, Array]:
        """The reference's results of the children by relative path (the first of several calls)."""
        found: dict[str, Array] = {}
        for record in self.reference():
            for path, leaf in leaves(record.outputs):
                name = record.key.site.removeprefix(f"{self.site}.") + (f".{path}" if path else "")
                if "tensor" in leaf:
                    found.setdefault(name, to_native_layout(self.site, self.trace.tensor(leaf)))
        return found

    def departure(self) -> Departure | None:
        """Where native first hands on something else; the outermost child that is handed it."""
        theirs = self.reference()
        if not theirs:  # a case that records roots only: nothing inside can be compared
            return None
        expected: dict[tuple[str, int], Record] = {}
        for record in theirs:
            if skip_rule(record) is None:
                expected[record.key.site, sum(k[0] == record.key.site for k in expected)] = record
        seen: dict[str, int] = {}
        first: Departure | None = None
        for call in self.native:
            number = seen[call.site] = seen.get(call.site, -1) + 1
            partner = expected.get((call.site, number))
            if call.site.endswith(_OWN_WAY):
                continue
            found = self._extra(call, expected) if partner is None else self._differs(call, partner)
            if found is None:
                continue
            if first is None or first.site.startswith(f"{found.site}."):
                first = found  # or: the child around the one found before
        if first is None and not self.problem:
            missing = [r for (site, n), r in expected.items() if n >= seen.get(site, -1) + 1 and not site.endswith(_OWN_WAY)]
            outer = [r for r in missing if not any(r.key.site.startswith(f"{o.key.site}.") for o in missing)]
            first = self._skipped(outer[0]) if outer else None
        return first

    def _relative(self, site: str) -> str:
        return site.removeprefix(f"{self.site}.")

    def _skipped(self, record: Record) -> Departure:
        return Departure("skipped", record.key.site, self._relative(record.key.site), type=record.type)

    def _extra(self, call: Call, expected: Mapping[tuple[str, int], Record]) -> Departure | None:
        known = any(site == call.site for site, _ in expected)
        inside = any(site.startswith(f"{call.site}.") for site, _ in expected)
        return None if known or inside else Departure("extra", call.site, self._relative(call.site), type=call.type)

    def _differs(self, call: Call, partner: Record) -> Departure | None:
        path = self._relative(call.site)
        ours = dict(call.inputs)
        theirs = {name: self._leaf(leaf) for name, leaf in leaves({"fields": partner.inputs})}
        if len(theirs) == len(ours) == 1:  # a leaf layer, whose only argument has another name in each library
            theirs = dict(zip(ours, theirs.values(), strict=True))
        for name, expected in theirs.items():
            given = ours.get(name)
            here = (call.site, path, name, given, expected, partner.type)
            if isinstance(expected, np.ndarray) and isinstance(given, np.ndarray):
                if not alike(given, expected):
                    given = spread(given, expected.shape)
                    return Departure("tensor", *here[:3], given, expected, partner.type)
            elif isinstance(expected, np.ndarray) != isinstance(given, np.ndarray):
                nothing = given is None and (name not in ours or (expected is not None and _idle(expected)))
                if not nothing and not (expected is None and _idle(given)):
                    return Departure("value", *here)
            elif name in ours and isinstance(expected, bool) and given != expected:
                return Departure("value", *here)
        return None

    def _leaf(self, leaf: Tree) -> Any:
        return to_native_layout(self.site, self.trace.tensor(leaf)) if "tensor" in leaf else leaf.get("value")


def _idle(array: Any) -> bool:
    """An additive mask of zeros, or a multiplicative one of ones, does nothing: it may be left out."""
    return isinstance(array, np.ndarray) and (not array.any() or bool((array == 1).all()))


def alike(given: Array, expected: Array) -> bool:
    given = given.reshape(expected.shape) if given.size == expected.size == 1 else spread(given, expected.shape)
    try:
        found = measure(np.asarray(given), np.asarray(expected))
    except MetricError:
        return False
    return found.rel_l2 <= (0.0 if expected.dtype.kind in "biu" else ALIKE)


def inside(module: nn.Module, record: Record, trace: Trace) -> Inside:
    """Run ``module`` on the record's inputs with taps below it; ``problem`` says why it could not be run."""
    found = Inside(record.key.site, trace, record)
    pending: list[tuple[str, str, dict[str, Any], Any]] = []

    def on_call(site: str, child: nn.Module, inputs: Mapping[str, Any], output: Any) -> None:
        if site != found.site:
            pending.append((site, call_name(child), {k: v for k, v in inputs.items() if k != "self"}, output))

    with tapped({found.site: module}, on_call):
        try:
            found.output = Replayer({(record.key.stage, found.site): module}, trace).run(record)
        except ReplayError as error:
            found.problem = str(error)
    try:
        mx.eval([a for _, _, inputs, output in pending for a in arrays_in((inputs, output))])
    except RuntimeError as error:  # what an operation refuses only when it is computed
        found.problem = found.problem or str(error)
        return found
    found.native = [Call(site, kind, flat(inputs), output_arrays(output)) for site, kind, inputs, output in pending]
    return found


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Tensors (NumPy) and plain values of anything a module is handed, by dotted path as `parity.trace.leaves` names them."""
    import dataclasses

    if isinstance(value, (mx.array, np.ndarray)):
        return output_arrays(value, prefix)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        children = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        children = {str(k): v for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        children = {str(i): v for i, v in enumerate(value)}
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, child in children.items():
        found.update(flat(child, f"{prefix}.{name}" if prefix else name))
    return found


@contextmanager
def plain_backend() -> Iterator[None]:
    """The CPU's stream, no compiled programs, and every fused operation replaced by its formula."""
    formulas: dict[str, Callable[..., Any]] = {
        "rms_norm": _rms_norm,
        "layer_norm": _layer_norm,
        "scaled_dot_product_attention": _attention,
    }
    kept = {name: getattr(mx.fast, name) for name in formulas}
    device = mx.default_device()
    try:
        for name, formula in formulas.items():
            setattr(mx.fast, name, formula)
        mx.disable_compile()
        mx.set_default_device(mx.cpu)
        yield
    finally:
        mx.set_default_device(device)
        mx.enable_compile()
        for name, original in kept.items():
            setattr(mx.fast, name, original)


def _rms_norm(x: mx.array, weight: mx.array | None, eps: float, **_: Any) -> mx.array:
    wide = x.astype(mx.float32)
    normed = wide * mx.rsqrt(mx.mean(mx.square(wide), axis=-1, keepdims=True) + eps)
    return (normed if weight is None else normed * weight.astype(mx.float32)).astype(x.dtype)


def _layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float, **_: Any) -> mx.array:
    wide = x.astype(mx.float32)
    normed = _rms_norm(wide - mx.mean(wide, axis=-1, keepdims=True), weight, eps)
    return (normed if bias is None else normed + bias.astype(mx.float32)).astype(x.dtype)


def _attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Any = None, **_: Any) -> mx.array:
    repeats = q.shape[1] // k.shape[1]
    k, v = (mx.repeat(a, repeats, axis=1) if repeats > 1 else a for a in (k, v))
    scores = (q.astype(mx.float32) * scale) @ k.astype(mx.float32).swapaxes(-1, -2)
    if isinstance(mask, str):
        mask = mx.arange(k.shape[2]) <= mx.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None]
    if mask is not None:
        scores = mx.where(mask, scores, mx.finfo(mx.float32).min) if mask.dtype == mx.bool_ else scores + mask
    return (mx.softmax(scores, axis=-1) @ v.astype(mx.float32)).astype(q.dtype)


def backend_error(module: nn.Module, record: Record, trace: Trace, output: str, reference: Array) -> float | None:
    """rel_l2 of the same module on the plain backend; None where it cannot be run there."""
    with plain_backend():
        try:
            found = Replayer({(record.key.stage, record.key.site): module}, trace).run(record)
            return measure(spread(found[output], reference.shape), reference).rel_l2
        except (ReplayError, KeyError, MetricError, RuntimeError):
            return None


def loaded_parameter(module: nn.Module, name: str) -> Array | None:
    """A parameter of a loaded module in PyTorch's axes; None where it has none of that name."""
    from parity.checks.configs import official_axes

    loaded = dict(tree_flatten(module.parameters()))
    return official_axes(name, loaded[name]) if name in loaded else None


def loaded_models(checkpoint: NativeCheckpoint) -> Models:
    """Native components in float32 that stay loaded once they were asked for."""
    return Models(checkpoint, mx.float32, keep=True)


class Loading(dict[tuple[str, str], nn.Module]):
    """Modules by (stage, site), one tree for all stages, a component loaded when its first site is asked for."""

    def __init__(self, load: Callable[[str], nn.Module]) -> None:
        super().__init__()
        self._load = load

    def get(self, key: tuple[str, str], default: Any = None) -> Any:
        site = key[1]
        component = component_of(site)
        if ("", component) not in self and component in COMPONENTS:
            self.update({("", name): module for name, module in sites_of(component, self._load(component)).items()})
        return super().get(("", site), default)


def lazy_replayer(bench: Any, trace: Trace, functions: Functions) -> Replayer:
    """A replayer over the components of a bench."""
    return Replayer(Loading(bench.module), trace, functions=functions)
