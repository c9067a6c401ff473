"""Records what a reference computes, from inside the reference's own process.

`probe`, `probe_trace` and `probe_sketch` need the standard library only and nothing else of this project: they run under the
reference's interpreter. Tensor libraries are imported inside functions.

A record's place in the run is (stage, step, pass, call). A stage ends where the upsampler begins (`stage_1`, `stage_2`);
text encoding belongs to the first stage, decoding to the last. `step` and `pass` are set while a denoising step and one of
its guidance passes run, and `call` counts the calls of a site at one such place.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache, partial, wraps
from typing import Any

from reference_bridge.probe_trace import TraceWriter, Tree

WHOLE = ("tokenizer", "schedule", "noise.*")  # small, and the other side starts from them


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
