"""Sealed results and what a verdict makes of them; the policy and the suites, complete or refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ltx_native.errors import ConfigError
from parity.capture.degrade import RUNGS
from parity.checkpoints import WORLD, named, tiny
from parity.fidelity_evidence import evidence_for, promote, read_result, write_result
from parity.fidelity_policy import POLICY, read_policy
from parity.fidelity_shown import Shown, show_prompts
from parity.fidelity_suite import read_suite
from parity.fidelity_world import world_suite
from parity.gate import Judgement

sys.path.insert(0, str(Path(__file__).parent))
from score_parts import POLICY_NOW, scores
from toy_engines import engine, toy_run


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


NOW = {"native_code": "n", "checkpoint": "c", "policy": "p"}


def written(path: Path, verdict: str = "pass", **changes: object) -> Path:
    asked = {"suite": "world", "dtype": "bfloat16"}
    content = {"verdict": verdict, "reasons": [], "fingerprints": NOW, "seen": 52, "size": 100, "settings": asked, **changes}
    write_result(path, content)
    return path


def test_a_trained_checkpoint_needs_a_current_result(tmp_path: Path) -> None:
    model, nothing = named(WORLD).model, tmp_path / "none.json"
    found = evidence_for(model, NOW, POLICY_NOW, [nothing])
    assert found.judgement.verdict == "inconclusive"
    assert "next: parity fidelity" in found.judgement.reasons[0]
    here, elsewhere = written(tmp_path / "fidelity.json"), written(tmp_path / "promoted.json")
    found = evidence_for(model, NOW, POLICY_NOW, [nothing, here])
    assert found.judgement == Judgement("pass")
    assert found.rests_on == ("prompt fidelity pass after 52 of 100 prompts of suite world, native in bfloat16",)
    assert found.source["name"] == "fidelity.json"
    # This machine's own run comes first, a stale one makes way for the committed one, and stale is never believed.
    written(here, "fail", reasons=["worse"])
    assert evidence_for(model, NOW, POLICY_NOW, [here, elsewhere]).judgement == Judgement("fail", ("fidelity: worse",))
    written(here, fingerprints={**NOW, "native_code": "another"})
    assert evidence_for(model, NOW, POLICY_NOW, [here, elsewhere]).judgement == Judgement("pass")
    stale = evidence_for(model, NOW, POLICY_NOW, [here, nothing])
    assert "stale: another native_code" in stale.judgement.reasons[0]


def test_what_the_policy_asks_for(tmp_path: Path) -> None:
    """Drawn weights are known by their numbers, not by name or place; the policy may ask for more or for nothing."""
    drawn, trained, nowhere = tiny().model, named(WORLD).model, [tmp_path / "none.json"]
    asked = {
        (needed, model): evidence_for(model, NOW, replace(POLICY_NOW, needed=needed), nowhere).judgement.verdict
        for needed in ("trained", "always", "never")
        for model in (drawn, trained)
    }
    assert {key for key, verdict in asked.items() if verdict == "pass"} == {
        ("trained", drawn),
        ("never", drawn),
        ("never", trained),
    }
    assert "drawn weights" in evidence_for(drawn, NOW, POLICY_NOW, nowhere).rests_on[0]
    assert evidence_for(tmp_path / "no-model", NOW, POLICY_NOW, nowhere).judgement.verdict == "inconclusive"


def test_promoting_keeps_the_result_as_it_was_sealed(tmp_path: Path) -> None:
    result, rows = written(tmp_path / "fidelity.json"), [{"id": "p000", "native": scores().as_dict(), "problem": ""}]
    promote(result, rows, tmp_path / "promoted" / "fidelity.json", tmp_path / "recorded.json")
    assert read_result(tmp_path / "promoted" / "fidelity.json", NOW) == Judgement("pass")
    assert json.loads((tmp_path / "recorded.json").read_text()) == json.loads(json.dumps(rows))


def test_a_handful_of_prompts_may_fail_a_verdict_and_never_pass_one(tmp_path: Path) -> None:
    nothing = evidence_for(named(WORLD).model, NOW, POLICY_NOW, [tmp_path / "none.json"])
    rows = [
        {"oracle": {s: {"right": True} for s in ("native", "reference")}, "native": {"first": 1}, "reference": {"first": 1}}
    ]
    shown = nothing.with_shown(Shown(Judgement("pass"), tuple(rows)))
    assert shown.judgement.verdict == "inconclusive"
    assert shown.content["shown"] == tuple(rows)
    assert "1 prompts made again" in shown.rests_on[-1]
    passed = evidence_for(named(WORLD).model, NOW, POLICY_NOW, [written(tmp_path / "fidelity.json")])
    assert passed.with_shown(Shown(Judgement("fail", ("p000: black",)), ())).judgement.verdict == "fail"


def test_a_frozen_video_among_the_shown_prompts_fails(tmp_path: Path) -> None:
    good = engine(tag="n")

    def frozen(prompt: str, seed: int):
        frames, sound = good(prompt, seed)
        return frames[:1].repeat(9, axis=0), sound

    def oracle(item, frames):
        return {"right": True}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parity.fidelity_shown.reading", oracle)
        patch.setattr("parity.fidelity_shown.write_video", lambda *_: None)
        shown = show_prompts(toy_run(tmp_path / "a"), 2, tmp_path, 24.0, 48000, {})
        assert shown.judgement == Judgement("pass")
        assert [row["prompt"] for row in shown.rows] == [i.prompt for i in toy_run(tmp_path / "b").suite.items[:2]]
        assert shown.rows[0]["captions"] == 3
        broken = show_prompts(toy_run(tmp_path / "c", frozen), 2, tmp_path, 24.0, 48000, {})
    assert broken.judgement.verdict == "fail"
    assert "frozen" in broken.judgement.reasons[0]


def test_every_rung_is_spoken_for_by_the_policy() -> None:
    ladder = POLICY_NOW.ladder
    assert set(ladder.needed) | set(ladder.mild) == set(RUNGS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin_points = 0.5", "margin_point = 0.5", "clip_score"),
        ("alpha = 0.05", "alpha = 0.5", "alpha"),
        ("min_frames = 8", 'min_frames = "8"', "smoke.min_frames"),
        ("[fidelity.ladder]", "[fidelity.stairs]", "ladder"),
        ("[fidelity]", "[", "readable TOML"),
        ('needed = "trained"', 'needed = "sometimes"', "fidelity.needed"),
        ('mild = ["q4-weights"', 'mild = ["one-step"', "ladder.mild"),
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
