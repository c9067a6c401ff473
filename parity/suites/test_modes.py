"""Every mode the official packages have, float32: sites on the reference's inputs, and the end of the run."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ltx_native.request import Request
from parity.capture.reference import reference_python
from parity.cases import Case, Image
from parity.folders import cache_folder
from parity.plugin import Parity
from parity.results import CaseResult
from parity.session import Session
from parity.suites.inputs import Inputs, make_inputs

BASE = Case("base", steps=2)


def cases(inputs: Inputs) -> dict[str, Case]:
    """One case per mode, the conditioned ones with what makes them differ from text to video."""
    anchors = (Image(inputs.first_image, 0, 1.0), Image(inputs.second_image, 8, 0.6, crf=30))
    loras = ((inputs.lora, 0.8), (inputs.other_lora, 0.3))
    retake = replace(BASE, mode="retake", source_path=inputs.clip, start=0.4, end=0.8, num_frames=25)
    # Larger than a tile of the decoder (512 pixels, 64 frames): the official one-stage pipeline cuts nothing there.
    large = replace(BASE, width=640, height=64)
    made = {
        "i2v": replace(BASE, images=anchors, frame_rate=25.0, num_frames=17),
        "lora": replace(BASE, loras=loras),
        "distilled": replace(BASE, mode="distilled"),
        "two-stage": replace(BASE, mode="two-stage", distilled_loras=((inputs.lora, 0.5),)),
        "two-stage-hq": replace(BASE, mode="two-stage-hq", distilled_loras=((inputs.lora, 0.5),)),
        "a2v": replace(BASE, mode="a2v", audio_path=inputs.sound, distilled_loras=((inputs.lora, 0.5),)),
        "keyframe": replace(BASE, mode="keyframe", images=anchors, distilled_loras=((inputs.lora, 0.5),)),
        "retake": retake,
        "retake-keeps-sound": replace(retake, keep_audio=True),
        "ic-lora": replace(BASE, mode="ic-lora", source_path=inputs.clip, loras=((inputs.lora, 1.0),)),
        "one-stage-uncut": replace(large, steps=1),
        "distilled-tiled": replace(large, mode="distilled", num_frames=73),
    }
    return {name: replace(case, name=name) for name, case in made.items()}


NAMES = (
    "i2v", "lora", "distilled", "two-stage", "two-stage-hq", "a2v", "keyframe", "retake", "retake-keeps-sound", "ic-lora",
    "one-stage-uncut", "distilled-tiled",
)  # fmt: skip


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    return make_inputs(cache_folder() / "inputs")


@pytest.fixture(scope="module", params=NAMES)
def result(
    request: pytest.FixtureRequest, session: Session, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory
) -> CaseResult:
    case = cases(inputs)[request.param]
    wanted = request.config.getoption("--parity-modes")
    if wanted and request.param not in wanted.split(","):
        pytest.skip(f"mode {request.param} is not among --parity-modes={wanted}")
    if request.config.getoption("--parity-dtype") == "bfloat16":
        pytest.skip("--parity-dtype=bfloat16 leaves the float32 comparison out")
    return session.compare(case)


def test_every_site_is_within_its_bound(result: CaseResult, parity: Parity) -> None:
    assert not result.problem
    assert result.coverage is not None
    parity.count(len(result.rows))
    print(result.coverage.sentence())
    assert result.coverage.complete, (result.coverage.unmatched_reference[:5], result.coverage.unmatched_native[:5])
    assert result.finding is None, result.finding
    assert not result.failed
    local = [(row.local.rel_l2, row) for row in result.rows if row.local is not None]
    worst, row = max(local, key=lambda item: item[0])
    print(f"{len(local)} outputs replayed, worst local rel_l2 {worst:.3g} at {row.key}")


def test_the_end_of_the_run_agrees(result: CaseResult, parity: Parity) -> None:
    assert result.end_to_end
    parity.count(len(result.end_to_end))
    for item in result.end_to_end:
        print(f"{item.name} {item.metric} {item.value:.3g} (bound {item.bound:.3g})")
        assert item.passed, item


def test_inputs_are_written_once(inputs: Inputs) -> None:
    assert all(Path(path).is_file() for path in vars(inputs).values())


def test_the_default_negative_prompt_is_the_official_one(parity: Parity) -> None:
    code = "from ltx_pipelines.utils.constants import DEFAULT_NEGATIVE_PROMPT as text; print(text, end='')"
    done = subprocess.run([str(reference_python()), "-c", code], capture_output=True, text=True, timeout=300, check=True)
    parity.count(1)
    assert Request("a").resolved().negative_prompt == done.stdout
