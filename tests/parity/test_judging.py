"""Alignment, comparison, localisation and the gate on hand-made evidence: each way to lack evidence must not pass."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.align import align
from parity.bounds import Bounds, BoundsError, SiteBound, load_bounds
from parity.compare import Sides, compare_pair, mask_for, spread
from parity.gate import Judgement, PolicyError, judge_tensors, load_policy, write_verdict
from parity.localise import failing, first_guilty
from parity.metrics import measure
from parity.results import CaseResult, EndToEnd, write_json
from parity.trace import Key, Record

BOUNDS = Bounds("float32", 1e-5, ())


def record(site, index=0, type_name="Linear", call=0):
    return Record(index, Key(site, "stage_1", 0, "cond", call), "module", type_name, {}, {})


def row(site, local=0.0, incoming=0.0, index=0, type_name="Linear"):
    reference = np.ones((1, 4, 2), np.float32)
    sides = Sides(
        reference={"": reference},
        total={"": reference * np.float32(1 + local + incoming)},
        local={"": reference * np.float32(1 + local)},
        dtypes={},
        inputs_reference={"x": reference},
        inputs_native={"x": reference * np.float32(1 + incoming)},
    )
    return compare_pair(record(site, index, type_name), sides)[0]


def case(compared, **changes):
    alignment = align([record(r.key.site) for r in compared], [record(r.key.site) for r in compared])
    bounds_failed = {i for i, r in enumerate(compared) if r in failing(compared, BOUNDS)}
    result = CaseResult(
        name="t2v",
        request={},
        dtype="float32",
        coverage=alignment.coverage(),
        rows=tuple(compared),
        failed=frozenset(bounds_failed),
        finding=first_guilty(compared, BOUNDS, 1e-3),
        end_to_end=(EndToEnd("latent.video", "rel_l2", 1e-6, 1e-4),),
    )
    return replace(result, **changes)


def test_alignment_names_what_has_no_partner():
    alignment = align([record("a"), record("b")], [record("b"), record("c")])
    coverage = alignment.coverage()
    assert [k.site for k in coverage.unmatched_reference] == ["a"]
    assert [k.site for k in coverage.unmatched_native] == ["c"]
    assert not coverage.complete
    assert "1 without a native partner" in coverage.sentence()


def test_alignment_counts_skips_by_rule():
    coverage = align([record("a"), record("d", type_name="Dropout")], [record("a")]).coverage()
    assert coverage.complete
    assert coverage.skipped == {"R2": 1}


def test_alignment_refuses_to_guess():
    with pytest.raises(ValueError, match="twice"):
        align([record("a"), record("a")], [record("a")])


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("abcdef"), unique=True))
def test_every_record_is_accounted_for(reference, native):
    alignment = align([record(s) for s in reference], [record(s) for s in native])
    coverage = alignment.coverage()
    assert coverage.reference_records == len(reference)
    assert coverage.compared + len(coverage.unmatched_reference) == len(reference)
    assert coverage.compared + len(coverage.unmatched_native) == len(native)


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_ledger_identity(local, incoming):
    r = row("a", local, incoming)
    assert r.local is not None
    assert r.total is not None
    assert r.inherited is not None
    # With scalar errors the norms add up exactly: |total| = |local + inherited|.
    assert r.total.rel_l2 == pytest.approx(abs(local + incoming), abs=1e-6)
    assert r.inherited == pytest.approx(abs(incoming), abs=1e-6)


def test_first_guilty_is_the_first_in_execution_order():
    rows = [row("a", 1e-7), row("b", 1e-2, index=1), row("c", 0.5, index=2)]
    finding = first_guilty(rows, BOUNDS, 1e-3)
    assert finding is not None
    assert (finding.kind, finding.key.site) == ("module", "b")
    assert "0.01" in finding.sentence


def test_wiring_is_told_from_a_wrong_module():
    finding = first_guilty([row("a"), row("b", 0.0, 0.5, index=1)], BOUNDS, 1e-3)
    assert finding is not None
    assert finding.kind == "wiring"
    assert "`x`" in finding.sentence


def test_exact_sites_have_no_tolerance():
    assert first_guilty([row("schedule", 1e-6)], BOUNDS, 1e-3) is not None
    assert first_guilty([row("transformer.proj_out", 1e-6)], BOUNDS, 1e-3) is None


def test_a_row_that_could_not_be_measured_fails():
    sides = Sides({"": np.ones(3)}, {"": np.ones(4)}, {"": np.ones(3)}, {}, {}, {})
    rows = compare_pair(record("a"), sides)
    assert "shape" in rows[0].problem
    assert failing(rows, BOUNDS) == rows


def test_only_single_rows_are_spread():
    assert spread(np.ones((1, 4)), (3, 4)).shape == (3, 4)
    assert spread(np.ones((2, 4)), (3, 4)).shape == (2, 4)
    assert spread(np.ones((3, 1)), (3, 4)).shape == (3, 1)


def test_healthy_evidence_passes():
    assert judge_tensors([case([row("a"), row("b", 1e-7, index=1)])]).verdict == "pass"


@pytest.mark.parametrize(
    ("cases", "verdict"),
    [
        ([], "inconclusive"),
        ([case([row("a")], problem="the reference is not installed")], "inconclusive"),
        ([case([row("a")], rows=())], "inconclusive"),
        ([case([row("a")], coverage=None)], "inconclusive"),
        ([case([row("a")], end_to_end=())], "inconclusive"),
        ([case([row("a", 1e-3)])], "fail"),
        ([case([row("a")], coverage=align([record("a"), record("b")], [record("a")]).coverage())], "fail"),
        ([case([row("a")], end_to_end=(EndToEnd("frames", "max_abs", 0.5, 1 / 255),))], "fail"),
        ([case([row("a")], end_to_end=(EndToEnd("frames", "max_abs", float("nan"), 1 / 255),))], "fail"),
        ([case([row("a")]), case([row("a", 1e-3)])], "fail"),
        ([case([row("a", 1e-3)]), case([row("a")], problem="gone")], "fail"),
    ],
)
def test_truth_table(cases, verdict):
    judgement = judge_tensors(cases)
    assert judgement.verdict == verdict
    assert judgement.reasons


@given(st.lists(st.sampled_from(["pass", "inconclusive", "fail"]), min_size=1))
def test_joining_never_improves_a_verdict(verdicts):
    joined = Judgement("pass")
    for verdict in verdicts:
        joined = joined.join(Judgement(verdict, (verdict,)))
    assert joined.verdict == ("fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass")
    assert list(joined.reasons) == verdicts


def test_bounds_need_a_reason_and_a_measured_floor(tmp_path):
    path = tmp_path / "floors.toml"
    path.write_text('[default]\nfloat32 = 1e-5\n[[site]]\npattern = "a"\nfloat32 = 1e-3\nmeasured = 1e-4\nreason = "r"\n')
    assert load_bounds("float32", path).local("a", "Linear") == 1e-3
    assert load_bounds("float32", path).local("b", "Linear") == 1e-5
    path.write_text('[default]\nfloat32 = 1e-5\n[[site]]\npattern = "a"\nfloat32 = 1e-3\nmeasured = 1e-4\nreason = ""\n')
    with pytest.raises(BoundsError, match="no reason"):
        load_bounds("float32", path)
    with pytest.raises(BoundsError, match="bfloat16"):
        load_bounds("bfloat16", path)


def test_site_bounds_match_by_pattern_and_type():
    bounds = Bounds("float32", 1e-5, (SiteBound("vocoder.*", "Conv*", 1e-4, 1e-5, "r"),))
    assert bounds.local("vocoder.x", "Conv1d") == 1e-4
    assert bounds.local("vocoder.x", "Linear") == 1e-5


def test_a_policy_with_a_missing_limit_is_refused(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("[tensors]\nlatents = 1e-4\n")
    with pytest.raises(PolicyError):
        load_policy(path)


def test_verdict_is_sealed(tmp_path):
    path = tmp_path / "verdict.json"
    write_verdict(path, Judgement("pass"), {"mlx": "1"}, {}, None)
    assert json.loads(path.read_text())["digest"]


def test_json_survives_infinity_and_failure(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text()) == {"a": "inf"}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": "inf"}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_token_mask_fits_tokens_split_into_heads():
    mask = np.array([[False, True, True]])
    assert mask_for(mask, np.ones((1, 3, 8))) is mask
    heads = mask_for(mask, np.ones((1, 2, 3, 4)))
    assert heads.shape == (1, 2, 3)
    padded = np.ones((1, 2, 3, 4))
    padded[:, :, 0] = 9
    assert measure(padded, np.ones((1, 2, 3, 4)), heads).exact
    assert mask_for(mask, np.ones((2, 3, 8))) is None
    assert mask_for(mask, np.ones((1, 8))) is None
    assert mask_for(None, np.ones((1, 3))) is None
