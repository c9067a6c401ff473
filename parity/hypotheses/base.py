"""What a hypothesis is tried on, what it predicts, and how much of the error it accounts for. NumPy only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Share of the error a hypothesis has to remove before it is called the cause; a rounding is never hit bit for bit.
CONVINCING = 0.9
CONVINCING_ROUNDING = 0.5
# A rounding that cannot be repeated bit for bit (sums in another order) has a size: within this factor of the error it counts.
SAME_SIZE = 2.5
LARGEST_ROUNDING = 0.02  # rel_l2; what differs by more is no rounding
# Hypotheses whose rest (as a share of the error) is near the best one's explain equally well: the one that says most wins.
EQUAL_FACTOR, EQUAL_SHARE = 3.0, 1e-4

FORMULA, VALUE, PROBE, FITTED = range(4)  # from what says most to what says least


@dataclass(frozen=True)
class Suspect:
    """A tensor that native has otherwise, and everything the reference made its own from (native layout throughout).

    ``what`` names it in words; ``given`` holds the module's inputs by dotted path (tensors and plain values), ``known`` other
    tensors of the same call; ``parameter`` gives the official parameters of the module by relative name, in PyTorch's axes.
    """

    site: str
    type: str
    what: str
    native: Array
    reference: Array
    given: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, Array] = field(default_factory=dict)
    parameter: Callable[[str], Array | None] = lambda name: None
    config: Mapping[str, Any] = field(default_factory=dict)
    mask: Array | None = None
    name: str = ""  # the bare name of the argument or output

    def weight(self, name: str) -> Array:
        """A parameter that the formula cannot do without. Raises `LookupError`, which drops the candidate."""
        found = self.parameter(name)
        if found is None:
            raise LookupError(name)
        return found


@dataclass(frozen=True)
class Candidate:
    """One edit: a machine-readable ``cause``, the edit in words ("native = reference with …"), what native would then be."""

    cause: str
    edit: str
    predict: Callable[[], Array]
    rank: int = FORMULA
    enough: float | None = None  # share of the error it has to remove; less where something lossy lies in between

    @property
    def threshold(self) -> float:
        return self.enough or (CONVINCING_ROUNDING if self.cause.startswith("dtype.") else CONVINCING)


@dataclass(frozen=True)
class Tried:
    """A candidate after its execution. ``before``, ``after`` and ``size`` are over the reference's norm: native against the
    reference, native against the edit, the edit against the reference."""

    cause: str
    edit: str
    rank: int
    before: float
    after: float
    size: float = 0.0
    threshold: float = CONVINCING

    @property
    def removed(self) -> float:
        """Share of the error that is gone when the reference is edited so; 1 where only the edit can be compared at all."""
        if math.isinf(self.before):
            return 1.0 - min(1.0, self.after)
        return 1.0 - self.after / self.before if self.before else 0.0

    @property
    def convincing(self) -> bool:
        return self.removed >= self.threshold

    @property
    def same_size(self) -> bool:
        """A rounding that errs as much as native does, although not by the same numbers."""
        dtype = self.cause in [cause for cause, _, _ in ROUNDINGS]
        small = self.before < LARGEST_ROUNDING and self.size > 0
        return dtype and small and self.rank == FORMULA and 1 / SAME_SIZE < self.before / self.size < SAME_SIZE

    def sentence(self) -> str:
        if not self.convincing:
            return (
                f"native differs from the reference by as much as {self.edit} does "
                f"({self.before:.2g} against {self.size:.2g}), and no other edit accounts for it"
            )
        share = f"{100 * self.removed:.2f}".rstrip("0").rstrip(".")
        return f"native = reference with {self.edit} (removes {share} % of the error)"


Room = Callable[[Suspect], Iterator[Candidate]]
_ROOMS: list[tuple[tuple[str, ...], Room]] = []


def hypotheses(*kinds: str) -> Callable[[Room], Room]:
    """Enter a generator of candidates for suspects whose type or ``site:name`` matches one of the patterns."""

    def enter(room: Room) -> Room:
        _ROOMS.append((kinds, room))
        return room

    return enter


def candidates(suspect: Suspect) -> Iterator[Candidate]:
    """Everything any room has to say of a suspect."""
    place = f"{suspect.site}:{suspect.name}"
    for kinds, room in _ROOMS:
        if any(fnmatchcase(suspect.type, kind) or fnmatchcase(place, kind) for kind in kinds):
            try:
                yield from room(suspect)
            except (LookupError, ValueError, TypeError, AttributeError, IndexError):
                continue  # a room that lacks an ingredient has nothing to say


def distance(one: Array, other: Array, mask: Array | None = None) -> float:
    """‖one − other‖ over valid tokens; entries that are not finite must be the same ones, otherwise infinity."""
    if one.shape != other.shape:
        return math.inf
    one, other = one.astype(np.float64), other.astype(np.float64)
    if mask is not None and one.shape[: mask.ndim] == mask.shape:
        one, other = one[mask], other[mask]
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return math.inf
    return float(np.linalg.norm(one[finite] - other[finite]))


class Trials:
    """Executes candidates on one suspect, and says how far native is from the reference to begin with."""

    def __init__(self, suspect: Suspect) -> None:
        native, reference = suspect.native, suspect.reference
        self.suspect = suspect
        norm = float(np.linalg.norm(np.nan_to_num(native.astype(np.float64)))) or 1.0
        if reference.size and np.isfinite(reference).all():
            norm = float(np.linalg.norm(reference.astype(np.float64))) or norm
        self.norm = norm
        self.before = distance(native, reference, suspect.mask) / norm

    def run(self, candidate: Candidate) -> Tried | None:
        """A candidate's result; None where its formula does not fit the tensors at hand."""
        native = self.suspect.native
        try:
            with np.errstate(all="ignore"):
                predicted = np.asarray(candidate.predict())
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError):
            return None
        if predicted.shape != native.shape:
            if predicted.size != native.size or predicted.ndim < native.ndim:
                return None
            predicted = predicted.reshape(native.shape)
        after = distance(native, predicted, self.suspect.mask) / self.norm
        rounding = candidate.cause.startswith("dtype.")
        size = distance(predicted, self.suspect.reference, self.suspect.mask) / self.norm if rounding else 0.0
        return Tried(candidate.cause, candidate.edit, candidate.rank, self.before, after, size, candidate.threshold)


def ranked(suspect: Suspect, tried: Iterable[Candidate], seconds: float = 5.0) -> list[Tried]:
    """Executed candidates, the best first: most error removed, and among equals the one that says most.

    After ``seconds`` no further candidate is begun; formulas come before probes, so that these are what is left out.
    """
    trials, done = Trials(suspect), []
    end = time.monotonic() + seconds
    for candidate in tried:
        result = trials.run(candidate)
        if result is not None:
            done.append(result)
        if time.monotonic() > end:
            break
    if not done:
        return []
    rest = 1.0 - max((result.removed for result in done if result.rank <= FITTED), default=1.0)

    def order(result: Tried) -> tuple[bool, int, float]:
        equal = 1.0 - result.removed <= EQUAL_FACTOR * rest + EQUAL_SHARE
        # Among edits that fit alike the one named first in its room is the more usual mistake.
        return (not equal, result.rank if equal else 0, -round(result.removed, 3))

    return sorted(done, key=order)


def bfloat16(x: Array) -> Array:
    """Rounded to the nearest bfloat16, ties to even, in float32."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).reshape(np.shape(x))


def float16(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(np.float16).astype(np.float32)


ROUNDINGS: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
    ("dtype.bfloat16", "bfloat16", bfloat16),
    ("dtype.float16", "float16", float16),
)


def roundings(formula: Callable[..., Array], **inputs: Array) -> Iterator[Candidate]:
    """``formula`` with some input, all of them, or the result in a narrow dtype."""
    for cause, dtype, narrow in ROUNDINGS:
        everything = {name: narrow(value) for name, value in inputs.items()}
        yield Candidate(cause, f"its result rounded to {dtype}", lambda n=narrow: n(formula(**inputs)))  # type: ignore[misc]
        yield Candidate(cause, f"everything in {dtype}", lambda n=narrow, e=everything: n(formula(**e)))  # type: ignore[misc]
        yield Candidate(cause, f"all operands in {dtype}", lambda e=everything: formula(**e))  # type: ignore[misc]
        for name in inputs:
            edited = {**inputs, name: everything[name]}
            yield Candidate(cause, f"`{name}` rounded to {dtype}", lambda e=edited: formula(**e))  # type: ignore[misc]
