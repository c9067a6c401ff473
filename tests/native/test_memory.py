"""Memory: one component at a time, and frames that go to the encoder as they are made, however long the clip is."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from ltx_native.checkpoint import Checkpoint
from ltx_native.media import video_metadata
from ltx_native.models import Models
from ltx_native.pipelines.select import select
from ltx_native.pipelines.stages import WHOLE_PIXELS, decoder_tiling
from ltx_native.request import Anchor, Lora, Request
from ltx_native.video_vae.tiling import TilingConfig
from tests.native.mode_files import write_mode_files

PROCESS = Path(__file__).with_name("decode_memory.py")
SHORT, LONG = 361, 961
#: 600 more frames of 128×128: 29 MB as bytes, 118 MB as float32, and far more inside the decoder.
ONE_COPY = (LONG - SHORT) * 128 * 128 * 3 / 1e6
TOGETHER = {"upsampler": "video_encoder"}  # the upsampler works between the encoder's statistics


@pytest.fixture(scope="module")
def files(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mode_files(tmp_path_factory.mktemp("memory"), tiny)


def added_megabytes(frames: int, how: str, tiny: dict[str, Path], files: Path, out: Path) -> float:
    command = [sys.executable, str(PROCESS), str(tiny["model"].parent), str(files / "voice.wav"), str(frames), how, str(out)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    assert video_metadata(out).num_frames == frames
    return float(json.loads(done.stdout))


def test_a_longer_clip_takes_no_more_memory_to_decode_and_encode(tiny: dict[str, Path], files: Path, tmp_path: Path) -> None:
    """For 600 more frames less memory than one copy of them as bytes, in the tiles of most modes and in the one piece of
    one-stage; with all frames at once, as a control, even the short clip needs many copies."""
    found = {
        (how, frames): added_megabytes(frames, how, tiny, files, tmp_path / f"{how}-{frames}.mp4")
        for how, frames in (*((how, n) for how in ("tiles", "streamed") for n in (SHORT, LONG)), ("at-once", SHORT))
    }
    print(f"{found}; one copy {ONE_COPY:.0f} MB")
    for how in ("tiles", "streamed"):
        assert found[how, LONG] - found[how, SHORT] < ONE_COPY, how
        assert found["at-once", SHORT] - found[how, SHORT] > 4 * ONE_COPY, how


def test_only_small_clips_of_one_stage_have_every_module_called_as_a_whole() -> None:
    def latent(frames: int, height: int, width: int) -> mx.array:
        return mx.zeros((1, (frames - 1) // 8 + 1, height // 32, width // 32, 128))

    default = latent(121, 512, 768)
    assert decoder_tiling(default, whole=True) is None
    assert decoder_tiling(default, whole=False) == TilingConfig.default()
    assert decoder_tiling(latent(257, 512, 512), whole=True) == TilingConfig.default()
    assert WHOLE_PIXELS < 257 * 512 * 512


MODES: dict[str, dict[str, Any]] = {
    "i2v": {"images": (Anchor("first.png"), Anchor("second.png", 8, 0.5))},
    "lora": {"loras": (Lora("style.safetensors", 0.8), Lora("pose.safetensors", 0.3))},
    "two-stage": {"pipeline": "two-stage", "distilled_loras": (Lora("refine.safetensors"),)},
    "two-stages-hq": {"pipeline": "two-stages-hq", "distilled_loras": (Lora("refine.safetensors"),)},
    "distilled": {"pipeline": "distilled", "images": (Anchor("first.png"),)},
    "keyframes": {"pipeline": "keyframes", "images": (Anchor("first.png"), Anchor("second.png", 8))},
    "ic-lora": {"pipeline": "ic-lora", "reference_videos": (("clip.mp4", 1.0),), "loras": (Lora("pose.safetensors"),)},
    "a2v": {"audio_path": "voice.wav"},
    "retake": {"source_video_path": "clip.mp4", "retake_start": 0.3, "retake_end": 0.9},
    "extend": {"source_video_path": "clip.mp4", "extend_frames": 1},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_component_is_gone_before_the_next_is_loaded(mode: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without help from the garbage collector: a name left behind would keep gigabytes."""
    monkeypatch.chdir(files)
    alive: dict[str, weakref.ref[nn.Module]] = {}
    loaded: list[str] = []
    found: list[str] = []

    def on_load(component: str, module: nn.Module) -> None:
        allowed = TOGETHER.get(component)
        found.extend(
            f"{name} while {component} is loaded" for name, ref in alive.items() if ref() is not None and name != allowed
        )
        alive[component] = weakref.ref(module)
        loaded.append(component)

    small: dict[str, Any] = {"num_frames": 9, "width": 128, "height": 64, "steps": 1, "dtype": "float32"}
    request = Request("a fox", stg_blocks=(1,), audio_stg_blocks=(1,), **small, **MODES[mode])
    request.validate()
    upsampler = "ltx-2.3-spatial-upscaler-x2.safetensors"
    models = Models(Checkpoint.open("official.safetensors", "GEMMA", upsampler), mx.float32, on_load=on_load)
    for _ in select(request)(models, request):
        pass
    assert "transformer" in loaded
    assert "video_decoder" in loaded
    assert not found
    assert all(ref() is None for ref in alive.values())
