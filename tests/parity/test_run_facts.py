"""The engine that a page says is in force is the one dispatch would choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltx_native import verdict as verdicts
from parity.gate import Judgement, write_verdict
from parity.run_facts import abilities, engine_now

PASS, FAIL = Judgement("pass"), Judgement("fail", ("block 1 is off",))


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The verdict that dispatch reads."""
    path = tmp_path / "read" / "verdict.json"
    monkeypatch.setenv("LTX_PARITY_VERDICT", str(path))
    return path


def written(path: Path, judgement: Judgement) -> None:
    path.parent.mkdir(parents=True)
    (path.parent / "results.json").write_text("{}")
    evidence = {
        "results": {"path": "results.json", "sha256": verdicts.file_sha256(path.parent / "results.json")},
        "sites_compared": 3,
    }
    write_verdict(path, judgement, verdicts.current_fingerprints("c" * 64), evidence, None)


def test_the_verdict_that_dispatch_reads_decides(read: Path) -> None:
    assert engine_now(read, PASS, {})["engine"] == "native"
    found = engine_now(read, FAIL, {})
    assert found["engine"] == "bridge"
    assert found["reason"].endswith("it is fail")


def test_a_run_beside_it_puts_nothing_in_force(read: Path, tmp_path: Path) -> None:
    elsewhere, now = tmp_path / "run" / "verdict.json", verdicts.current_fingerprints("c" * 64)
    found = engine_now(elsewhere, PASS, now)
    assert found["engine"] == "bridge"
    assert "parity gate --promote" in found["reason"]
    written(read, PASS)
    assert engine_now(elsewhere, FAIL, now)["engine"] == "native", "a failing trial does not take the engine out of force"
    found = engine_now(elsewhere, PASS, now | {"native_code": "0" * 64})
    assert found["engine"] == "bridge"
    assert "the native code changed since the verdict" in found["reason"]
    assert str(tmp_path) not in json.dumps(found), "results are committed: they name no folder of a machine"


def test_every_ability_is_covered_by_something() -> None:
    rows = abilities()
    assert {row["code"] for row in rows} == set("MKECWTSNBFLPRJXAGDVOQY")
    assert all(row["by"] for row in rows), [row["code"] for row in rows if not row["by"]]
