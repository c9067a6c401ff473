"""The same requests as whole processes on native, the official code and the external CLI, on weights that all three load.

Stages are timed under common names. What an engine worked on (tokens, steps, weights, shapes) is told beside its times, and
a ratio is taken only where two engines did the same work.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ltx_native.media import read_frames, write_video
from ltx_native.request import Request
from parity.arbitration import checkpoint
from parity.arbitration.run import case_for_cli
from parity.bench import modes
from parity.bench.clock import interleave, spread
from parity.capture.reference import Checkpoint, ReferenceUnavailable
from parity.capture.service import same_blas
from parity.cases import Case
from parity.folders import cache_folder
from reference_bridge.adapters.ltx_2_mlx.trace import launch
from reference_bridge.environment import cache_dir, find_cli
from reference_bridge.errors import BridgeError, UnsupportedMode
from reference_bridge.job import Job
from reference_bridge.survey import Survey

CLI = "ltx-2-mlx"
STAGES = {
    "load": ("load",),
    "source": ("source", "video_encoder", "audio_encoder"),
    "text": ("tokens", "context", "gemma", "embeddings_processor"),
    "denoising": (),  # the sum of the steps
    "upsampler": ("upsampler", "upsampled"),
    "picture": ("frames", "video_decoder"),
    "sound": ("waveform", "audio_decoder", "vocoder"),
}
REST = "rest"  # starting the interpreter, imports, states, writing the file
FRAMES, RATE = 9, 24.0
Run = dict[str, Any]


def left_out() -> str | None:
    """Why `make bench` goes without this section, or None."""
    return None if os.environ.get("LTX2_MLX_BIN") else "LTX2_MLX_BIN names no ltx-2-mlx to compare with"


def requests(files: checkpoint.Files, folder: Path) -> dict[str, Case]:
    """One request per pipeline that the CLI has, with the guidance and the negative prompt that it has fixed."""
    negative = Request("a").resolved().negative_prompt
    base = replace(case_for_cli(steps=4), negative_prompt=negative, num_frames=FRAMES, frame_rate=RATE)
    lora = ((str(files.distilled_lora), 1.0),)
    cases = {
        "one-stage": base,
        "distilled": replace(base, mode="distilled", steps=8),
        "two-stage": replace(base, mode="two-stage", distilled_loras=lora),
        "extend": replace(base, mode="extend", source_path=str(_clip(folder)), extend_frames=1),
    }
    return {name: replace(case, name=name) for name, case in cases.items()}


def _clip(folder: Path) -> Path:
    """The first frames of the suites' clip, silent."""
    from parity.suites.inputs import make_inputs

    frames = np.stack(list(read_frames(make_inputs(cache_folder() / "inputs").clip, count=FRAMES)))
    write_video(folder / "clip.mp4", [frames], RATE)
    return folder / "clip.mp4"


def measure(rounds: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """By request: every engine's spreads and work, native ÷ the others where the work is the same, and who is left out.

    Raises ReferenceUnavailable where there is no CLI that runs. Writes the checkpoint when it is not there (6.6 GB).
    """
    try:
        cli = find_cli(os.environ, cache_dir(os.environ) / "surveys").require()
    except BridgeError as error:
        raise ReferenceUnavailable(str(error)) from error
    files = checkpoint.make(cache_folder() / "arbitration-large", large=True)
    both = Checkpoint(files.model, files.gemma, files.upsampler)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-cli-") as temporary:
        folder = Path(temporary)
        cases = requests(files, folder)
        for name in names or cases:
            case = cases[name]
            subjects: dict[str, Callable[[], Run]] = {"native": partial(modes.process, modes.native(case, both, folder))}
            left: dict[str, str] = {}
            if case.mode in modes.LEFT_OUT:
                left["official"] = modes.LEFT_OUT[case.mode]
            else:
                subjects["official"] = partial(modes.process, modes.official(case, both, folder))
            try:
                subjects[CLI] = cli_run(case, files, cli, folder / name)
            except UnsupportedMode as error:
                left[CLI] = error.reason
            runs = interleave(subjects, rounds, warmup=0)
            found[name] = summary(runs) | {"left out": left, "rounds": rounds, "version": cli.version}
    return found


def cli_run(case: Case, files: checkpoint.Files, cli: Survey, folder: Path) -> Callable[[], Run]:
    """The CLI in its own interpreter, its code as installed, with clocks. Raises UnsupportedMode for what it cannot do.

    `folder` is where its video and its report will lie.
    """
    environment = {**os.environ, **same_blas()}
    environment.pop("LTX2_GEMMA_MAX_LENGTH", None)  # fewer text tokens than the others have would be other work
    folder.mkdir()
    start = launch(job(case, files), cli, environment, folder, files.defaults(cli.version), clocks=True)
    return lambda: modes.process(start.argv, start.report, environment)


def job(case: Case, files: checkpoint.Files) -> Job:
    """The case as the CLI is asked for it."""
    found = Job(
        prompt=case.prompt, model=str(files.split), gemma=str(files.cli_gemma), seed=case.seed, frame_rate=case.frame_rate,
        steps=None if case.mode == "distilled" else case.steps,
    )  # fmt: skip
    if case.mode == "extend":
        added, source = case.extend_frames, case.source_path
        return replace(found, mode="extend", source_video_path=source, extend_frames=added, extend_direction=case.direction)
    return replace(found, pipeline=case.mode, width=case.width, height=case.height, num_frames=case.num_frames)


def summary(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Spreads by engine over common stages, the work they did, and of native ÷ every other one what may be compared."""
    told = {engine: [common(run) for run in found] for engine, found in runs.items()}
    found: dict[str, Any] = {engine: modes.about(rows) | {"work": work(engine, rows[0])} for engine, rows in told.items()}
    for engine in told:
        if engine != "native":
            unlike = [s for s in (*STAGES, REST) if not same(found["native"]["work"].get(s), found[engine]["work"].get(s))]
            found[f"native ÷ {engine}"] = _ratios(told["native"], told[engine], unlike) | {"not the same work": unlike}
    return found


def common(run: Run) -> Run:
    """The same run with the stages' common names; they add up to the whole process."""
    totals = {"stages_s": ("seconds", run["process_s"]), "stages_cpu_s": ("cpu_s", run["process_cpu_s"])}
    found = dict(run)
    for kind, (step, whole) in totals.items():
        stages = {name: sum(run[kind].get(part, 0.0) for part in parts) for name, parts in STAGES.items()}
        stages["denoising"] = sum(one[step] for one in run["steps"])
        found[kind] = {**stages, REST: whole - sum(stages.values())}
    return found


def work(engine: str, run: Run) -> dict[str, Any]:
    """What each stage of a `common` run had to do. No entry: the stage did nothing."""
    did, weights = run["work"], run["work"]["weights"]

    def size(*components: str) -> int:
        return sum(weights.get(component, 0) for component in components)

    found: dict[str, dict[str, Any]] = {
        "load": {"weights": size(*weights), "files": "split" if engine == CLI else "official"},
        "source": {"weights": size("video_encoder", "audio_encoder") if run["stages_s"]["source"] else 0},
        "text": {"prompts": did["calls"]["embeddings_processor"], "weights": size("gemma", "embeddings_processor")},
        "denoising": {"tokens": did["tokens"], "steps": len(run["steps"]), "weights": size("transformer")},
        "upsampler": {"weights": size("upsampler")},
        "picture": {"shape": did["shapes"]["video_decoder"], "weights": size("video_decoder")},
        "sound": {"shape": did["shapes"]["vocoder"], "weights": size("audio_decoder", "vocoder")},
    }
    return {stage: told for stage, told in found.items() if told["weights"]}


def same(a: Any, b: Any) -> bool:
    """Equal, numbers within one part in a hundred: some engines count constants of a layer among its weights."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, int) and isinstance(b, int):
        return abs(a - b) * 100 <= max(abs(a), abs(b))
    return bool(a == b)


def _ratios(ours: Sequence[Run], theirs: Sequence[Run], unlike: Sequence[str]) -> dict[str, Any]:
    """Of processor seconds, round by round. What is loaded is each engine's own affair, so it does not part processes."""
    pairs = list(zip(ours, theirs, strict=True))
    found: dict[str, Any] = {}
    for stage in STAGES:
        spent = [(a["stages_cpu_s"][stage], b["stages_cpu_s"][stage]) for a, b in pairs]
        if stage not in unlike and all(a > 0 and b > 0 for a, b in spent):
            found[stage] = spread([a / b for a, b in spent])
    if "denoising" in found:
        found["step"] = spread([modes.median_step(a, "cpu_s") / modes.median_step(b, "cpu_s") for a, b in pairs])
    if set(unlike) <= {"load"}:
        for name, key in (("process", "process_cpu_s"), ("process wall", "process_s"), ("peak", "peak_bytes")):
            found[name] = spread([a[key] / b[key] for a, b in pairs])
    return found
