"""Looking into a module: the first child that is handed something else, is never called, or is called in vain; the backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from parity.capture.hypothesis_replay import Departure, backend_error, inside, plain_backend
from parity.capture.tree import to_tree
from parity.taps import call_name, tapped
from parity.trace import Record, Trace, TraceWriter


class Scale(nn.Module):
    def __call__(self, x: mx.array, doubled: bool = False) -> mx.array:
        return x * (2.0 if doubled else 1.0)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = Scale()
        self.proj = nn.Linear(4, 4)

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(self.scale(x, doubled=True))


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = Inner(), Inner(), nn.RMSNorm(4)

    def __call__(self, x: mx.array, shift: float = 0.5) -> mx.array:
        return self.norm(self.second(self.first(x) + shift))


class Shifted(Outer):
    def __call__(self, x: mx.array, shift: float = 0.5) -> mx.array:
        return self.norm(self.second(self.first(x) + 2 * shift))


class Unnormed(Outer):
    def __call__(self, x: mx.array, shift: float = 0.5) -> mx.array:
        return self.second(self.first(x) + shift)


class Single(Inner):
    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(self.scale(x, doubled=False))


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Outer, Trace]:
    """A module and the trace of one call of it, as the reference's side writes it."""
    mx.random.seed(3)
    module = Outer()
    with TraceWriter(tmp_path / "trace", {"side": "reference"}) as writer:

        def on_call(site: str, child: nn.Module, inputs: Mapping[str, Any], output: Any) -> None:
            trees = {name: to_tree(value, writer.store) for name, value in inputs.items() if name != "self"}
            writer.append(site, to_tree(output, writer.store), inputs=trees, type_name=call_name(child), stage="stage_1")

        with tapped({"toy": module}, on_call):
            module(mx.random.normal((1, 3, 4)))
    return module, Trace(tmp_path / "trace")


def _departure(module: Outer, trace: Trace, change: Callable[[Outer], Any]) -> tuple[Departure | None, Record]:
    record = trace.site("toy")[0]
    change(module)
    looked = inside(module, record, trace)
    assert not looked.problem
    return looked.departure(), record


def test_a_right_module_has_no_departure(recorded: tuple[Outer, Trace]) -> None:
    module, trace = recorded
    found, _ = _departure(module, trace, lambda m: None)
    assert found is None


def test_the_outermost_child_that_is_handed_something_else_is_named(recorded: tuple[Outer, Trace]) -> None:
    module, trace = recorded
    found, _ = _departure(module, trace, lambda m: setattr(m, "__class__", Shifted))
    assert found is not None
    assert (found.kind, found.path, found.argument) == ("tensor", "second", "x")
    assert np.allclose(found.native - found.reference, 0.5, atol=1e-6)


def test_a_child_that_is_never_called_is_named(recorded: tuple[Outer, Trace]) -> None:
    module, trace = recorded
    found, _ = _departure(module, trace, lambda m: setattr(m, "__class__", Unnormed))
    assert found is not None
    assert (found.kind, found.path, found.type) == ("skipped", "norm", "RMSNorm")


def test_a_flag_that_differs_is_named(recorded: tuple[Outer, Trace]) -> None:
    module, trace = recorded
    found, _ = _departure(module, trace, lambda m: setattr(m.first, "__class__", Single))
    assert found is not None
    assert (found.kind, found.path, found.argument) == ("value", "first.scale", "doubled")
    assert (found.native, found.reference) == (False, True)


def test_taps_are_gone_and_the_module_computes_as_before(recorded: tuple[Outer, Trace]) -> None:
    module, trace = recorded
    before = np.array(module(mx.ones((1, 3, 4))))
    inside(module, trace.site("toy")[0], trace)
    assert type(module) is Outer
    assert np.array_equal(np.array(module(mx.ones((1, 3, 4)))), before)


def test_the_plain_backend_computes_the_same_and_is_undone(recorded: tuple[Outer, Trace]) -> None:
    module, _ = recorded
    fused, device = mx.fast.rms_norm, mx.default_device()
    with plain_backend():
        assert mx.fast.rms_norm is not fused
        plain = np.array(module(mx.ones((1, 3, 4))))
    assert mx.fast.rms_norm is fused
    assert mx.default_device() == device
    assert np.allclose(plain, np.array(module(mx.ones((1, 3, 4)))), atol=1e-6)


def test_a_wrong_fused_operation_is_a_fault_of_the_backend(
    recorded: tuple[Outer, Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, trace = recorded
    record = trace.site("toy")[0]
    reference = trace.tensor(record.outputs)
    original = mx.fast.rms_norm
    monkeypatch.setattr(mx.fast, "rms_norm", lambda *args, **kwargs: 1.1 * original(*args, **kwargs))
    looked = inside(module, record, trace)
    assert not np.allclose(looked.output[""], reference, rtol=1e-3)
    error = backend_error(module, record, trace, "", reference)
    assert error is not None
    assert error < 1e-5
