"""What a check is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.errors import UserError
from ltx_native.models import COMPONENTS, Models
from parity.bounds import Bounds, load_bounds
from parity.capture.reference import Checkpoint, ReferenceCache
from parity.checks.facts import Facts, official_facts
from parity.hypotheses.base import Candidate
from parity.matrix import Entry, matrix
from parity.metrics import MetricError, measure
from parity.trace import Record, Trace

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Clue:
    """What a problem was seen on, for `parity explain`: both tensors (native layout), or two values, and what they came from.

    ``type`` and ``name`` say which formulas apply; ``given`` holds their ingredients. A ``record`` of the reference's ``trace``
    stands for all that the reference knows of the call; ``replayed`` says native ran on its inputs. ``candidates`` are
    hypotheses that only the check can execute.
    """

    native: Array | None = None
    reference: Array | None = None
    type: str = ""
    name: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[Any, Any] | None = None
    record: Record | None = None
    trace: Trace | None = None
    replayed: bool = False
    mask: Array | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something that is not as the reference has it: where, by how much (``error`` over ``bound``), in a sentence."""

    check: str
    component: str
    site: str
    error: float
    bound: float
    sentence: str
    clue: Clue = field(default=Clue(), compare=False, repr=False)

    @property
    def margin(self) -> float:
        """How many times over the bound; infinite where the bound is zero or nothing could be measured."""
        return self.error / self.bound if self.bound > 0 else float("inf")


Check = Callable[["Exam"], Iterator[Problem]]


@dataclass(frozen=True)
class Evidence:
    """What does not change from exam to exam: the reference's captures of the matrix and the official facts."""

    checkpoint: Checkpoint
    traces: Mapping[str, Trace]
    entries: tuple[Entry, ...]
    facts: Facts
    bounds: Bounds

    @staticmethod
    def of(checkpoint: Checkpoint, cache: ReferenceCache) -> Evidence:
        """From the cache, or captured now (about a minute a case). Raises `ReferenceUnavailable`."""
        entries = matrix()
        traces = {entry.case.name: cache.capture(entry.case, checkpoint, entry.sites)[0] for entry in entries}
        return Evidence(checkpoint, traces, entries, official_facts(checkpoint), load_bounds("float32"))


@dataclass
class Exam:
    """One look at the native port as it is now: everything native is built anew, under whatever fault is on."""

    evidence: Evidence
    coverage: dict[str, int] = field(default_factory=dict)

    @cached_property
    def native(self) -> NativeCheckpoint:
        files = self.evidence.checkpoint
        return NativeCheckpoint.open(str(files.model), str(files.gemma), str(files.upsampler) if files.upsampler else None)

    @cached_property
    def models(self) -> Models:
        return Models(self.native, mx.float32, keep=True)

    @property
    def checkpoint(self) -> Checkpoint:
        return self.evidence.checkpoint

    def module(self, component: str) -> nn.Module:
        with self.models.use(component) as module:
            assert isinstance(module, nn.Module)
            return module

    @property
    def facts(self) -> Facts:
        return self.evidence.facts

    def count(self, check: str, compared: int = 1) -> None:
        self.coverage[check] = self.coverage.get(check, 0) + compared

    def compare(
        self,
        check: str,
        component: str,
        site: str,
        native: Any,
        reference: Array,
        bound: float,
        what: str = "",
        clue: Clue = Clue(),
    ) -> Iterator[Problem]:
        """A problem when two tensors of one layout differ by more than ``bound`` (rel_l2; 0: bit for bit)."""
        self.count(check)
        array = np.array(native.astype(mx.float32)) if isinstance(native, mx.array) else np.asarray(native)
        clue = replace(clue, native=array, reference=np.asarray(reference))
        try:
            measured = measure(array, np.asarray(reference))
        except MetricError as error:
            yield Problem(check, component, site, float("inf"), bound, f"{site}: {what or 'compared'}: {error}", clue)
            return
        if not measured.rel_l2 <= bound:
            text = f"{site}: {what or 'differs from the official result'} (rel_l2 {measured.rel_l2:.3g}, bound {bound:.3g})"
            yield Problem(check, component, site, measured.rel_l2, bound, text, clue)

    def require(
        self, check: str, component: str, site: str, holds: bool, sentence: str, clue: Clue = Clue()
    ) -> Iterator[Problem]:
        self.count(check)
        if not holds:
            yield Problem(check, component, site, float("inf"), 0.0, f"{site}: {sentence}", clue)


def run_check(name: str, check: Check, exam: Exam, component: str) -> Iterator[Problem]:
    """A check's problems; one that stops the port with an error is a problem, too, in ``component`` unless it says where."""
    try:
        yield from check(exam)
    except UserError as error:
        where = str(getattr(error, "where", "")).split()
        named = (
            where[0] if where and where[0] in COMPONENTS else "checkpoint" if Path(" ".join(where)).is_absolute() else component
        )
        yield Problem(name, named, named, float("inf"), 0.0, f"the port refused: {error}")
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        yield Problem(name, component, component, float("inf"), 0.0, f"the port stopped with {error!r}")
