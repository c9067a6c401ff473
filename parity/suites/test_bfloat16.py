"""bfloat16: what native loses at each site, against what the reference itself loses there."""

from __future__ import annotations

import pytest

from parity.cases import T2V_SQUARE
from parity.plugin import Parity, left_out
from parity.session import Session


def test_native_loses_at_most_twice_what_the_reference_loses(
    request: pytest.FixtureRequest, session: Session, parity: Parity
) -> None:
    why = left_out(request.config, T2V_SQUARE.mode, "bfloat16")
    if why:
        pytest.skip(why)
    # The last step has the low sigma at which bfloat16 noise levels show, the first the high one.
    result = session.compare_bfloat16(T2V_SQUARE, steps=(0, T2V_SQUARE.steps - 1))
    assert not result.problem
    assert result.coverage is not None
    assert result.coverage.complete, result.coverage.sentence()
    parity.judged(result.rows, result.failed, session.bounds)
    ratios = [row.local.rel_l2 / row.floor for row in result.rows if row.local is not None and row.floor]
    assert ratios
    middle = sorted(ratios)[len(ratios) // 2]
    print(f"{len(ratios)} sites, native loss ÷ reference loss: median {middle:.2f}, worst {max(ratios):.2f}")
    assert result.finding is None, result.finding
    assert not result.failed
