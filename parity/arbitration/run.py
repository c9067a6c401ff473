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
from ltx_native.noise import Noise
from parity.arbitration import checkpoint as made
from parity.arbitration.departures import read_departures
from parity.arbitration.table import Row, arbitrate
from parity.capture.native import capture
from parity.capture.reference import Checkpoint, arguments_of, run_official
from parity.cases import Case, Guidance
from parity.trace import Trace
from reference_bridge.adapters.ltx_2_mlx.trace import trace as trace_cli
from reference_bridge.environment import cache_dir, find_cli
from reference_bridge.job import Job

# Blocks, pipeline values and the text side; the decoders have other sizes on the CLI's side.
SITES = (
    "tokenizer", "gemma", "gemma.*", "embeddings_processor", "embeddings_processor.*", "transformer", "transformer.*",
    "schedule", "noise.*", "state.*", "denoised", "guidance.*", "post_process.*", "sampler.*", "latent.*",
)  # fmt: skip


def case_for_cli(seed: int = 42, steps: int = 4) -> Case:
    """A text-to-video case with the guidance that the CLI has fixed. Its negative prompt is read from the CLI's trace."""
    return Case(
        name="arbitration",
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
    pipeline: str = "one-stage",
    env: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Traces of the three sides under `folder` (native, cli, official), then the table. Raises what the bridge raises."""
    env = dict(os.environ if env is None else env)
    found = find_cli(env, cache_dir(env) / "surveys").require()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = Job(
        prompt=case.prompt, output_path=str(folder / "cli.mp4"), model=str(files.split), gemma=str(files.cli_gemma),
        pipeline=pipeline, width=case.width, height=case.height, num_frames=case.num_frames, frame_rate=case.frame_rate,
        steps=case.steps, seed=case.seed,
    )  # fmt: skip
    say(f"ltx-2-mlx {found.version} …")
    trace_cli(job, found, env, folder / "cli", sites=SITES, defaults=files.defaults(), corrections=corrections)
    cli = Trace(folder / "cli")
    case = replace(case, negative_prompt=str(cli.site("tokenizer")[1].inputs["text"]["value"]))
    noise = rounded_noise(cli)
    mx.save_safetensors(str(folder / "noise.safetensors"), noise)
    say("official code …")
    paths = Checkpoint(files.model, files.gemma)
    arguments = [*arguments_of(case, paths), f"--output={folder / 'official.mp4'}", f"--trace={folder / 'official'}"]
    run_official([*arguments, f"--noise={folder / 'noise.safetensors'}", *(f"--sites={site}" for site in SITES), "--quiet"])
    say("native …")
    opened = NativeCheckpoint.open(str(files.model), str(files.gemma), None)
    manifest = {"dtype": "float32", "device": str(mx.default_device()), "commit": None}
    capture(opened, case, Noise(noise["video"], noise["audio"]), folder / "native", manifest)
    traces = {side: Trace(folder / side) for side in ("native", "cli", "official")}
    rows = arbitrate(traces, read_departures())
    summary: dict[str, Any] = {"cli": found.version, "corrections": list(corrections), "rows": [row.to_json() for row in rows]}
    (folder / "arbitration.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return rows


def rounded_noise(cli: Trace) -> dict[str, mx.array]:
    """The first draw of each modality as the CLI uses it: float32 values rounded to bfloat16."""
    return {
        name: mx.array(cli.tensor(cli.site(f"noise.{name}")[0].outputs)).astype(mx.bfloat16).astype(mx.float32)
        for name in ("video", "audio")
    }


def same_draws(cli: Trace) -> list[str]:
    """Draws of the trace that native's own rule does not give bit for bit; empty when all do."""
    wrong = []
    for record in cli.records:
        if record.key.site.startswith("noise."):
            seed = int(record.inputs["seed"]["value"])
            drawn = cli.tensor(record.outputs)
            again = mx.random.normal(drawn.shape, key=mx.random.split(mx.random.key(seed))[1])
            if drawn.dtype.name != "float32" or drawn.tobytes() != memoryview(again).tobytes():  # type: ignore[arg-type]
                wrong.append(str(record.key))
    return wrong
