"""The runner on toy engines: stops early, resumes, and is not fooled by what an engine throws."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from parity.fidelity_gate import Pilot, plan
from parity.fidelity_run import run_fidelity, run_suite
from parity.fidelity_store import Side
from parity.gate import Judgement

sys.path.insert(0, str(Path(__file__).parent))
import toy_engines
from score_parts import pair
from toy_engines import engine, toy_policy, toy_run


def test_equal_engines_pass_early(tmp_path: Path) -> None:
    result = run_fidelity(toy_run(tmp_path), {})
    assert result.judgement == Judgement("pass")
    assert result.evidence["seen"] < 40
    assert result.ladder["shuffled-prompts"]["verdict"] == "fail"
    assert result.ladder["none"]["clip_score"] > result.ladder["shuffled-prompts"]["clip_score"] + 10


def test_a_drifting_engine_fails_early(tmp_path: Path) -> None:
    result = run_fidelity(toy_run(tmp_path, engine(drift=0.3, tag="n")), {})
    assert result.judgement.verdict == "fail"
    assert result.judgement.reasons[0].startswith("clip_score")
    assert result.evidence["seen"] < 30


def test_without_a_ladder_there_is_no_pass(tmp_path: Path) -> None:
    result = run_fidelity(toy_run(tmp_path))
    assert result.judgement.verdict == "inconclusive"
    assert "no ladder" in result.judgement.reasons[-1]
    assert result.evidence["within_scope"] == "pass"


def test_a_short_form_is_inconclusive(tmp_path: Path) -> None:
    result = run_fidelity(toy_run(tmp_path), {}, limit=12)
    assert result.judgement.verdict == "inconclusive"
    assert "short form: 12 of 40" in result.judgement.reasons[0]


def test_an_engine_that_throws_fails(tmp_path: Path) -> None:
    good = engine(tag="n")

    def moody(prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if seed == 10:
            raise MemoryError("no room")
        return good(prompt, seed)

    result = run_fidelity(toy_run(tmp_path, moody), {})
    assert result.judgement.verdict == "fail"
    assert "MemoryError: no room" in result.judgement.reasons[0]
    assert result.evidence["seen"] == 11


def test_a_ladder_that_sees_nothing_stops_the_run(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    policy = replace(run.policy, ladder=replace(run.policy.ladder, severe=("none",)))
    result = run_fidelity(replace(run, policy=policy), {})
    assert result.judgement.verdict == "inconclusive"
    assert "severe rung none came out as pass" in result.judgement.reasons[0]
    assert result.evidence["seen"] == 0


def test_a_rung_that_cannot_be_generated_shows_nothing(tmp_path: Path) -> None:
    """An exception is a fail for the native engine, but no evidence that the gate sees damage."""

    def broken(prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        raise RuntimeError("rung changed no layer")

    run = toy_run(tmp_path)
    policy = replace(run.policy, ladder=replace(run.policy.ladder, severe=("shuffled-prompts", "q4")))
    result = run_fidelity(replace(run, policy=policy), {"q4": Side("native", "toy-q4", broken)})
    assert result.judgement.verdict == "inconclusive"
    assert "severe rung q4 came out as not generated" in result.judgement.reasons[0]


def test_stored_videos_are_not_made_again(tmp_path: Path) -> None:
    first = run_fidelity(toy_run(tmp_path), {})

    def never(prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("generated again")

    again = run_fidelity(toy_run(tmp_path, never), {})
    assert again.as_dict() == first.as_dict()


def test_a_damaged_video_is_made_again(tmp_path: Path) -> None:
    first = run_fidelity(toy_run(tmp_path), {})
    video = sorted(tmp_path.glob("native-*/p003*.safetensors"))[0]
    video.write_bytes(video.read_bytes()[:200])
    video.with_suffix(".json").write_text("{")
    assert run_fidelity(toy_run(tmp_path), {}).as_dict() == first.as_dict()


def test_another_fingerprint_is_another_video(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    item = run.suite.items[0]
    one = run.store.scores(run.native, item, "x", run.embedder)
    changed = Side("native", "toy-native-v2", engine(drift=1.0, tag="n"))
    assert run.store.scores(changed, item, "x", run.embedder).clip_score < one.clip_score - 5
    assert run.store.scores(run.native, item, "x", run.embedder) == one


def test_order_of_judging_is_the_frozen_order(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    made = plan([pair(i) for i in range(12)], toy_policy())
    assert isinstance(made, Pilot)
    _, _, pairs = run_suite(run, run.native, run.suite.items, made)
    assert [p.prompt_id for p in pairs] == [i.id for i in run.suite.items[: len(pairs)]]


def test_kill_9_loses_at_most_the_videos_in_flight(tmp_path: Path) -> None:
    """Killed twice in the middle, then resumed: same verdict to the last digit, at most one video per side and kill lost."""
    script = Path(toy_engines.__file__)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(name: str, delay: str) -> subprocess.Popen[bytes]:
        arguments = [str(tmp_path / name), str(tmp_path / f"{name}.log"), str(tmp_path / f"{name}.out"), delay]
        return subprocess.Popen([sys.executable, str(script), *arguments], env=environment)

    def made(name: str) -> list[str]:
        log = tmp_path / f"{name}.log"
        return log.read_text().splitlines() if log.exists() else []

    assert start("whole", "0").wait(timeout=120) == 0
    for wanted in (15, 40):
        process = start("killed", "0.05")
        deadline = time.monotonic() + 60
        while len(made("killed")) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed.out").exists()
    assert start("killed", "0").wait(timeout=120) == 0
    assert (tmp_path / "killed.out").read_text() == (tmp_path / "whole.out").read_text()
    lost = len(made("killed")) - len(set(made("killed")))
    assert lost <= 4, f"{lost} videos made twice after two kills with two sides"
    assert set(made("killed")) == set(made("whole"))
    assert not list((tmp_path / "killed").glob("*/*.partial*"))
