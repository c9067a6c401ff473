"""Extend, before and after, with and without sound: every site against official code, the definition, and ltx-2-mlx's draws.

The official packages have no such pipeline; `extend_worker` makes one of their retake.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx_native.media import read_frames, write_video
from ltx_native.models import Models
from ltx_native.pipelines.extend import extend
from parity.capture.native import request_of
from parity.capture.reference import Checkpoint, ReferenceCache, ReferenceUnavailable, arguments_of, reference_python
from parity.cases import Case
from parity.folders import ROOT, cache_folder
from parity.plugin import Parity
from parity.results import CaseResult
from parity.session import Session
from parity.suites.inputs import Inputs, make_inputs
from parity.suites.within import assert_within_bounds
from parity.trace import Trace

WORKER = Path(__file__).with_name("extend_worker.py")
SOURCE_FRAMES, ADDED = 17, 2
TOKENS = 4  # of one latent frame at 64×64


class ExtendingReference(ReferenceCache):
    """Captures of the official retake as `extend_worker` changes it; nothing is kept between sessions."""

    def capture(self, case: Case, checkpoint: Checkpoint, sites: Sequence[str] = (), quiet: bool = True) -> tuple[Trace, Path]:
        folder = self.folder / case.name
        folder.mkdir(parents=True)
        retake = replace(case, mode="retake", start=0.0, end=0.1)
        command = [str(reference_python()), str(WORKER), str(case.extend_frames), case.direction]
        command += [
            *arguments_of(retake, checkpoint),
            f"--output={folder / 'video.mp4'}",
            f"--trace={folder / 'trace'}",
            "--quiet",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600, check=False)
        if done.returncode:
            raise ReferenceUnavailable(f"the reference stopped with status {done.returncode}: {done.stderr[-2000:]}")
        return Trace(folder / "trace"), folder / "video.mp4"


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return make_inputs(cache_folder() / "inputs")


@pytest.fixture(scope="module")
def clips(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """17 frames at 25 frames a second, with sound and without."""
    from ltx_native.media import read_audio

    folder = tmp_path_factory.mktemp("clips")
    frames = np.stack(list(read_frames(inputs.clip, count=SOURCE_FRAMES)))
    sound = read_audio(inputs.sound, max_duration=SOURCE_FRAMES / 25)
    assert sound is not None
    write_video(folder / "sound.mp4", [frames], 25.0, sound.waveform, sound.sampling_rate)
    write_video(folder / "silent.mp4", [frames], 25.0)
    return {path.stem: str(path) for path in folder.iterdir()}


def case_of(name: str, clips: dict[str, str]) -> Case:
    direction, source = name.split("-")
    return Case(
        f"extend-{name}", mode="extend", steps=2, num_frames=SOURCE_FRAMES, frame_rate=25.0, source_path=clips[source],
        extend_frames=ADDED, direction=direction,
    )  # fmt: skip


@pytest.fixture(scope="module")
def extending(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("extend")
    return Session(checkpoint, folder / "native", ExtendingReference(folder / "reference"))


@pytest.fixture(scope="module", params=["after-sound", "before-sound", "after-silent"])
def compared(request: pytest.FixtureRequest, extending: Session, clips: dict[str, str]) -> tuple[Case, CaseResult]:
    case = case_of(request.param, clips)
    return case, extending.compare(case)


def test_every_site_is_within_its_bound(compared: tuple[Case, CaseResult], parity: Parity) -> None:
    assert_within_bounds(compared[1], parity)


def test_given_frames_stay_and_new_ones_are_made(compared: tuple[Case, CaseResult], extending: Session, parity: Parity) -> None:
    """By definition: the source's latents are in the result bit for bit, none of them moved, and the rest is not noise."""
    case, _ = compared
    trace = Trace(extending.output / case.name / "native-trace")
    state = trace.site("state.video")[0].outputs["fields"]
    start, clean, mask = (trace.tensor(state[name])[0] for name in ("latent", "clean_latent", "denoise_mask"))
    final = trace.tensor(trace.site("latent.video")[-1].outputs)  # (1, F, H, W, C)
    tokens = final.reshape(-1, final.shape[-1])
    total, given = (3 + ADDED) * TOKENS, 3 * TOKENS
    assert tokens.shape[0] == total
    kept = slice(total - given, total) if case.direction == "before" else slice(0, given)
    new = slice(0, total - given) if case.direction == "before" else slice(given, total)
    encoded = trace.tensor(trace.site("video_encoder")[0].outputs).reshape(-1, final.shape[-1])
    parity.count(1)
    assert np.array_equal(clean[kept], encoded)
    assert np.array_equal(tokens[kept], encoded), f"largest change {np.abs(tokens[kept] - encoded).max():.3g}"
    assert (mask[kept] == 0).all()
    assert (mask[new] == 1).all()
    assert np.abs(tokens[new] - start[new]).min() > 0
    assert np.corrcoef(tokens[new].ravel(), start[new].ravel())[0, 1] < 0.9


def test_draws_are_those_of_ltx_2_mlx(checkpoint: Checkpoint, extending: Session, clips: dict[str, str]) -> None:
    """One draw over all frames, given and new, from the seed; one for the sound from the seed after it."""
    case = case_of("before-sound", clips)
    models = Models(extending.native_checkpoint(), mx.float32)
    state = next(stage for stage in extend(models, request_of(case)) if stage.name == "state").tensors
    for modality, seed in (("video", case.seed), ("audio", case.seed + 1)):
        latent, mask = state[f"{modality}.latent"], state[f"{modality}.denoise_mask"]
        key = mx.random.split(mx.random.key(seed))[1]
        drawn = mx.random.normal(latent.shape, key=key).astype(mx.bfloat16).astype(mx.float32)
        expected = mx.where(mask > 0, drawn, state[f"{modality}.clean_latent"])
        assert mx.array_equal(latent, expected), modality
    assert state["video.latent"].shape[1] == (3 + ADDED) * TOKENS
    assert state["audio.latent"].shape[1] == round((SOURCE_FRAMES + 8 * ADDED) / 25 * 25)
