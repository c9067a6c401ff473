"""The stand-in with the real official pipeline on the tiny checkpoint behind it: bridge, CLI surface and model in one run.

Every mode with every version. Where two of them amount to the same official command, its video is made once and kept for the
session; LTX_BRIDGE_MATRIX=fresh makes it every time (minutes).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from cli_matrix import EVERY, REFUSED, fields_of

from reference_bridge.engine import BridgeEngine
from reference_bridge.environment import OFFICIAL_HINT, ROOT, find_official_python
from reference_bridge.errors import UnsupportedMode
from reference_bridge.job import Job


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What makes the stand-in call the official code. Without it nothing here is shown, so its absence is a failure."""
    from parity.checkpoints import tiny
    from parity.world.random_checkpoint import write_lora

    python = find_official_python(os.environ)
    if python is None:
        pytest.fail(f"the official code is not set up, so the bridge has no real pipeline behind it. {OFFICIAL_HINT}")
    found = tiny()
    lora = write_lora(tmp_path_factory.mktemp("lora") / "distilled-lora.safetensors")
    variables = {
        "STANDIN_OFFICIAL": str(python), "STANDIN_MODEL": str(found.model), "STANDIN_GEMMA": str(found.gemma),
        "STANDIN_UPSAMPLER": str(found.upsampler), "STANDIN_DISTILLED_LORA": str(lora), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if os.environ.get("LTX_BRIDGE_MATRIX") != "fresh":
        # Workers of one session share it: their temporary folders lie side by side.
        base = tmp_path_factory.getbasetemp()
        kept = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "official-videos"
        kept.mkdir(exist_ok=True)
        variables["STANDIN_KEPT"] = str(kept)
    return variables


@pytest.mark.parametrize(("mode", "version"), EVERY)
def test_the_official_video_or_the_documented_error_comes_through_the_bridge(
    mode: str, version: str, weights: dict[str, str], environment: Callable[..., dict[str, str]], job: Callable[..., Job],
    inputs: dict[str, Any], tmp_path: Path,
) -> None:  # fmt: skip
    engine = BridgeEngine(environment(version, **weights))
    asked = job(**fields_of(mode, inputs))
    if (mode, version) in REFUSED:
        with pytest.raises(UnsupportedMode, match=REFUSED[mode, version]):
            engine.generate_video(asked)
        return
    engine.generate_video(asked)
    with av.open(str(tmp_path / "out.mp4")) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        codec = file.streams.video[0].codec_context.name
    assert len(frames) == (17 if mode in ("extend", "retake") else 9)
    assert frames[0].shape == (64, 64, 3)
    if mode != "extend":  # the official code has no such pipeline; the stand-in draws that one itself
        assert codec == "h264"
        assert float(frames[0].std()) > 1.0  # a decoder's picture, not the stand-in's flat colour


def test_the_official_adapter_is_a_bridge_itself(weights: dict[str, str], job: Callable[..., Job], tmp_path: Path) -> None:
    python = weights["STANDIN_OFFICIAL"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LTX_BRIDGE": "official", "LTX_REFERENCE_PYTHON": python}
    asked = job(
        prompt="--a cat", model=weights["STANDIN_MODEL"], gemma=weights["STANDIN_GEMMA"], stg_blocks=(1,), audio_stg_blocks=(1,)
    )
    result = BridgeEngine({**env, "OMP_NUM_THREADS": "1"}).generate_video(asked)
    assert result.model_used == f"external:{weights['STANDIN_MODEL']}"
    with av.open(result.video_path) as file:
        assert sum(1 for _ in file.decode(video=0)) == 9


def test_without_the_official_code_these_tests_fail_in_words() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "t2v-0.14.19"]
    env = {**os.environ, "LTX_REFERENCE_PYTHON": "/nowhere/python"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the official code is not set up" in done.stdout
    assert "make reference" in done.stdout
    assert "1 error" in done.stdout
