"""What the suites of single modes ask of a comparison's rows."""

from __future__ import annotations

from parity.gate import judge_tensors
from parity.plugin import Parity
from parity.results import CaseResult


def assert_within_bounds(result: CaseResult, parity: Parity, name: str = "") -> None:
    """Every site within its bound and the end of the run too; says the worst output, under `name` where one is given."""
    assert not result.problem, result.problem
    assert result.coverage is not None, "nothing was compared"
    parity.count(len(result.rows))
    print(result.coverage.sentence())
    judged = judge_tensors([result])
    assert judged.verdict == "pass", judged.reasons
    local = [(row.local.rel_l2, row.key) for row in result.rows if row.local is not None]
    worst, key = max(local, key=lambda item: item[0])
    print(f"{name + ': ' if name else ''}{len(local)} outputs replayed, worst local rel_l2 {worst:.3g} at {key}")
    for item in result.end_to_end:
        print(f"{item.name} {item.metric} {item.value:.3g} (bound {item.bound:.3g})")
