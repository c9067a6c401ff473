"""When a verdict may rest on the certificate, and that the gate asks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from parity import certificate
from parity.certificate import certificate_problem, certificate_summary, harness_code, harness_files, museum
from parity.folders import ROOT
from parity.gate import Judgement, judge_harness
from parity.suites.certificates import write_certificate


def test_a_whole_certificate_of_this_harness_may_be_relied_on(tmp_path: Path) -> None:
    path = write_certificate(tmp_path / "c.json", {"QNT-08": "inconclusive"})
    assert certificate_problem(path) == ""
    assert judge_harness("") == Judgement("pass")
    counts = certificate_summary(path)
    assert counts is not None
    assert counts["faults"] == counts["caught"] == len(museum())


@pytest.mark.parametrize("text", [None, "{", "[]", '{"schema": 1}', '{"faults": [{"id": "TIM-01"}]}'])
def test_no_certificate_is_a_problem_that_names_the_command(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "c.json"
    if text is not None:
        path.write_text(text)
    problem = certificate_problem(path)
    assert "run `make certify`" in problem
    assert certificate_summary(path) is None
    judgement = Judgement("pass").join(judge_harness(problem))
    assert judgement == Judgement("inconclusive", (problem,))


def test_another_harness_needs_another_certificate_and_the_first_change_is_named(tmp_path: Path) -> None:
    files = {**harness_files(), "parity/metrics.py": "0" * 64}
    path = write_certificate(tmp_path / "c.json", code="0" * 64, files=files)
    assert "older than the harness (1 files changed, first parity/metrics.py)" in certificate_problem(path)


def test_a_certificate_in_part_is_a_problem(tmp_path: Path) -> None:
    path = write_certificate(tmp_path / "c.json")
    content = json.loads(path.read_text())
    content["faults"] = [row for row in content["faults"] if row["id"] != "ROP-05"]
    path.write_text(json.dumps(content))
    assert "lacks 1 faults, first ROP-05" in certificate_problem(path)


def test_a_flagged_control_is_a_problem(tmp_path: Path) -> None:
    path = write_certificate(tmp_path / "c.json")
    content = json.loads(path.read_text())
    next(row for row in content["faults"] if row["id"] == "TOK-05")["effect"] = "none"
    path.write_text(json.dumps(content))
    assert "TOK-05" in certificate_problem(path)


def test_a_harness_that_misses_mistakes_clears_nothing(tmp_path: Path) -> None:
    missed = dict.fromkeys(sorted(museum())[: len(museum()) // 10], "pass")
    assert "sees" in certificate_problem(write_certificate(tmp_path / "c.json", missed))


def test_another_place_may_be_named_but_not_another_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX_PARITY_CERTIFICATE", str(write_certificate(tmp_path / "c.json", code="0")))
    assert "older" in certificate_problem()
    monkeypatch.setenv("LTX_PARITY_CERTIFICATE", str(write_certificate(tmp_path / "d.json")))
    assert certificate_problem() == ""


def test_only_what_decides_whether_a_mistake_is_seen_counts_as_the_harness(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "parity", tmp_path / "parity", ignore=shutil.ignore_patterns("world", "__pycache__"))
    before = harness_code(tmp_path)
    assert before == harness_code()
    for name in ("cli.py", "session.py", "report/build.py", "badge.py"):
        (tmp_path / "parity" / name).write_text("changed")
    policy = tmp_path / "parity" / "policy.toml"
    policy.write_text(policy.read_text().replace("alpha = ", "alpha =  "))
    assert harness_code(tmp_path) == before
    for name in ("metrics.py", "checks/exam.py", "faults/faults.toml", "floors.toml", "capture/replay.py"):
        path = tmp_path / "parity" / name
        text = path.read_text()
        path.write_text(text + "\n")
        assert harness_code(tmp_path) != before, name
        path.write_text(text)
    policy.write_text(policy.read_text().replace("latents = ", "latents = 1"))
    assert harness_code(tmp_path) != before


def test_every_pattern_of_the_harness_meets_a_file() -> None:
    for pattern in certificate.HARNESS:
        assert list(ROOT.glob(pattern)), pattern


def test_the_committed_certificate_is_current() -> None:
    """`make certify` is the last thing before a commit that touches the harness."""
    assert certificate_problem(certificate.CERTIFICATE) == ""
