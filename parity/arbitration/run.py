"""Run one request on the external CLI, the official code and the native engine, with the CLI's noise, and arbitrate."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.models import Models
from ltx_native.noise import Draws, Noise
from ltx_native.pipelines.select import select
from parity.arbitration import checkpoint as made
from parity.arbitration.departures import read_departures
from parity.arbitration.imitation import check_names, imitating
from parity.arbitration.table import Row, arbitrate
from parity.capture.native import capture, request_of
from parity.capture.reference import Checkpoint, arguments_of, run_official
from parity.cases import Case, Guidance
from parity.faults.registry import patched
from parity.trace import Trace
from reference_bridge.adapters.ltx_2_mlx.trace import trace as trace_cli
from reference_bridge.environment import cache_dir, find_cli
from reference_bridge.job import Job

# Blocks, pipeline values and the text side; the decoders have other sizes on the CLI's side.
SITES = (
    "tokenizer", "gemma", "gemma.*", "embeddings_processor", "embeddings_processor.*", "transformer", "transformer.*",
    "schedule", "noise.*", "state.*", "denoised", "guidance.*", "post_process.*", "sampler.*", "latent.*",
)  # fmt: skip


def case_for_cli(seed: int = 42, steps: int = 4, mode: str = "one-stage") -> Case:
    """A text-to-video case with the guidance that the CLI has fixed. Its negative prompt is read from the CLI's trace."""
    return Case(
        name="arbitration",
        mode=mode,
        prompt="a cat walking on the beach",
        steps=steps,
        seed=seed,
        video=Guidance(cfg=3.0, stg=1.0, modality=3.0, rescale=0.7, stg_blocks=(28,)),
        audio=Guidance(cfg=7.0, stg=1.0, modality=3.0, rescale=0.7, stg_blocks=(28,)),
    )


def run(
    folder: Path,
    case: Case,
    files: made.Files,
    *,
    corrections: Sequence[str] = (),
    imitate: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Traces of the three sides under `folder` (native, cli, official), then the table. Raises what the bridge raises.

    `corrections` take departures away from the CLI, `imitate` gives them to native. The mode is `one-stage` or `distilled`.
    """
    check_names(imitate)
    env = dict(os.environ if env is None else env)
    found = find_cli(env, cache_dir(env) / "surveys").require()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = Job(
        prompt=case.prompt, output_path=str(folder / "cli.mp4"), model=str(files.split), gemma=str(files.cli_gemma),
        pipeline=case.mode, width=case.width, height=case.height, num_frames=case.num_frames, frame_rate=case.frame_rate,
        steps=case.steps if case.mode == "one-stage" else None, seed=case.seed,
    )  # fmt: skip
    say(f"ltx-2-mlx {found.version} …")
    defaults = files.defaults(found.version)
    trace_cli(job, found, env, folder / "cli", sites=SITES, defaults=defaults, corrections=corrections)
    cli = Trace(folder / "cli")
    case, noise = as_the_cli_ran(case, cli)
    mx.save_safetensors(str(folder / "noise.safetensors"), noise)
    say("official code …")
    arguments = [*arguments_of(case, checkpoint_of(case, files)), f"--output={folder / 'official.mp4'}"]
    arguments += [f"--trace={folder / 'official'}", f"--noise={folder / 'noise.safetensors'}"]
    run_official([*arguments, *(f"--sites={site}" for site in SITES), "--quiet"])
    say("native …")
    traces = {
        "native": native(folder / "native", case, files, noise, imitate),
        "cli": cli,
        "official": Trace(folder / "official"),
    }
    rows = arbitrate(traces, read_departures())
    write_summary(folder, found.version, rows, corrections=list(corrections), imitate=list(imitate), mode=case.mode)
    return rows


def write_summary(folder: Path, version: str | None, rows: Sequence[Row], **about: Any) -> None:
    """`arbitration.json`: what the report reads."""
    summary = {"cli": version, **about, "rows": [row.to_json() for row in rows]}
    (folder / "arbitration.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")


def checkpoint_of(case: Case, files: made.Files) -> Checkpoint:
    return Checkpoint(files.model, files.gemma, files.upsampler if case.mode == "distilled" else None)


def native(folder: Path, case: Case, files: made.Files, noise: Mapping[str, mx.array], imitate: Sequence[str] = ()) -> Trace:
    """Native's trace of the request with this noise, with departures of the CLI when they are asked for."""
    manifest = {"dtype": "float32", "device": str(mx.default_device()), "commit": None, "imitates": list(imitate)}
    draws = list(noise.values())
    with imitating(imitate, case):
        return capture(
            _opened(case, files), case, Noise(draws[0], draws[1], dict(enumerate(draws[2:], 2))), folder, manifest
        ).trace


def as_the_cli_ran(case: Case, cli: Trace) -> tuple[Case, dict[str, mx.array]]:
    """The case with the negative prompt that the CLI has fixed, and its draws in their order, rounded as it uses them."""
    if len(texts := cli.site("tokenizer")) > 1:
        case = replace(case, negative_prompt=str(texts[1].inputs["text"]["value"]))
    return case, rounded_noise(cli)


def rounded_noise(cli: Trace) -> dict[str, mx.array]:
    """Every draw as the CLI uses it: float32 values rounded to bfloat16. The first two are `video` and `audio`."""
    draws = sorted(
        (int(record.inputs["draw"]["value"]), cli.tensor(record.outputs))
        for record in cli.records
        if record.key.site.startswith("noise.")
    )
    names = {0: "video", 1: "audio"}
    return {
        names.get(i, f"draw.{i:05d}"): mx.array(values).astype(mx.bfloat16).astype(mx.float32)
        for i, (_, values) in enumerate(draws)
    }


def different_draws(case: Case, files: made.Files, cli: Trace) -> list[str]:
    """Where native's own draws for this request are not the CLI's: number, order, shape, seed, or any bit. Empty when they are.

    Native runs the whole request from its seed; nothing is handed to it.
    """
    theirs = [record for record in cli.records if record.key.site.startswith("noise.")]
    theirs.sort(key=lambda record: int(record.inputs["draw"]["value"]))
    ours = native_draws(case, files)
    wrong = [] if len(ours) == len(theirs) else [f"native draws {len(ours)} times, the CLI {len(theirs)} times"]
    for (seed, values), record in zip(ours, theirs, strict=False):
        drawn = mx.array(cli.tensor(record.outputs))
        used = drawn.astype(mx.bfloat16).astype(mx.float32)
        if drawn.dtype != mx.float32 or seed != record.inputs["seed"]["value"] or values.shape != used.shape:
            wrong.append(f"{record.key}: {drawn.dtype} {used.shape} of seed {record.inputs['seed']['value']}, "
                         f"native {values.shape} of seed {seed}")  # fmt: skip
        elif not mx.array_equal(values.view(mx.uint32), used.view(mx.uint32)):
            wrong.append(f"{record.key}: other values")
    return wrong


def native_draws(case: Case, files: made.Files) -> list[tuple[int, mx.array]]:
    """Seed and values (float32) of every draw of initial noise in native's run of the request, in order."""
    drawn: list[tuple[int, mx.array]] = []
    real = Draws.initial

    def initial(self: Draws, shape: tuple[int, ...], dtype: mx.Dtype, seed_offset: int) -> mx.array:
        values = real(self, shape, dtype, seed_offset)
        drawn.append((self.seed + seed_offset, values))
        return values

    request = request_of(case, None, checkpoint_of(case, files))
    with patched(Draws, initial=initial):
        for _ in select(request)(Models(_opened(case, files), mx.float32), request):
            pass
    return drawn


def _opened(case: Case, files: made.Files) -> NativeCheckpoint:
    paths = checkpoint_of(case, files)
    return NativeCheckpoint.open(str(paths.model), str(paths.gemma), str(paths.upsampler) if paths.upsampler else None)
