"""The certificate's counts, and checks that need no reference seeing what they are for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity.certify import Outcome, checks, line, portable, summary
from parity.checks import export, functions, runtime
from parity.checks.exam import Check, Exam, run_check
from parity.checks.repeat import repeat_of
from parity.faults import fault
from parity.matrix import CHECKS

CAUGHT = Outcome("TIM-01", "transformer", "gross", "fail", "replays", "transformer", "transformer", "off", 0.1, 1e4, None, 2.0)
MISPLACED = Outcome(
    "GUI-05", "guidance", "moderate", "fail", "playback", "sampler.video", "sampler", "off", 0.1, 1e3, None, 1.0
)
MISSED = Outcome("ROP-05", "state", "moderate", "pass", seconds=3.0)
CONTROL = Outcome("TOK-05", "tokenizer", "none", "pass", seconds=1.0)
UNSURE = Outcome("QNT-08", "transformer", "none", "inconclusive", "repeat")


def test_the_counts_hide_no_miss() -> None:
    total = summary([CAUGHT, MISPLACED, MISSED, CONTROL, UNSURE, Outcome("healthy", "", "none", "pass")])
    assert (total["faults"], total["caught"], total["right_component"]) == (3, 2, 1)
    assert (total["controls"], total["controls_flagged"]) == (2, 0)
    counts = {"faults": 1, "caught": 0, "right": 0, "cause_kinds": 0, "cause_right": 0}
    assert total["components"]["state"] == counts
    assert "MISSED" in line(MISSED)
    assert "control" in line(UNSURE)


def test_a_cause_is_right_by_its_id_and_only_where_a_hypothesis_is_of_its_kind() -> None:
    right = replace(CAUGHT, cause="timestep.scale", expected_cause="timestep.scale")
    wrong = replace(CAUGHT, cause="norm.eps", expected_cause="timestep.scale|timestep.shift")
    nameless = replace(CAUGHT, cause="norm.eps")
    unexplained = replace(CAUGHT, expected_cause="timestep.scale")
    assert [o.cause_right for o in (right, wrong, nameless, unexplained)] == [True, False, False, False]
    total = summary([right, wrong, nameless, unexplained])
    assert (total["cause_kinds"], total["cause_right"]) == (3, 1)
    assert "(right)" in line(right)
    assert "(is timestep.scale|timestep.shift)" in line(wrong)


def test_every_check_stands_in_the_matrix() -> None:
    names = [name for name, _, _ in checks()]
    assert len(names) == len(set(names))
    assert set(names) <= set(CHECKS)


ALONE: list[tuple[str, str, Check]] = [
    ("MUX-02", "export", export.export),
    ("MUX-04", "export", export.export),
    ("ATT-05", "transformer", runtime.long),
    ("SAM-01", "post_process", functions.blending),
    ("SAM-09", "sampler", functions.blending),
    ("SAM-08", "sampler", functions.second_order),
    ("CND-09", "video_encoder", functions.sources),
]


@pytest.mark.parametrize(("id", "component", "check"), ALONE, ids=[row[0] for row in ALONE])
def test_a_check_sees_its_mistake_and_nothing_else(
    id: str, component: str, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTX_PARITY_CACHE", str(tmp_path))
    exam = Exam(evidence=None)  # type: ignore[arg-type]
    assert list(run_check("check", check, exam, component)) == []
    assert exam.coverage
    with fault(id):
        problems = list(run_check("check", check, exam, component))
    assert [problem.component for problem in problems[:1]] == [component]


def test_a_reference_that_varies_is_no_evidence() -> None:
    latent = np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)
    same = repeat_of({"latent.video": latent}, {"latent.video": latent})
    assert same.judgement(1e-4).verdict == "pass"
    judgement = repeat_of({"latent.video": latent}, {"latent.video": 1.1 * latent}).judgement(1e-4)
    assert judgement.verdict == "inconclusive"
    assert "does not reproduce itself" in judgement.reasons[0]


def test_sentences_name_files_without_this_machines_folders() -> None:
    text = "damaged (in /var/folders/x1/ltx.safetensors): 3/4 of it, see parity/faults"
    assert portable(text) == "damaged (in ltx.safetensors): 3/4 of it, see parity/faults"
