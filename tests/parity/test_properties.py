"""Properties that hold for all inputs: metrics, alignment, and the gate's truth table against an independent oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.align import Coverage, align
from parity.bounds import Bounds
from parity.compare import Sides, compare_pair
from parity.gate import ORDER, Judgement, judge_harness, judge_tensors
from parity.localise import Finding, failing, first_guilty
from parity.metrics import MetricError, measure
from parity.results import CaseResult, EndToEnd
from parity.trace import Key, Record

Array = npt.NDArray[np.float64]
VALUES = st.floats(-1e3, 1e3, allow_nan=False, width=32)
PAIRS = hnp.array_shapes(max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(*(hnp.arrays(np.float32, shape, elements=VALUES) for _ in range(2)))
)
BOUNDS = Bounds("float32", 1e-5, ())
SITES = st.sampled_from(["gemma", "transformer", "transformer.a", "denoised", "vocoder", "audio_decoder.mid"])
KEYS = st.builds(
    Key, SITES, st.sampled_from(["stage_1", "stage_2"]), st.none() | st.integers(0, 2), st.none(), st.integers(0, 1)
)


def record(key: Key, type_name: str = "Linear") -> Record:
    return Record(0, key, "module", type_name, {}, {})


@given(PAIRS)
def test_metrics_agree_with_their_definitions(pair: tuple[Array, Array]) -> None:
    native, reference = pair
    found = measure(native, reference)
    error = native.astype(np.float64) - reference.astype(np.float64)
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    assume(norm > 1e-6)
    assert found.rel_l2 == pytest.approx(float(np.linalg.norm(error)) / norm, rel=1e-4, abs=1e-7)
    assert found.max_abs == pytest.approx(float(np.abs(error).max()), rel=1e-5, abs=1e-9)
    assert -1.0 <= found.cosine <= 1.0
    assert found.exact == bool((native == reference).all())


@given(PAIRS)
def test_the_order_of_elements_changes_no_number(pair: tuple[Array, Array]) -> None:
    native, reference = (array.reshape(-1) for array in pair)
    order = np.random.default_rng(native.size).permutation(native.size)
    one, other = measure(native, reference), measure(native[order], reference[order])
    assert one.max_abs == other.max_abs
    assert one.rel_l2 == pytest.approx(other.rel_l2, rel=1e-5, abs=1e-12)


@given(PAIRS)
def test_no_error_is_lost_between_three_tensors(pair: tuple[Array, Array]) -> None:
    """Distances obey the triangle inequality, so an error cannot hide behind an intermediate result."""
    a, b = pair
    c = ((a + b) / 2).astype(np.float32)
    norm = measure(b, b).reference_rms
    assume(norm > 1e-6 and measure(c, c).reference_rms > 1e-6)
    whole = measure(a, b).rel_l2 * norm
    parts = measure(c, b).rel_l2 * norm + measure(a, c).rel_l2 * measure(c, c).reference_rms
    assert whole <= parts * (1 + 1e-4) + 1e-6


@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e4, 1e4, width=32)))
def test_bfloat16_is_measured_as_what_it_holds(values: Array) -> None:
    rounded = np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))
    found = measure(rounded, values)
    assert found.finite
    assert found.rel_l2 <= 2.0**-8 or math.isinf(found.rel_l2)
    assert measure(rounded, rounded).exact


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=VALUES),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.data(),
)
def test_one_value_that_is_not_finite_is_seen_unless_it_is_masked(array: Array, poison: float, data: st.DataObject) -> None:
    place = data.draw(st.tuples(*(st.integers(0, n - 1) for n in array.shape)))
    broken = array.copy()
    broken[place] = poison
    for pair in ((broken, array), (array, broken), (broken, broken)):
        found = measure(*pair)
        assert not found.finite
        assert math.isinf(found.rel_l2)
    valid = np.ones(array.shape[0], bool)
    valid[place[0]] = False
    if valid.any():
        assert measure(broken, array, valid).exact
    else:
        with pytest.raises(MetricError, match="masked"):
            measure(broken, array, valid)


@given(hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(-(2**40), 2**40)), st.integers(1, 2**20))
def test_whole_numbers_and_truth_values_are_compared_exactly(ids: Array, step: int) -> None:
    assert measure(ids, ids).exact
    assert not measure(ids + step, ids).exact
    assert measure(ids > 0, ids > 0).exact


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=VALUES))
def test_against_a_zero_reference_only_zero_agrees(values: Array) -> None:
    found = measure(values, np.zeros_like(values))
    assert found.rel_l2 == (0.0 if not values.any() else math.inf)


@given(st.sets(KEYS, max_size=12), st.sets(KEYS, max_size=12))
def test_alignment_is_a_partition_whatever_the_order(reference: set[Key], native: set[Key]) -> None:
    ours, theirs = [record(key) for key in native], [record(key) for key in reference]
    found = align(theirs, ours)
    again = align(theirs[::-1], ours[::-1])
    coverage = found.coverage()
    assert coverage.reference_records == len(reference) == coverage.compared + len(coverage.unmatched_reference)
    assert {pair[0].key for pair in found.pairs} == reference & native
    assert set(coverage.unmatched_reference) == reference - native
    assert set(coverage.unmatched_native) == {key for key in native - reference if key.site != "audio_decoder.mid"}
    assert coverage.complete == (bool(reference & native) and reference <= native and not coverage.unmatched_native)
    assert set(again.coverage().unmatched_reference) == set(coverage.unmatched_reference)


@given(st.lists(KEYS, min_size=1, max_size=6), st.booleans())
def test_a_key_that_comes_twice_is_never_guessed(keys: list[Key], native: bool) -> None:
    twice = [record(key) for key in (*keys, keys[0])]
    once = [record(key) for key in dict.fromkeys(keys)]
    with pytest.raises(ValueError, match="recorded twice"):
        align(once, twice) if native else align(twice, once)


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1e-3), min_size=1, max_size=6))
def test_the_finding_is_the_first_row_out_of_bound(errors: list[float]) -> None:
    reference = np.ones((1, 4, 2), np.float64)
    rows = []
    for index, error in enumerate(errors):
        local = {"": reference * (1 + error)}
        sides = Sides({"": reference}, local, local, {}, {}, {})
        rows += compare_pair(replace(record(Key(f"s{index}", "stage_1", 0, None, 0)), index=index), sides)
    bad = failing(rows, BOUNDS)
    finding = first_guilty(rows, BOUNDS, math.inf)
    assert [row.key for row in bad] == [row.key for row in rows if row.local is not None and not row.local.rel_l2 <= 1e-5]
    assert (finding.key if finding else None) == (bad[0].key if bad else None)


WHOLE = Coverage(1, 1, {}, (), ())
HOLED = Coverage(2, 1, {}, (Key("gone", "stage_1", None, None, 0),), ())
EMPTY = Coverage(0, 0, {}, (), ())
ROW = compare_pair(record(Key("s", "stage_1", 0, None, 0)), Sides({"": np.ones(3)}, None, {"": np.ones(3)}, {}, {}, {}))[0]
FINDING = Finding("module", ROW.key, "", "s", 1.0, 1e-5, "s is off")
CASES = st.builds(
    CaseResult,
    name=st.just("case"),
    request=st.just({}),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    coverage=st.sampled_from([None, WHOLE, HOLED, EMPTY]),
    rows=st.sampled_from([(), (ROW,)]),
    failed=st.sampled_from([frozenset(), frozenset({0})]),
    finding=st.sampled_from([None, FINDING]),
    end_to_end=st.sampled_from([(), (EndToEnd("l", "rel_l2", 1e-6, 1e-4),), (EndToEnd("l", "rel_l2", math.nan, 1e-4),)]),
    problem=st.sampled_from(["", "the reference is gone"]),
).filter(lambda case: bool(case.rows) or not case.failed)


def oracle(case: CaseResult) -> str:
    """The table of the rules, written without the gate's code."""
    measured = case.coverage is not None and case.coverage.compared > 0 and bool(case.rows)
    ended = bool(case.end_to_end) or case.dtype == "bfloat16"
    if case.problem or not measured or not ended:
        return "inconclusive"
    late = any(not item.value <= item.bound for item in case.end_to_end)
    wrong = case.coverage is HOLED or case.finding is not None or bool(case.failed) or late
    return "fail" if wrong else "pass"


@settings(max_examples=300)
@given(st.lists(CASES, max_size=4))
def test_the_gate_follows_its_truth_table(cases: list[CaseResult]) -> None:
    found = judge_tensors(cases)
    expected = max((oracle(case) for case in cases), key=ORDER.index, default="inconclusive")
    assert found.verdict == expected
    assert bool(found.reasons) == (expected != "pass")


@given(st.lists(CASES, max_size=3), CASES, st.sampled_from(["", "the certificate is old"]))
def test_more_evidence_never_mends_a_verdict_and_a_doubt_never_passes(
    cases: list[CaseResult], more: CaseResult, doubt: str
) -> None:
    alone, joined = judge_tensors(cases), judge_tensors([*cases, more])
    if cases:
        assert ORDER.index(joined.verdict) >= ORDER.index(alone.verdict)
    doubted = joined.join(judge_harness(doubt))
    assert doubted.verdict == (joined.verdict if not doubt else max(joined.verdict, "inconclusive", key=ORDER.index))
    assert Judgement("pass").join(joined) == joined
