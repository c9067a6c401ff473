"""What the pytest plugin measured: one record per check, the table on the terminal, and results.json with its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.details import site_details
from parity.metrics import MetricError, measure
from parity.results import COLUMNS, SCHEMA, write_json

LISTED = 20


@dataclass(frozen=True)
class Check:
    """One comparison in one test. ``state``: pass, fail or inconclusive; ``problem`` says why there is no number.

    ``judged``: taken from a comparison of both engines, which writes results of its own.
    """

    site: str
    test: str
    bound: float
    state: str
    rel_l2: float | None = None
    max_abs: float | None = None
    cosine: float | None = None
    bias: float | None = None
    shape: Sequence[int] = ()
    dtype: str = ""
    problem: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    judged: bool = False

    @property
    def ratio(self) -> float:
        """Error over bound: what the table is sorted by; a check without a number is the worst."""
        if self.rel_l2 is None or self.problem:
            return math.inf
        return self.rel_l2 / self.bound if self.bound else math.inf if self.rel_l2 else 0.0

    def words(self) -> str:
        if self.problem:
            return f"{self.site}: {self.problem}"
        if self.state == "pass":
            return f"{self.site}: rel_l2 {self.rel_l2:.3g}, at most {self.bound:.3g}"
        cosine = "" if self.cosine is None else f" (max_abs {self.max_abs:.3g}, cosine {self.cosine:.6f})"
        apart = f"by rel_l2 {self.rel_l2:.3g}, expected at most {self.bound:.3g}{cosine}"
        return f"{self.site}: native differs from the reference {apart}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measured(site: str, native: Any, reference: Any, bound: float, test: str, keep: bool) -> Check:
    """Measure one pair; ``keep`` puts profiles, worst elements and images of a failing one into the record."""
    if not bound >= 0:
        return Check(site, test, bound, "inconclusive", problem=f"the bound is {bound}, expected a number from 0 on")
    try:
        ours, theirs = _array(native, "native"), _array(reference, "reference")
    except TypeError as error:
        return Check(site, test, bound, "inconclusive", problem=str(error))
    shape, dtype = tuple(theirs.shape), str(theirs.dtype)
    if theirs.size == 0:
        return Check(site, test, bound, "inconclusive", shape=shape, dtype=dtype, problem="the reference is empty")
    if not np.isfinite(theirs).all():
        what = f"the reference holds {int((~np.isfinite(theirs)).sum())} values that are not finite"
        return Check(site, test, bound, "inconclusive", shape=shape, dtype=dtype, problem=what)
    try:
        found = measure(ours, theirs)
    except MetricError as error:
        return Check(site, test, bound, "fail", shape=shape, dtype=dtype, problem=f"could not be compared: {error}")
    numbers = (found.rel_l2, found.max_abs, found.cosine, found.bias)
    if found.rel_l2 <= bound:
        return Check(site, test, bound, "pass", *numbers, shape, dtype)
    return Check(site, test, bound, "fail", *numbers, shape, dtype, details=site_details(site, ours, theirs) if keep else {})


def _array(value: Any, side: str) -> npt.NDArray[Any]:
    """NumPy arrays, and tensors of other libraries that give themselves as one."""
    try:
        array = np.asarray(value.detach().float().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{side} is no array of numbers ({error}); cast bfloat16 to float32 first") from error
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{side} is no array of numbers (dtype {array.dtype}); hand over a NumPy array")
    return array


def table(checks: Sequence[Check]) -> list[str]:
    """The checks that did not pass, worst first, as lines of a terminal; then the best news there is."""
    bad = sorted((check for check in checks if check.state != "pass"), key=lambda check: -check.ratio)
    if not bad:
        worst = max(checks, key=lambda check: check.ratio, default=None)
        return [f"all in bound; nearest to its bound: {worst.words()}"] if worst else []
    width = min(60, max(len(check.site) for check in bad[:LISTED]))
    lines = [f"{'site':{width}}  {'rel_l2':>9}  {'bound':>9}  {'÷ bound':>9}  {'max_abs':>9}  test"]
    for check in bad[:LISTED]:
        if check.problem:
            lines.append(f"{check.site:{width}}  {check.state}: {check.problem}  {check.test}")
        else:
            top = f"{check.max_abs:9.3g}" if check.max_abs is not None else f"{'–':>9}"
            lines.append(
                f"{check.site:{width}}  {check.rel_l2:9.3g}  {check.bound:9.3g}  {check.ratio:9.3g}  {top}  {check.test}"
            )
    if len(bad) > LISTED:
        lines.append(f"and {len(bad) - LISTED} more")
    return lines


def write_results(folder: Path, checks: Sequence[Check]) -> Path:
    """`results.json` and `report.html` of a session's checks, one case per test file; the page.

    Where a comparison of both engines left its verdict in the folder, they go below it, to `checks/`.
    """
    from parity.provenance import environment
    from parity.report import build_report

    target = folder / "checks" if (folder / "verdict.json").exists() else folder
    files = dict.fromkeys(check.test.split("::")[0] for check in checks)
    bad = [check for check in checks if check.state != "pass"]
    verdict = "pass" if not bad else "fail" if any(check.state == "fail" for check in bad) else "inconclusive"
    results = {
        "schema": SCHEMA,
        "verdict": verdict,
        "reasons": [check.words() for check in sorted(bad, key=lambda check: -check.ratio)],
        "environment": environment(),
        "engine": {"engine": "neither", "reason": "a pytest session judges what it is given and puts no engine in force"},
        "cases": [_case(name, [check for check in checks if check.test.split("::")[0] == name]) for name in files],
    }
    write_json(target / "results.json", results)
    return build_report(target / "results.json")


def _case(name: str, checks: Sequence[Check]) -> dict[str, Any]:
    first = next((i for i, check in enumerate(checks) if check.state == "fail"), None)
    return {
        "name": name,
        "request": {"name": name},
        "dtype": "float32",
        "problem": "",
        "coverage": {
            "reference_records": len(checks),
            "compared": sum(not check.problem for check in checks),
            "skipped": {},
            "unmatched_reference": [],
            "unmatched_native": [],
            "complete": True,
            "sentence": f"{len(checks)} checks, {sum(not check.problem for check in checks)} measured",
        },
        "columns": COLUMNS,
        "rows": [_row(i, check) for i, check in enumerate(checks)],
        "finding": None if first is None else _finding(first, checks[first]),
        "end_to_end": [],
        "media": {},
        "timings": {},
        "provenance": {},
        "details": [{"row": i, "local": True, **check.details} for i, check in enumerate(checks) if check.details],
    }


def _row(index: int, check: Check) -> list[Any]:
    known = {
        "index": index,
        "site": check.site,
        "type": "check",
        "output": "",
        "stage": check.test.partition("::")[2],
        "call": index,
        "shape": list(check.shape),
        "dtype": check.dtype,
        "local": check.rel_l2,
        "local_max_abs": check.max_abs,
        "cosine": check.cosine,
        "bias": check.bias,
        "bound": check.bound,
        "failed": check.state != "pass",
        "problem": check.problem,
    }
    return [known.get(name, "" if name == "incoming_name" else None) for name in COLUMNS]


def _finding(index: int, check: Check) -> dict[str, Any]:
    stage = check.test.partition("::")[2]
    return {
        "kind": "module" if not check.problem else "unmeasured",
        "key": {"site": check.site, "stage": stage, "step": None, "guidance_pass": None, "call": index},
        "output": "",
        "component": check.site.split(".", 1)[0],
        "error": math.inf if check.rel_l2 is None else check.rel_l2,
        "bound": check.bound,
        "sentence": check.words(),
        "reproduce": f"pytest '{check.test}'",
    }
