"""Promotion, history, badge, and whether a verdict still holds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import synthetic

from ltx_native import verdict as verdicts
from parity import gate_check
from parity.badge import badge_svg
from parity.gate import Judgement, write_verdict
from parity.history import HistoryError, load_history, promote, write_history


def run(folder: Path, created: str, failing: int = 0, **evidence: Any) -> Path:
    """A run folder with results and a sound verdict on them, for the code of now."""
    content = synthetic.results(2, 2, failing=failing, hostile=False)
    content["fidelity"] = synthetic.fidelity()
    results = synthetic.write_run(folder, content, media=False)
    judgement = Judgement(content["verdict"], tuple(content["reasons"]))
    kept = {"results": {"path": "results.json", "sha256": verdicts.file_sha256(results)}, "sites_compared": 9, **evidence}
    verdict = write_verdict(folder / "verdict.json", judgement, verdicts.current_fingerprints("c" * 64), kept, "a" * 40)
    return seal(folder, verdict | {"created": created})


def seal(folder: Path, verdict: dict[str, Any]) -> Path:
    verdict["digest"] = verdicts.digest(verdict)
    (folder / "verdict.json").write_text(json.dumps(verdict))
    return folder


def test_a_promoted_verdict_is_whole_and_in_the_history(tmp_path: Path) -> None:
    promoted = tmp_path / "promoted"
    promote(run(tmp_path / "one", "2026-01-01T10:00:00+00:00") / "verdict.json", promoted)
    promote(run(tmp_path / "two", "2026-01-02T10:00:00+00:00", failing=2) / "verdict.json", promoted)
    assert verdicts.load_verdict(promoted / "verdict.json").verdict == "fail"
    assert not verdicts._evidence_problems(verdicts.load_verdict(promoted / "verdict.json"))
    entries = load_history(promoted)
    assert [entry.verdict for entry in entries] == ["pass", "fail"]
    assert entries[0].numbers["worst_local"] < 1e-5 < entries[1].numbers["worst_local"]
    page = write_history(promoted, tmp_path / "history.html").read_text()
    assert page.count("<svg") == 3
    assert "2 promoted runs, the last is fail" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "fail" in (promoted / "badge.svg").read_text()


def test_what_is_not_sound_is_not_promoted(tmp_path: Path) -> None:
    folder, promoted = run(tmp_path / "run", "2026-01-01T10:00:00+00:00"), tmp_path / "promoted"
    content = json.loads((folder / "verdict.json").read_text())
    (folder / "verdict.json").write_text(json.dumps(content | {"verdict": "pass", "reasons": ["edited"]}))
    with pytest.raises(HistoryError, match="altered"):
        promote(folder / "verdict.json", promoted)
    with pytest.raises(HistoryError, match="no verdict"):
        promote(tmp_path / "nothing.json", promoted)
    folder = run(tmp_path / "other", "2026-01-01T10:00:00+00:00")
    (folder / "results.json").write_text((folder / "results.json").read_text() + " ")
    with pytest.raises(HistoryError, match="altered"):
        promote(folder / "verdict.json", promoted)
    assert not promoted.exists()


def test_results_below_the_verdict_keep_their_place(tmp_path: Path) -> None:
    folder = run(tmp_path / "reports", "2026-01-01T10:00:00+00:00")
    (folder / "demo").mkdir()
    (folder / "results.json").rename(folder / "demo" / "results.json")
    content = json.loads((folder / "verdict.json").read_text())
    content["evidence"]["results"]["path"] = "demo/results.json"
    promote(seal(folder, content) / "verdict.json", tmp_path / "promoted")
    found = verdicts.load_verdict(tmp_path / "promoted" / "verdict.json")
    assert verdicts.judge(found, found.fingerprints) == (True, ())
    content["evidence"]["results"]["path"] = "../results.json"
    with pytest.raises(HistoryError, match="below the verdict"):
        promote(seal(folder, content) / "verdict.json", tmp_path / "other")


def test_promoting_twice_and_broken_entries_are_refused(tmp_path: Path) -> None:
    folder, promoted = run(tmp_path / "run", "2026-01-01T10:00:00+00:00"), tmp_path / "promoted"
    entry = promote(folder / "verdict.json", promoted)
    with pytest.raises(HistoryError, match="before"):
        promote(folder / "verdict.json", promoted)
    (entry / "summary.json").write_text("{")
    with pytest.raises(HistoryError, match=entry.name):
        load_history(promoted)
    shutil.rmtree(promoted)
    with pytest.raises(HistoryError, match="no promoted run"):
        write_history(promoted, tmp_path / "history.html")


def test_a_verdict_holds_for_the_code_it_was_given_on(tmp_path: Path) -> None:
    folder = run(tmp_path, "2026-01-01T10:00:00+00:00", files=gate_check.code_files())
    found = gate_check.check(folder / "verdict.json")
    assert found.holds, found.lines()
    assert found.exit_status == 0
    assert gate_check.check(folder / "verdict.json", checkpoint="d" * 64).holds is False


def test_changed_files_are_listed(tmp_path: Path) -> None:
    files = gate_check.code_files()
    edited, removed = sorted(files)[3], "ltx_native/gone.py"
    missing = sorted(files)[5]
    then = {name: sha for name, sha in files.items() if name != missing} | {edited: "0" * 64, removed: "1" * 64}
    folder = run(tmp_path, "2026-01-01T10:00:00+00:00", files=then)
    content = json.loads((folder / "verdict.json").read_text())
    content["fingerprints"]["native_code"] = "0" * 64
    seal(folder, content)
    found = gate_check.check(folder / "verdict.json")
    assert not found.holds
    assert found.exit_status == 1
    assert set(found.changed) == {f"{edited} (edited)", f"{missing} (new)", f"{removed} (removed)"}
    assert any("native code changed" in line for line in found.lines())
    assert found.lines()[-1].startswith("next: ")


def test_without_a_file_list_the_commit_tells_or_the_check_says_why_not(tmp_path: Path) -> None:
    folder = run(tmp_path, "2026-01-01T10:00:00+00:00")
    content = json.loads((folder / "verdict.json").read_text())
    content["fingerprints"]["native_code"] = "0" * 64
    found = gate_check.check(seal(folder, content) / "verdict.json")
    assert not found.holds
    assert found.changed or found.unknown


def test_a_missing_or_failing_verdict_does_not_hold(tmp_path: Path) -> None:
    assert gate_check.check(tmp_path / "none.json").exit_status == 3
    failing = run(tmp_path, "2026-01-01T10:00:00+00:00", failing=2)
    assert gate_check.check(failing / "verdict.json").exit_status == 1


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive", 'odd "<x>&'])
def test_the_badge_is_an_svg_that_says_the_verdict(verdict: str) -> None:
    root = ElementTree.fromstring(badge_svg(verdict))
    assert root.get("aria-label") == f"parity: {verdict}"
    assert any(verdict in (node.text or "") for node in root.iter())


def test_what_is_written_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    """Results and pages are read by others: by a web server, by CI's upload."""
    mask = os.umask(0o022)
    try:
        folder = run(tmp_path / "run", "2026-01-01T10:00:00+00:00")
        promote(folder / "verdict.json", tmp_path / "promoted")
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o644" for path in files}
    finally:
        os.umask(mask)


def test_the_gate_of_a_repository_whose_native_code_changed(tmp_path: Path) -> None:
    """A copy of the repository, promoted, held to its code by the command that CI runs, then edited."""
    copy = tmp_path / "repository"
    skip = shutil.ignore_patterns("__pycache__", "*.safetensors", "checkpoint", "clip", "faults", "suites")
    for package in ("ltx_native", "parity", "reference_bridge"):
        shutil.copytree(gate_check.verdicts.ROOT / package, copy / package, ignore=skip)
    folder = run(tmp_path / "run", "2026-01-01T10:00:00+00:00", files=gate_check.code_files())
    promote(folder / "verdict.json", copy / "reports" / "promoted")
    environment = {**os.environ, "PYTHONPATH": str(copy), "LTX_PARITY_VERDICT": ""}

    def gate(*options: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "parity.cli", "gate", "--check", *options]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout

    status, told = gate()
    assert status == 0, told
    assert "pass, and nothing changed since" in told
    edited = copy / "ltx_native" / "sampler.py"
    edited.write_text(edited.read_text() + "\n# another line\n")
    (copy / "ltx_native" / "shortcut.py").write_text("")
    (copy / "ltx_native" / "lora.py").unlink()
    status, told = gate()
    assert status == 1
    for line in ("ltx_native/sampler.py (edited)", "ltx_native/shortcut.py (new)", "ltx_native/lora.py (removed)"):
        assert f"  {line}\n" in told
    assert told.count("ltx_native/") == 3, "nothing else is blamed"
    status, told = gate("--json")
    assert status == 1
    assert len(json.loads(told)["changed"]) == 3
