"""The real `ltx-2-mlx`, nothing of it changed in code or size, on the 10 GB that it takes then. `make external-cli-strict`.

On a machine without Metal one entry is added to MLX's device information as the interpreter starts, and nothing else. The
console script runs through the bridge; then the probe makes the same file to the last byte.
"""

from __future__ import annotations

import itertools
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ltx_native
from ltx_native.progress import Bar
from parity.arbitration import strict
from parity.arbitration.run import case_for_cli, different_draws
from parity.cases import Case
from parity.folders import cache_folder
from parity.suites.external import pictures, sound, started_with
from parity.trace import Trace, leaves
from reference_bridge.adapters.ltx_2_mlx.trace import Traced, trace
from reference_bridge.boxes import read_movie
from reference_bridge.engine import BridgeEngine
from reference_bridge.environment import cache_dir, find_cli
from reference_bridge.job import Job

pytestmark = [
    pytest.mark.external_cli,
    pytest.mark.skipif(not os.environ.get("LTX2_MLX_BIN"), reason="LTX2_MLX_BIN names no ltx-2-mlx"),
    pytest.mark.skipif(os.environ.get("LTX2_STRICT") != "1", reason="LTX2_STRICT=1 allows 10 GB of disk and of memory"),
]

BLOCKS = [f"transformer.transformer_blocks.{index}" for index in range(2)]
CONNECTORS = [f"embeddings_processor.{side}_connector" for side in ("video", "audio")]
SITES = ("noise.*", "gemma", *CONNECTORS, *BLOCKS)
STEPS = 2
PASSES = ("cond", "uncond", "stg", "modality")


@pytest.fixture(scope="module")
def files() -> strict.Strict:
    with Bar(sys.stderr) as bar:
        return strict.make(cache_folder() / "strict", bar=bar)


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """Fewer text tokens than the default 1,024, and OpenBLAS before the BLAS of MLX's Linux build: for time alone."""
    blas = ltx_native.PRELOADED_BLAS
    return {**os.environ, "LTX2_GEMMA_MAX_LENGTH": "128"} | ({"LD_PRELOAD": blas} if blas else {})


def job(files: strict.Strict, output: Path, pipeline: str) -> Job:
    return Job(
        "a cat walking on the beach", output_path=str(output), model=str(files.split), gemma=str(files.cli_gemma),
        pipeline=pipeline, width=64, height=64, num_frames=1, steps=STEPS, seed=42,
    )  # fmt: skip


def request(pipeline: str) -> Case:
    """The same for native. Draws depend on sizes and the seed; its own checkpoint has fewer layers than the CLI perturbs."""
    case = case_for_cli(steps=STEPS, mode=pipeline)
    video, audio = (replace(guidance, stg_blocks=(1,)) for guidance in (case.video, case.audio))
    return replace(case, num_frames=1, video=video, audio=audio)


def run_both(files: strict.Strict, env: dict[str, str], pipeline: str, folder: Path) -> tuple[Path, Traced, Trace]:
    """The console script through the bridge; then the same request with the probe."""
    at_start = folder / "at-start"
    at_start.mkdir()
    started = time.monotonic()
    asked = started_with(at_start, files.defaults(None), env)
    bridged = BridgeEngine(asked).generate_video(job(files, folder / "bridged.mp4", pipeline))
    seconds = time.monotonic() - started
    found = find_cli(env, cache_dir(env) / "surveys").require()
    traced = trace(
        job(files, folder / "traced.mp4", pipeline), found, env, folder / "trace", sites=SITES, defaults=files.defaults(None)
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << (30 if sys.platform == "darwin" else 20))
    cost = traced.probe_s / (traced.wall_s - traced.probe_s)
    print(
        f"\n{found.version} {pipeline}: {seconds:.0f} s through the bridge; traced {traced.wall_s:.0f} s ({traced.cpu_s:.0f} s "
        f"of processor time), of which recording {traced.probe_s:.2f} s, {cost:.1%} of the rest; {traced.records} records; "
        f"largest process so far {peak:.1f} GiB"
    )
    return Path(bridged.video_path), traced, Trace(folder / "trace")


def check_video(path: Path) -> None:
    """One picture and its sound, decoded: neither is empty, flat or clipped throughout."""
    movie = read_movie(path)
    assert (movie.video.samples, movie.video.width, movie.video.height) == (1, 64, 64)
    (picture,) = pictures(path)
    assert np.frombuffer(picture, np.uint8).std() > 5
    heard = sound(path)
    assert heard.shape[0] == 2
    assert heard.shape[1] > 0
    assert np.isfinite(heard).all()
    assert 1e-3 < heard.std() < 0.5


def check_trace(cli: Trace) -> None:
    """Nothing was missing in this version, nothing was changed in it, and every recorded number is one."""
    assert cli.manifest["missing"] == []
    assert all(patch.startswith("mlx.core.") for patch in cli.manifest["patches"]), cli.manifest["patches"]
    assert {"transformer-dev.safetensors", "connector.safetensors", "gemma/model.safetensors"} <= cli.manifest[
        "checkpoint"
    ].keys()
    assert len(cli.by_key()) == len(cli.records)
    for record in cli.records:
        for tree in (record.outputs, *record.inputs.values()):
            for name, leaf in leaves(tree):
                assert "tensor" not in leaf or np.isfinite(cli.tensor(leaf)).all(), (record.key, name)


def check_draws(pipeline: str, files: strict.Strict, cli: Trace, seeds: list[int]) -> None:
    asked = request(pipeline)
    assert different_draws(asked, files, cli) == []
    assert different_draws(asked.with_seed(43), files, cli)
    draws = [record for record in cli.records if record.key.site.startswith("noise.")]
    assert [int(record.inputs["seed"]["value"]) for record in draws] == seeds


def test_one_stage(files: strict.Strict, env: dict[str, str], tmp_path: Path) -> None:
    bridged, traced, cli = run_both(files, env, "one-stage", tmp_path)
    check_video(bridged)
    assert traced.video_path.read_bytes() == bridged.read_bytes()
    check_trace(cli)
    check_draws("one-stage", files, cli, [42, 43])
    calls = [(r.key.site, r.key.step, r.key.guidance_pass) for r in cli.records if r.key.site in BLOCKS]
    assert sorted(calls) == sorted(itertools.product(BLOCKS, range(STEPS), PASSES))
    for site in ("gemma", *CONNECTORS):
        assert len(cli.site(site)) == 2, site  # the prompt and the negative prompt
    states = [leaf["shape"] for _, leaf in leaves(cli.site("gemma")[0].outputs)]
    assert states == [[1, 128, strict.GEMMA["hidden_size"]]] * (strict.GEMMA["num_hidden_layers"] + 1)
    # The CLI perturbs block 28, which two layers do not have: its third pass is its first, the others are not.
    last = {r.key.guidance_pass: r.outputs for r in cli.site(BLOCKS[1]) if r.key.step == 0}
    assert last["stg"] == last["cond"]
    assert last["uncond"] != last["cond"] != last["modality"]
    assert 0 < traced.probe_s / (traced.wall_s - traced.probe_s) <= 0.05


def test_distilled(files: strict.Strict, env: dict[str, str], tmp_path: Path) -> None:
    bridged, traced, cli = run_both(files, env, "distilled", tmp_path)
    check_video(bridged)
    assert traced.video_path.read_bytes() == bridged.read_bytes()
    check_trace(cli)
    check_draws("distilled", files, cli, [42, 43, 44, 44])
    calls = [(r.key.stage, r.key.step) for r in cli.site(BLOCKS[0])]
    assert calls == [("stage_1", 0), ("stage_1", 1), ("stage_2", 0), ("stage_2", 1), ("stage_2", 2)]
