"""Sealed results and what a verdict makes of them; the policy and the suites, complete or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ltx_native.errors import ConfigError
from parity.fidelity_evidence import read_result, write_result
from parity.fidelity_policy import POLICY, read_policy
from parity.fidelity_suite import read_suite
from parity.fidelity_world import world_suite
from parity.gate import Judgement

sys.path.insert(0, str(Path(__file__).parent))
from score_parts import POLICY_NOW


def test_a_result_is_believed_only_as_written(tmp_path: Path) -> None:
    path = tmp_path / "fidelity.json"
    made_with = {"native": "n1", "policy": "p1"}
    assert read_result(path, made_with).verdict == "inconclusive"
    write_result(path, {"verdict": "pass", "reasons": [], "fingerprints": made_with, "metrics": {}})
    assert read_result(path, made_with) == Judgement("pass")
    stale = read_result(path, {**made_with, "native": "n2"})
    assert stale.verdict == "inconclusive"
    assert "another native" in stale.reasons[0]
    path.write_text(path.read_text().replace('"reasons": []', '"reasons": ["x"]'))
    assert "altered" in read_result(path, made_with).reasons[0]
    path.write_text("[]")
    assert read_result(path, made_with).verdict == "inconclusive"
    write_result(path, {"verdict": "fail", "reasons": ["worse"], "fingerprints": made_with})
    assert read_result(path, made_with) == Judgement("fail", ("fidelity: worse",))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin_points = 0.5", "margin_point = 0.5", "clip_score"),
        ("alpha = 0.05", "alpha = 0.5", "alpha"),
        ("min_frames = 8", 'min_frames = "8"', "smoke.min_frames"),
        ("[fidelity.ladder]", "[fidelity.stairs]", "ladder"),
        ("[fidelity]", "[", "readable TOML"),
    ],
)
def test_a_damaged_policy_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = POLICY.read_text()
    assert old in text
    (tmp_path / "policy.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        read_policy(tmp_path / "policy.toml")


def test_the_worlds_suite_is_whole() -> None:
    suite = world_suite()
    assert len(suite.items) == POLICY_NOW.suite_size
    assert len(suite.pilot) >= POLICY_NOW.pilot_videos
    assert not {i.prompt for i in suite.items} & {i.prompt for i in suite.pilot}
    for item in suite.items + suite.pilot:
        assert {"shape", "colour", "motion", "background"} <= {attribute for attribute, _ in item.hard_negatives}
        assert suite.control(item) != item.prompt


def test_suite_files(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "one", "seed": 1, "hard_negatives": [{"attribute": "n", "prompt": "two"}]}
    good = {"schema": 1, "name": "x", "attributes": ["n"], "prompts": [row, {**row, "id": "b", "prompt": "two words"}]}
    good["pilot"] = [{**row, "id": "c", "prompt": "three"}, {**row, "id": "d", "prompt": "four"}]
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(good))
    assert [item.id for item in read_suite(path).items] == ["a", "b"]
    for damage in (
        {"pilot": [row]},
        {"prompts": [row, row]},
        {"attributes": ["n", "m"]},
        {"schema": 2},
        {"prompts": [{**row, "id": "../x"}, row]},
    ):
        path.write_text(json.dumps({**good, **damage}))
        with pytest.raises(ConfigError):
            read_suite(path)
