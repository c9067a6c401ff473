"""The error ledger: its identity on any tensors, what breaks it, gain, profiles and tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.compare import Row, Sides, compare_pair
from parity.ledger import IDENTITY, LedgerError, by, entry, identity_problem, modality, profile
from parity.metrics import measure
from parity.trace import Key, Record


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    scales=st.tuples(*[st.floats(1e-8, 1e6)] * 3),
    shape=st.sampled_from([(1,), (2, 3), (1, 7, 16), (2, 3, 4, 5)]),
)
def test_the_three_errors_add_up_at_any_scale(seed: int, scales: tuple[float, ...], shape: tuple[int, ...]) -> None:
    size, local, inherited = scales
    reference = _normal(seed, *shape) * np.float32(size)
    own = reference + _normal(seed + 1, *shape) * np.float32(local)
    run = own + _normal(seed + 2, *shape) * np.float32(inherited)
    found = entry(own, run, reference)
    assert found.holds, found
    assert found.consistent
    assert identity_problem(found) == ""


def test_norms_are_what_the_metrics_measure() -> None:
    reference, own, run = _normal(0, 1, 5, 8), _normal(1, 1, 5, 8), _normal(2, 1, 5, 8)
    found = entry(own, run, reference, incoming=0.5)
    assert found.local == pytest.approx(measure(own, reference).rel_l2, rel=1e-5)
    assert found.total == pytest.approx(measure(run, reference).rel_l2, rel=1e-5)
    expected = float(np.linalg.norm(run - own) / np.linalg.norm(reference))
    assert found.inherited == pytest.approx(expected, rel=1e-5)
    assert found.gain == pytest.approx(expected / 0.5, rel=1e-5)
    assert entry(own, run, reference).gain is None


def test_a_mask_keeps_valid_tokens_only() -> None:
    reference = _normal(0, 1, 4, 8)
    own, run = reference.copy(), reference.copy()
    own[:, 0] += 3.0
    run[:, 0] -= 5.0
    found = entry(own, run, reference, np.array([[False, True, True, True]]))
    assert (found.local, found.inherited, found.total) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_have_no_ledger(value: float) -> None:
    reference = _normal(0, 2, 3)
    with pytest.raises(LedgerError, match="not finite"):
        entry(np.full((2, 3), value, np.float32), reference, reference)


def test_other_shapes_and_empty_tensors_have_no_ledger() -> None:
    with pytest.raises(LedgerError, match="shape"):
        entry(_normal(0, 2, 3), _normal(0, 3, 2), _normal(0, 2, 3))
    with pytest.raises(LedgerError, match="nothing to compare"):
        entry(*[np.zeros((0, 3), np.float32)] * 3)


def test_a_ledger_that_does_not_add_up_is_a_problem_in_words() -> None:
    from parity.ledger import Entry

    broken = Entry(local=1.0, inherited=1.0, total=5.0, identity=0.5)
    assert not broken.holds
    assert not broken.consistent
    assert "does not add up" in identity_problem(broken)
    assert f"{IDENTITY:g}" in identity_problem(broken)


def test_rows_report_a_violation_instead_of_hiding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from parity import compare
    from parity.ledger import Entry

    record = Record(0, Key("transformer", "stage_1", 0, "cond", 0), "module", "LTXModel", {}, {})
    tensor = {"0": _normal(0, 1, 3, 4)}
    sides = Sides(tensor, tensor, tensor, {}, {}, {})
    assert compare_pair(record, sides)[0].problem == ""
    monkeypatch.setattr(compare, "entry", lambda *args: Entry(1.0, 1.0, 5.0, 0.5))
    assert "does not add up" in compare_pair(record, sides)[0].problem


def test_a_profile_shows_the_token_that_is_off() -> None:
    reference = _normal(0, 1, 6, 16)
    own, run = reference.copy(), reference.copy()
    own[:, 2] += 1.0
    run[:, 2] += 1.0
    run[:, 4] += 2.0
    found = profile(own, run, reference, axis=1)
    assert int(np.argmax(found["local"])) == 2
    assert int(np.argmax(found["inherited"])) == 4
    assert found["total"][2] == pytest.approx(found["local"][2])


@pytest.mark.parametrize(
    ("site", "output", "expected"),
    [
        ("transformer.transformer_blocks.3.audio_attn1", "", "audio"),
        ("transformer.transformer_blocks.3.audio_to_video_attn", "", "video"),
        ("transformer.transformer_blocks.3.video_to_audio_attn", "", "audio"),
        ("transformer.transformer_blocks.3", "0.x", "video"),
        ("transformer.transformer_blocks.3", "1.x", "audio"),
        ("guidance.audio", "", "audio"),
        ("video_decoder.conv_in", "", "video"),
        ("gemma.layers.0", "", ""),
    ],
)
def test_modality_follows_the_official_names(site: str, output: str, expected: str) -> None:
    assert modality(site, output) == expected


def test_tables_by_step_pass_and_modality() -> None:
    rows = []
    for step in range(2):
        for name in ("cond", "uncond"):
            key = Key("transformer.transformer_blocks.0.ff", "stage_1", step, name, 0)
            reference = _normal(step, 1, 4, 8)
            own = reference + np.float32(10.0 ** (step - 3))
            rows.append(Row(0, key, "FeedForward", "", (1, 4, 8), "float32", measure(own, reference), measure(own, reference),
                            0.2, 0.1, "x"))  # fmt: skip
    steps = by(rows, "step")
    assert [line.index for line in steps] == ["stage_1 step 0", "stage_1 step 1"]
    assert steps[1].local > 5 * steps[0].local
    assert steps[0].gain == pytest.approx(2.0)
    assert [line.index for line in by(rows, "pass")] == ["cond", "uncond"]
    assert [line.rows for line in by(rows, "modality")] == [4]
    with pytest.raises(LedgerError, match="axis 'colour'"):
        by(rows, "colour")
