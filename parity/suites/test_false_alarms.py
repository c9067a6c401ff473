"""What is healthy stays unflagged: other seeds of the case matrix, and a difference that must not count.

A small form of `make false-alarms`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import T2V_SQUARE
from parity.false_alarms import finished, run, summary
from parity.faults import fault
from parity.folders import cache_folder
from parity.matrix import matrix
from parity.plugin import Parity
from parity.session import Session

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [entry.case.name for entry in matrix()][1:])
def test_another_seed_raises_no_alarm(name: str, parity: Parity) -> None:
    entry = next(entry for entry in matrix() if entry.case.name == name)
    row = run(entry, seed=7)
    parity.count(row["rows"])
    assert row["rows"] > 100
    assert (row["over"], row["verdict"]) == ([], "pass"), row["reasons"]
    assert row["worst_share"] < 1.0
    assert "0 over bound" in summary([row])


@pytest.mark.parametrize("id", ["TOK-05"])
def test_a_harmless_difference_is_not_flagged_in_a_comparison(
    id: str, checkpoint: Checkpoint, tmp_path: Path, parity: Parity
) -> None:
    """Other ids at padded positions: nobody reads them."""
    with fault(id) as planted:
        assert planted.control
        result = Session(checkpoint, tmp_path, ReferenceCache(cache_folder() / "reference")).compare(T2V_SQUARE)
    parity.count(len(result.rows))
    assert result.finding is None, result.finding
    assert not result.failed
    assert all(item.passed for item in result.end_to_end)


def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path, parity: Parity) -> None:
    parity.count(1)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"code": "a", "case": "x", "seed": 1}\n{"code": "b", "case": "x", "seed": 2}\n{"code": "a", "ca')
    assert [row["seed"] for row in finished(path, "a")] == [1]
    assert finished(tmp_path / "none", "a") == []
