"""Every command of the README's chapter on making videos, run as written on the tiny checkpoint; its output decoded."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
import pytest

from ltx_native.checkpoint import Checkpoint
from ltx_native.cli import join_text, main, parser, request_of
from ltx_native.files import read_header
from ltx_native.media import read_audio, video_metadata
from ltx_native.models import COMPONENTS, Models
from ltx_native.request import MODES, PIPELINES, Request
from tests.native.mode_files import CLIP_FRAMES, CLIP_RATE, write_mode_files

README = Path(__file__).resolve().parents[2] / "README.md"
#: What makes the README's commands short work: a small picture, few steps, blocks that the tiny model has.
SMALL = ["-W", "64", "-H", "64", "--steps", "1", "--stg-blocks", "1", "--audio-stg-blocks", "1", "--engine", "native"]


def lines(verb: str) -> list[str]:
    """The README's commands of one verb."""
    chapter = README.read_text().split("## Make a video")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", chapter, flags=re.DOTALL)
    return [line for line in block.splitlines() if line.startswith(f"ltx-native {verb} ")]


def output_of(line: str) -> str:
    return re.findall(r"(\w+)\.mp4$", line)[0]


def parsed(words: list[str]) -> Request:
    return request_of(parser().parse_args(join_text(words)))


def ltx_native(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ltx_native.cli", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env={**os.environ})


@pytest.fixture(scope="module")
def files(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mode_files(tmp_path_factory.mktemp("readme"), tiny)


def test_the_chapter_has_a_command_for_every_mode_and_pipeline() -> None:
    requests = [parsed(shlex.split(line)[1:]) for line in lines("generate")]
    assert {request.effective_mode for request in requests} == set(MODES)
    assert {request.effective_pipeline for request in requests} == set(PIPELINES)
    assert {request.extend_direction for request in requests} >= {None, "before"}
    assert len({output_of(line) for line in lines("generate")}) == len(requests)


@pytest.mark.parametrize("line", lines("generate"), ids=output_of)
def test_the_command_makes_the_video_that_it_promises(line: str, files: Path, tmp_path: Path) -> None:
    words = shlex.split(line)[1:]
    request = parsed([*words, *SMALL])
    size = ["-W", "128", "-H", "64"] if request.two_stage else []
    length = [] if any(anchor.frame > 24 for anchor in request.anchors) else ["-f", "25"]  # else the default's 97 frames
    out = tmp_path / "out.mp4"
    small = [*words, *SMALL, *size, *length]
    done = ltx_native([*small, "--output", str(out)], files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{out}: made by native")
    assert "Traceback" not in done.stderr
    asked = parsed(small).resolved()
    frames, rate, width = asked.num_frames, asked.frame_rate, 128 if request.two_stage else 64
    if request.source_video_path:
        frames, rate = CLIP_FRAMES + 8 * (request.extend_frames or 0), CLIP_RATE
    check_video(out, frames, rate, (width, 64))
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def check_video(path: Path, frames: int, rate: float, size: tuple[int, int]) -> None:
    """Decode every frame and all of the sound."""
    found = video_metadata(path)
    assert (found.width, found.height, found.frame_rate) == (*size, rate)
    with av.open(str(path)) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert len(times) == frames
    assert np.allclose(np.diff(times), 1 / rate, atol=1e-3)
    assert abs(times[-1] + 1 / rate - frames / rate) < 1 / rate
    sound = read_audio(path)
    assert sound is not None
    assert (sound.waveform.shape[0], sound.sampling_rate) == (2, 48000)
    assert np.abs(sound.waveform).max() > 1e-4
    print(f"{frames} frames, {frames / rate:.3f} s; sound {sound.duration:.3f} s")
    assert abs(sound.duration - frames / rate) < 1 / rate


def test_the_conversion_writes_a_folder_that_makes_a_video(files: Path, tmp_path: Path) -> None:
    (line,) = lines("convert")
    words = shlex.split(line.replace("FOLDER", str(tmp_path / "FOLDER")))[1:]
    done = ltx_native(words, files)
    assert done.returncode == 0, done.stderr
    assert f"-> {tmp_path / 'FOLDER'}: " in done.stdout
    assert Checkpoint.open(tmp_path / "FOLDER").layout == "split"
    out = tmp_path / "out.mp4"
    words = ["generate", "-p", "a fox", "-m", str(tmp_path / "FOLDER"), "--gemma", "GEMMA", "-f", "17", "-o", str(out)]
    done = ltx_native([*words, *SMALL, "-W", "128", "--pipeline", "two-stage"], files)
    assert done.returncode == 0, done.stderr
    check_video(out, 17, 24.0, (128, 64))


@pytest.mark.parametrize("dtype", ["bfloat16", "q8", "q4"])
def test_a_conversion_says_what_became_of_every_key(
    dtype: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / dtype
    upsampler = files / "ltx-2.3-spatial-upscaler-x2.safetensors"
    words = ["convert", str(files / "official.safetensors"), str(out), "--dtype", dtype, "--group-size", "32", "--verbose"]
    assert main([*words, "--upsampler", str(upsampler)]) == 0
    *told, summary = capsys.readouterr().out.splitlines()
    keys = [*read_header(files / "official.safetensors").shapes]
    keys += [f"{upsampler.stem}: {key}" for key in read_header(upsampler).shapes]
    assert sorted(line.split(" -> ")[0] for line in told) == sorted(keys)
    assert all(" -> nothing" not in line for line in told)
    assert summary.startswith(f"{len(keys)} keys -> {out}: ")
    checkpoint = Checkpoint.open(out, files / "GEMMA")
    models = Models(checkpoint, mx.bfloat16)
    for component in COMPONENTS:
        with models.use(component):
            pass
