"""`make bench`: the denoising step of both engines on the same weights, in interleaved pairs, one thread each.

A step is every guidance pass (CFG, STG, modality), guidance, mask blend and Euler update, in float32. Prints
min–median–max per engine and of the paired ratio native ÷ official; the ratio is the last line.
"""

from __future__ import annotations

import os

# One thread each, before any BLAS is loaded; TF32 off as in every float32 comparison.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("MLX_ENABLE_TF32", "0")

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.models import Models
from ltx_native.pipelines.denoise import Denoiser, Guidance, euler
from ltx_native.pipelines.stages import Context, Run, noised_state
from ltx_native.schedule import ltx2_sigmas
from parity import provenance
from parity.capture.native import request_of
from parity.capture.reference import ROOT, Checkpoint, ReferenceUnavailable, arguments_of, reference_python
from parity.cases import T2V_SQUARE, Case
from parity.checkpoints import cache_folder, tiny
from parity.results import write_json
from parity.world.random_checkpoint import paths, write_checkpoint

TEXT_TOKENS = 1024


def native_step(checkpoint: Checkpoint, case: Case) -> Callable[[], None]:
    """One guided Euler step of the native engine at the schedule's start, on random contexts."""
    models = Models(NativeCheckpoint.open(str(checkpoint.model), str(checkpoint.gemma)), mx.float32, keep=True)
    run = Run.of(models, request_of(case), None, None)
    config = models.checkpoint.config.transformer
    widths = config.inner_dim, config.audio_inner_dim
    key = mx.random.key(case.seed)

    def context() -> Context:
        video, audio = (mx.random.normal((1, TEXT_TOKENS, width), key=key) for width in widths)
        return Context(video, audio, mx.ones((1, TEXT_TOKENS)))

    guidance = Guidance(run.request.video_guider(), run.request.audio_guider())
    sigmas = ltx2_sigmas(30)[:2]
    video, audio = noised_state(run, run.video_target()), noised_state(run, run.audio_target(), seed_offset=1)
    transformer = models.load_all(("transformer",))["transformer"]
    denoiser = Denoiser(transformer, context(), context(), guidance, None)

    def step() -> None:
        stages = list(euler(denoiser, sigmas, video, audio))
        mx.eval(stages[-1].tensors["video.latent"], stages[-1].tensors["audio.latent"])

    return step


@contextmanager
def official_step(checkpoint: Checkpoint, case: Case, probe: Path | None = None) -> Iterator[Callable[..., float]]:
    """The official engine's step on request: a function that runs one and returns its seconds.

    With ``probe``, a folder to record in, it takes what to record of the step: `sketch`, `tensors` or nothing.
    """
    arguments = [a for a in arguments_of(case, checkpoint)[1:] if a.split("=")[0] in _BENCH_OPTIONS]
    command = [str(reference_python()), "-m", "reference_bridge.adapters.official", "bench", *arguments, "--on-request"]
    command += [] if probe is None else [f"--probe={probe}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def step(what: str = "") -> float:
        stdin.write(f"{what}\n")
        stdin.flush()
        return float(json.loads(stdout.readline())["seconds"])

    try:
        ready = stdout.readline()
        if not ready:
            raise ReferenceUnavailable(f"the official bench did not start (status {process.wait()})")
        yield step
    finally:
        stdin.close()
        process.wait(timeout=60)


_BENCH_OPTIONS = {
    "--model", "--gemma", "--height", "--width", "--frames", "--frame-rate", "--seed",
    "--cfg-scale", "--stg-scale", "--stg-blocks", "--modality-scale", "--rescale-scale",
    "--audio-cfg-scale", "--audio-stg-scale", "--audio-stg-blocks", "--audio-modality-scale", "--audio-rescale-scale",
}  # fmt: skip


def measure(checkpoint: Checkpoint, case: Case, pairs: int) -> dict[str, Any]:
    """Seconds per step in interleaved pairs: native, official, and their ratio."""
    ours = native_step(checkpoint, case)
    native: list[float] = []
    official: list[float] = []
    with official_step(checkpoint, case) as theirs:
        for i in range(pairs + 3):
            start = time.perf_counter()
            ours()
            seconds = time.perf_counter() - start
            other = theirs()
            if i >= 3:  # the first ones compile and warm up
                native.append(seconds)
                official.append(other)
    ratios = [a / b for a, b in zip(native, official, strict=True)]
    return {name: _spread(values) for name, values in (("native_s", native), ("official_s", official), ("ratio", ratios))}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity.bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--preset", choices=("tiny", "mid"), nargs="+", default=["tiny"])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "reports" / "bench.json")
    args = parser.parse_args(argv)
    found: dict[str, Any] = {"environment": provenance.environment()}
    try:
        for preset in args.preset:
            found[preset] = measure(*_subject(preset), args.pairs)
    except ReferenceUnavailable as error:
        print(f"bench: {error}", file=sys.stderr)
        return 3
    write_json(args.output, found, indent=1)
    for preset in args.preset:
        for name in ("native_s", "official_s"):
            low, middle, high = (1000 * found[preset][name][k] for k in ("min", "median", "max"))
            print(f"{preset:5} {name[:-2]:9} step {low:8.2f} – {middle:8.2f} – {high:8.2f} ms")
    for preset in args.preset:
        low, middle, high = (found[preset]["ratio"][k] for k in ("min", "median", "max"))
        print(f"{preset}: native ÷ official {low:.2f} – {middle:.2f} – {high:.2f} over {args.pairs} pairs")
    return 0


def _subject(preset: str) -> tuple[Checkpoint, Case]:
    if preset == "tiny":
        return tiny(), T2V_SQUARE
    folder = cache_folder() / preset
    found = paths(folder) if folder.is_dir() else write_checkpoint(folder, name=preset, split=False)
    # 256 video tokens and about 64 audio tokens.
    case = Case("mid", width=256, height=256, num_frames=25, frame_rate=10.0)
    return Checkpoint(found["model"], found["gemma"]), case


if __name__ == "__main__":
    sys.exit(main())
