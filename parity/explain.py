"""Why: executed hypotheses on what a check found. Nothing here knows which mistake is there; candidates are tried and ranked.

A problem's tensors are taken to the smallest place at which native leaves the reference (its inside is replayed on the
reference's inputs), the official formula of that place is edited in every way that ports get wrong, and the edit that
reproduces native's result best is the explanation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from parity.capture.hypothesis_replay import backend_error
from parity.capture.reference import Checkpoint
from parity.cases import Case
from parity.checks import clues
from parity.checks.exam import Problem
from parity.hypotheses import values
from parity.hypotheses.base import VALUE, Suspect, Tried, candidates, ranked
from parity.hypotheses.values import Said
from parity.localise import Finding
from parity.measure_case import Masks, Replay
from parity.sites import component_of
from parity.suspects import Bench, suspects_of
from parity.taps import sites_of
from parity.trace import Record, Trace

# The order of trial: formulas before the probes for any tensors.
ROOMS = (
    "adaln", "attention", "conv", "kernels", "norms", "rope", "sampling", "state", "text", "upsampler", "weights",
    "closed_form",
)  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """The best cause found. ``cause`` is machine-readable, ``fault`` is port or backend, numbers are rel_l2.

    ``before`` and ``after`` are None where the evidence itself states the cause and nothing had to be executed.
    """

    cause: str
    sentence: str
    site: str
    what: str
    fault: str = "port"
    before: float | None = None
    after: float | None = None
    removed: float | None = None
    others: tuple[Tried, ...] = ()

    def row(self) -> dict[str, Any]:
        """The hypothesis as results.json has it."""
        note = self.what + ("; a fault of the backend, not of the port" if self.fault == "backend" else "")
        return {
            "cause": self.cause, "edit": self.sentence, "before": self.before, "after": self.after,
            "removed": self.removed, "note": note,
        }  # fmt: skip


def load_rooms() -> None:
    """Enter every room of hypotheses."""
    for room in ROOMS:
        import_module(f"parity.hypotheses.{room}")


@dataclass(frozen=True)
class Ran:
    """The bench of a finished run: its modules, those of one stage."""

    checkpoint: Checkpoint
    modules: Mapping[tuple[str, str], Any]
    stage: str

    def module(self, component: str) -> Any:
        return self.modules[self.stage, component]


def explain(exam: Bench, problem: Problem) -> Explanation | None:
    """The cause of a problem, or None where no hypothesis is convincing."""
    found = explanations(exam, problem)
    return found[0] if found else None


def of_finding(
    bench: Bench,
    finding: Finding,
    pair: tuple[Record, Record | None],
    case: Case,
    reference: Trace,
    native: Trace,
    replay: Replay,
) -> list[Explanation]:
    """Explanations of the first guilty site of a comparison; ``pair`` is the site's aligned pair of records."""
    masks = Masks(reference)
    local = None if finding.kind == "wiring" else replay(pair[0])
    if local is not None:
        clue = clues.of_replay(reference, masks, pair[0], finding.output, local)
    else:
        clue = clues.of_run(finding, *pair, case, reference, native, masks)
    site = finding.key.site
    return explanations(
        bench, Problem("compare", finding.component, site, finding.error, finding.bound, finding.sentence, clue)
    )


def explanations(exam: Bench, problem: Problem) -> list[Explanation]:
    """Every convincing explanation, the best first: an executed formula, then what the evidence says, then closed forms.

    What keeps a hypothesis from being tried is said in an explanation without a cause.
    """
    try:
        return _explanations(exam, problem)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return [Explanation("", f"{problem.site} could not be looked into: {error!r}", problem.site, problem.site)]


def _explanations(exam: Bench, problem: Problem) -> list[Explanation]:
    load_rooms()
    clue = problem.clue
    said = list(_said(problem))
    suspects, stated = suspects_of(exam, problem)
    found: list[tuple[int, float, Explanation]] = []
    rough: list[tuple[Suspect, Tried]] = []
    for suspect in suspects:
        tried = ranked(suspect, [*clue.candidates, *candidates(suspect)])
        if not any(t.convincing for t in tried):
            alike = [t for t in tried if t.same_size]
            tried = sorted(alike, key=lambda t: abs(math.log(t.before / t.size)))[:1]
            rough += [(suspect, one) for one in tried]
            continue
        for one in (t for t in tried if t.convincing):
            others = tuple(t for t in tried[:6] if t is not one)
            text = f"{suspect.what}: {one.sentence()}"
            explained = Explanation(
                one.cause, text, suspect.site, suspect.what, "port", one.before, one.after, one.removed, others
            )
            found.append((one.rank if one.rank <= VALUE else one.rank + 1, -one.removed, explained))
    if not (found or said or stated):
        for suspect, one in rough:
            text = f"{suspect.what}: {one.sentence()}"
            weak = Explanation(one.cause, text, suspect.site, suspect.what, "port", one.before, one.after, one.removed)
            found.append((VALUE + 3, 0.0, weak))
    for one_said in [*said, *stated]:
        found.append((VALUE + 1, 0.0, Explanation(one_said.cause, one_said.sentence, problem.site, problem.site)))
    best = [explanation for _, _, explanation in sorted(found, key=_order(found))]
    if clue.replayed and clue.record is not None and clue.reference is not None and _backend(exam, problem):
        text = f"{problem.site}: native computes the same as the reference on the CPU with every fused operation as its formula"
        best.insert(0, Explanation("backend.fused", text, problem.site, problem.site, "backend"))
    return best


def _order(
    found: Sequence[tuple[int, float, Explanation]],
) -> Callable[[tuple[int, float, Explanation]], tuple[int, float]]:
    """What says most comes first, unless it leaves far more of the error than another."""
    rest = min((1.0 - (e.removed or 0.0) for _, _, e in found if e.removed is not None), default=0.0)

    def key(item: tuple[int, float, Explanation]) -> tuple[int, float]:
        rank, negative, explanation = item
        left = 0.0 if explanation.removed is None else 1.0 - explanation.removed
        far = left > 0.03 and left > 20 * rest
        return (rank + 3 * far, round(negative, 3))

    return key


def _said(problem: Problem) -> Iterator[Said]:
    """What needs no execution: settings that differ, an error's own words, an exported file's tone and colours."""
    clue = problem.clue
    if clue.values is not None and problem.check == "configs":
        yield values.of_values(problem.site, *clue.values)
        return
    if "tone" in clue.given:
        yield from values.of_tone(*clue.given["tone"])
    if "colours" in clue.given:
        yield from values.of_colours(clue.given["colours"])
    yield from values.of_words(problem.sentence, problem.check)


def _backend(exam: Bench, problem: Problem) -> bool:
    """Whether the difference goes away on the plain backend: then not the port is wrong but what it runs on."""
    clue = problem.clue
    if clue.record is None or clue.trace is None or clue.reference is None or clue.record.kind != "module":
        return False
    module = sites_of(component_of(problem.site), exam.module(component_of(problem.site))).get(problem.site)
    if module is None or clue.native is None or not np.isfinite(problem.error):
        return False
    error = backend_error(module, clue.record, clue.trace, clue.name, clue.reference)
    return error is not None and error <= problem.bound
