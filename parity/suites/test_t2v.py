"""Text to video, float32: every site of the native run against the official code, at two sizes."""

from __future__ import annotations

import pytest

from parity.cases import T2V_CASES, Case
from parity.ledger import IDENTITY
from parity.plugin import Parity, left_out
from parity.results import CaseResult
from parity.session import Session


@pytest.fixture(scope="module", params=T2V_CASES, ids=lambda case: case.name)
def result(request: pytest.FixtureRequest, session: Session) -> CaseResult:
    case: Case = request.param
    why = left_out(request.config, case.mode, "float32")
    if why:
        pytest.skip(why)
    return session.compare(case)


def test_both_sides_ran_and_every_site_has_its_partner(result: CaseResult, parity: Parity) -> None:
    assert not result.problem
    assert result.coverage is not None
    assert result.coverage.complete, result.coverage.sentence()
    parity.count(len(result.rows))
    print(result.coverage.sentence())


def test_every_site_is_within_its_bound_on_the_references_inputs(result: CaseResult, parity: Parity, session: Session) -> None:
    parity.judged(result.rows, result.failed, session.bounds)
    assert result.finding is None, result.finding
    assert not result.failed
    replayed = [row.local.rel_l2 for row in result.rows if row.local is not None]
    assert replayed
    print(f"{len(replayed)} sites replayed, worst local rel_l2 {max(replayed):.3g}")


def test_the_error_ledger_adds_up_at_every_site(result: CaseResult, parity: Parity) -> None:
    three = [row for row in result.rows if row.local is not None and row.total is not None]
    parity.count(len(three))
    assert len(three) > 1000
    assert all(row.identity is not None for row in three)
    worst = max(row.identity for row in three if row.identity is not None)
    print(f"{len(three)} sites, local + inherited misses total by at most {worst:.2g}")
    assert worst <= IDENTITY


@pytest.mark.parametrize("site", ["tokenizer", "schedule", "state.video", "state.audio"])
def test_ids_masks_positions_and_sigmas_are_exact(result: CaseResult, parity: Parity, site: str) -> None:
    rows = [row for row in result.rows if row.key.site == site]
    parity.count(len(rows))
    assert rows
    assert all(row.total is not None and row.total.exact for row in rows)


@pytest.mark.parametrize("name", ["latent.video", "latent.audio", "frames", "waveform"])
def test_the_end_of_the_run_agrees(result: CaseResult, parity: Parity, name: str) -> None:
    item = next(item for item in result.end_to_end if item.name == name)
    parity.count(1)
    print(f"{name} {item.metric} {item.value:.3g} (bound {item.bound:.3g})")
    assert item.passed
