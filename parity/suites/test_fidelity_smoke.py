"""The prompt-fidelity gate in its short form: native MLX against the official code on the world's trained checkpoint.

12 prompts, few steps: it can show that native follows prompts like the reference and that the gate sees damage; it cannot pass
dispatch. The long form is `parity fidelity`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import ltx_native  # noqa: F401  loads OpenBLAS ahead of MLX
from parity.capture.reference import ReferenceUnavailable, reference_python
from parity.capture.sides import ReferenceServer, native_side
from parity.checkpoints import named
from parity.fidelity_command import WORLD, both_sides
from parity.fidelity_policy import read_policy
from parity.fidelity_run import FidelityResult, Run, run_fidelity
from parity.fidelity_store import Store
from parity.fidelity_world import CASE, reading

pytestmark = [pytest.mark.fidelity, pytest.mark.xdist_group("fidelity")]

PROMPTS = 12
SHORT = replace(CASE, steps=8)
SEVERE = ("shuffled-prompts", "one-step", "rope-interleaved")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, FidelityResult]]:
    try:
        reference_python()
        checkpoint = named(WORLD)
    except (ReferenceUnavailable, FileNotFoundError) as error:
        pytest.fail(f"inconclusive: nothing was compared: {error}", pytrace=False)
    policy = read_policy()
    ladder = replace(policy.ladder, videos=4, severe=SEVERE, order=("none", "one-step"))
    policy = replace(policy, pilot_videos=6, ladder=ladder)
    rungs = {name: native_side(checkpoint, SHORT, "float32", name) for name in SEVERE}
    with ReferenceServer(checkpoint, SHORT) as server:
        run = both_sides(server, "float32", policy, Store(tmp_path_factory.mktemp("fidelity")))
        yield run, run_fidelity(run, rungs, limit=PROMPTS)


def test_native_follows_prompts_like_the_reference(finished: tuple[Run, FidelityResult]) -> None:
    _, result = finished
    assert result.evidence.get("within_scope") == "pass", result.judgement.reasons
    assert result.judgement.verdict == "inconclusive", "a short form must not pass for the whole suite"
    assert f"short form: {PROMPTS} of 100" in " ".join(result.judgement.reasons)


def test_the_gate_sees_damage(finished: tuple[Run, FidelityResult]) -> None:
    _, result = finished
    for name in SEVERE:
        assert result.ladder[name]["verdict"] == "fail", result.ladder[name]
    assert result.ladder["none"]["verdict"] == "pass", result.ladder["none"]
    assert result.ladder["shuffled-prompts"]["clip_score"] < result.ladder["none"]["clip_score"] - 5


def test_videos_show_what_was_asked(finished: tuple[Run, FidelityResult]) -> None:
    """By the world's CLIP among 16 captions, and by the pixel oracle, which has no learned part."""
    run, result = finished
    scores = [pair.native for pair in result.pairs if pair.native is not None]
    assert len(scores) == PROMPTS
    first = sum(score.first for score in scores)
    items = run.suite.items[:PROMPTS]
    right = sum(reading(item, run.store.video(run.native, item).frames)["right"] for item in items)
    print(f"R-precision {first}/{PROMPTS}, oracle {right}/{PROMPTS}")
    assert first >= 0.8 * PROMPTS
    assert right >= 0.8 * PROMPTS


def test_same_noise_gives_the_same_video(finished: tuple[Run, FidelityResult]) -> None:
    """In float32 both engines make nearly the same frames: what the scores compare is one and the same video twice."""
    run, _ = finished
    item = run.suite.items[0]
    native, reference = (run.store.video(side, item) for side in (run.native, run.reference))
    assert native.frames.shape == reference.frames.shape == (9, 64, 64, 3)
    difference = abs(native.frames.astype(int) - reference.frames.astype(int))
    assert difference.mean() < 1.0
    assert abs(native.waveform - reference.waveform).max() < 1e-2
