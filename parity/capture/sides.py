"""Both engines as `generate(prompt, seed) -> frames, sound`, from the same noise, for the fidelity gate."""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from safetensors.numpy import load_file, save_file

import ltx_native.verdict
from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.patchify import VIDEO_CHANNELS, VideoLatentShape, audio_latent_frames
from ltx_native.pipelines.one_stage import one_stage
from parity.capture.degrade import RUNGS
from parity.capture.native import request_of
from parity.capture.reference import Checkpoint, ReferenceUnavailable, arguments_of, reference_python
from parity.capture.service import shut_down
from parity.cases import Case
from parity.fidelity_store import Side
from parity.folders import ROOT
from parity.trace import file_sha256

PER_VIDEO: Final = ("generate", "--prompt=", "--seed=")  # what the server is told for every video, not once
START_S: Final = 300.0
VIDEO_S: Final = 3600.0


def initial_noise(case: Case, seed: int) -> dict[str, np.ndarray]:
    """Standard normal tokens (1, T, 128) of video and audio: NumPy's, the same on both sides, exact in bfloat16 too."""
    rng = np.random.default_rng([seed, 2_300])
    shape = VideoLatentShape.from_pixels(case.num_frames, case.height, case.width)
    lengths = {"video": shape.tokens, "audio": audio_latent_frames(case.num_frames, case.frame_rate)}
    return {name: _bfloat16(rng.standard_normal((1, length, VIDEO_CHANNELS))) for name, length in lengths.items()}


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, ties to even; float32 out."""
    bits = values.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def native_side(checkpoint: Checkpoint, case: Case, dtype: str = "float32", rung: str = "none") -> Side:
    """The native engine, its components loaded once, degraded by a rung of the ladder (`degrade.RUNGS`)."""
    degradation = RUNGS[rung]
    asked = degradation.change_case(case)
    kept: list[Models] = []
    changed: list[int] = []

    def on_load(component: str, module: nn.Module) -> None:
        if degradation.on_load is not None:
            changed.append(degradation.on_load(component, module))

    def models() -> Models:
        if not kept:
            upsampler = str(checkpoint.upsampler) if checkpoint.upsampler else None
            opened = NativeCheckpoint.open(str(checkpoint.model), str(checkpoint.gemma), upsampler)
            kept.append(Models(opened, mx.bfloat16 if dtype == "bfloat16" else mx.float32, keep=True, on_load=on_load))
        return kept[0]

    def generate(prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = initial_noise(case, seed)
        noise = Noise(mx.array(drawn["video"]), mx.array(drawn["audio"]))
        request = replace(request_of(replace(asked, prompt=prompt, seed=seed)), dtype=dtype)
        frames, waveform = [], np.zeros((2, 0), np.float32)
        for stage in one_stage(models(), request, noise=noise):
            if stage.name == "frames":
                frames.append(np.array(stage.tensors["frames"]))
            elif stage.name == "waveform":
                waveform = np.array(stage.tensors["audio"])
        if degradation.on_load is not None and not sum(changed):
            raise RuntimeError(f"rung {rung} changed no layer of this model, so it proves nothing")
        return np.concatenate(frames), waveform

    code = ltx_native.verdict.native_code_fingerprint() + ltx_native.verdict.mlx_version()
    return Side("native", _digest(code, checkpoint, asked, dtype, rung), generate)


def reference_side(server: ReferenceServer) -> Side:
    """The official code in its own process."""
    code = ltx_native.verdict.reference_fingerprint()
    return Side("reference", _digest(code, server.checkpoint, server.case, "float32", "none"), server.generate)


class ReferenceServer:
    """The official pipeline in the reference environment, started at the first video, ended with the block.

    Raises ReferenceUnavailable when it cannot start, stops, or answers with an error.
    """

    def __init__(self, checkpoint: Checkpoint, case: Case) -> None:
        self.checkpoint, self.case = checkpoint, case
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._errors: IO[str] | None = None

    def __enter__(self) -> ReferenceServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            shut_down(self._process)
        if self._errors is not None:
            self._errors.close()
        if self._folder is not None:
            self._folder.cleanup()

    def generate(self, prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """One video: frames uint8 (F, H, W, 3), sound float32 (channels, samples)."""
        process = self._start()
        assert self._folder is not None
        assert process.stdin is not None
        noise, output = (Path(self._folder.name) / name for name in ("noise.safetensors", "video.safetensors"))
        save_file(initial_noise(self.case, seed), noise)
        request = {"prompt": prompt, "seed": seed, "noise": str(noise), "output": str(output)}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = self._answer(process, VIDEO_S)
        if "error" in answer:
            raise ReferenceUnavailable(f"the reference could not make {prompt!r}: {answer['error']}")
        video = load_file(output)
        output.unlink()
        return video["frames"], video["waveform"]

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            flags = [a for a in arguments_of(self.case, self.checkpoint) if not a.startswith(PER_VIDEO)]
            self._folder = tempfile.TemporaryDirectory(prefix="ltx-fidelity-")
            self._errors = (Path(self._folder.name) / "errors.txt").open("w+")
            self._process = subprocess.Popen(
                [str(reference_python()), "-m", "reference_bridge.adapters.official.serve", *flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            )
            self._answer(self._process, START_S)
        return self._process

    def _answer(self, process: subprocess.Popen[str], limit_s: float) -> dict[str, Any]:
        assert process.stdout is not None
        deadline = time.monotonic() + limit_s
        while not select.select([process.stdout], [], [], 1.0)[0]:
            if time.monotonic() > deadline:
                process.kill()
                raise ReferenceUnavailable(f"the reference gave no answer within {limit_s:.0f} s and was stopped")
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            assert self._errors is not None
            self._errors.seek(0)
            tail = "\n".join(self._errors.read().strip().splitlines()[-8:])
            raise ReferenceUnavailable(f"the reference stopped with status {status}: {tail}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _digest(code: str, checkpoint: Checkpoint, case: Case, dtype: str, rung: str) -> str:
    """Everything that decides a video but prompt and seed."""
    wiring = [file_sha256(Path(__file__).with_name(name)) for name in ("sides.py", "degrade.py")]
    content = [code, checkpoint.digest(), replace(case, prompt="", seed=0).digest(), dtype, rung, *wiring]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
