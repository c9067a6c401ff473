"""The probe inside an MLX command line: what it records, and that it changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from parity.sketch import of, read
from parity.trace import Trace, leaves
from reference_bridge.adapters.ltx_2_mlx.trace import TraceRefused, interpreter_of, trace
from reference_bridge.errors import ExitError
from reference_bridge.job import Job
from reference_bridge.survey import Survey, survey

CODE = Path(__file__).parent / "standin/mlx_cli"
PLACES = {  # where the names of core.py live in the real packages
    "ltx_core_mlx/model/transformer/model.py": "core.py",
    "ltx_core_mlx/components/guiders.py": "core.py",
    "ltx_core_mlx/conditioning/types/latent_cond.py": "core.py",
    "ltx_core_mlx/model/upsampler/model.py": "upsampler.py",
    "ltx_pipelines_mlx/utils/samplers.py": "samplers.py",
    "ltx_pipelines_mlx/cli.py": "cli.py",
}


@pytest.fixture(scope="module")
def mlx_cli(tmp_path_factory: pytest.TempPathFactory, standin: Callable[..., Path]) -> tuple[Survey, dict[str, str]]:
    folder = tmp_path_factory.mktemp("mlx") / "env"
    shutil.copytree(standin("0.14.19").parents[1], folder, symlinks=True)
    script = folder / "bin/ltx-2-mlx"
    script.write_text(script.read_text().replace(str(standin("0.14.19").parents[1]), str(folder)))
    site = next((folder / "lib").glob("*/site-packages"))
    for name, source in PLACES.items():
        target = site / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source == "core.py" and not name.endswith("model.py"):
            target.write_text("from ltx_core_mlx.model.transformer.model import *\n")
        else:
            shutil.copyfile(CODE / source, target)
    for package in [path for path in site.rglob("*") if path.is_dir() and path.parts[-1] != "__pycache__"]:
        if "dist-info" not in package.name and not (package / "__init__.py").exists():
            (package / "__init__.py").touch()
    schedule = (
        "def ltx2_schedule(steps, num_tokens=4096):\n    return [1.0 - i / (steps + 0.5) for i in range(steps)] + [0.0]\n"
    )
    (site / "ltx_pipelines_mlx/scheduler.py").write_text(schedule)
    (site / "ltx_pipelines_mlx/_base.py").write_text("from ltx_pipelines_mlx.cli import BasePipeline\n")
    packages = sysconfig.get_path("purelib")
    env = {**os.environ, "PYTHONPATH": packages, "STANDIN_MODE": ""}
    return survey(script, env, None), env


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Job]:
    return lambda name="out": Job("a cat", output_path=str(tmp_path / f"{name}.mp4"), num_frames=9, steps=2, seed=42)


@pytest.fixture
def traced(mlx_cli: tuple[Survey, dict[str, str]], asked: Callable[..., Job], tmp_path: Path) -> Callable[..., Trace]:
    def run(**options: Any) -> Trace:
        found, env = mlx_cli
        env = {**env, **options.pop("env", {})}
        job = replace(asked("traced"), pipeline=options.pop("pipeline", None))
        trace(job, found, env, tmp_path / "trace", **options)
        return Trace(tmp_path / "trace")

    return run


def test_the_video_is_byte_identical_with_and_without_the_probe(
    mlx_cli: tuple[Survey, dict[str, str]], asked: Callable[..., Job], tmp_path: Path
) -> None:
    found, env = mlx_cli
    plain = trace(asked("plain"), found, env, None)
    with_probe = trace(asked("traced"), found, env, tmp_path / "trace")
    assert plain.records == 0
    assert with_probe.records > 100
    assert plain.video_path.read_bytes() == with_probe.video_path.read_bytes()
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_every_site_has_its_place_in_the_run(traced: Callable[..., Trace]) -> None:
    found = traced()
    manifest = json.loads((found.folder / "manifest.json").read_text())
    assert (manifest["side"], manifest["engine"], manifest["complete"]) == ("reference", "ltx-2-mlx", True)
    assert manifest["versions"]["ltx-pipelines-mlx"] == "0.14.19"
    assert "ltx_pipelines_mlx.utils.helpers.create_noised_state" in manifest["missing"]
    keys = [record.key for record in found.by_key().values()]
    blocks = [k for k in keys if k.site == "transformer.transformer_blocks.1.attn1"]
    assert [(k.step, k.guidance_pass) for k in blocks] == [
        (s, p) for s in (0, 1) for p in ("cond", "uncond", "stg", "modality")
    ]
    assert {k.call for k in blocks} == {0}
    assert "transformer.transformer_blocks.2.to_out.0" in {k.site for k in keys}
    for site in ("guidance", "post_process", "sampler"):
        assert [(k.site, k.step) for k in keys if k.site.startswith(site)] == [
            (f"{site}.{modality}", step) for step in (0, 1) for modality in ("video", "audio")
        ]
    assert [k.site for k in keys if k.step is None] == [
        "noise.video", "state.video", "noise.audio", "state.audio", "schedule", "latent.video", "latent.audio",
    ]  # fmt: skip


def test_each_stage_ends_with_its_latents(traced: Callable[..., Trace]) -> None:
    found = traced(pipeline="distilled")
    ends = [record for record in found.records if record.key.site.startswith("latent.")]
    assert [(r.key.site, r.key.stage) for r in ends] == [
        (f"latent.{modality}", stage) for stage in ("stage_1", "stage_2") for modality in ("video", "audio")
    ]
    stepped = {r.key.site: found.tensor(r.outputs) for r in found.records if r.key.step == 1 and r.key.stage == "stage_1"
               and r.key.site.startswith("sampler.")}  # fmt: skip
    video, audio = (found.tensor(r.outputs) for r in ends[:2])
    assert (video.shape, audio.shape) == ((1, 8, 1, 2, 2), (1, 8, 2, 1))
    # Tokens are frame by frame, row by row; an audio token's 128 numbers are 8 channels of 16.
    np.testing.assert_array_equal(np.moveaxis(video[0], 0, -1).reshape(4, 8), stepped["sampler.video"][0])
    np.testing.assert_array_equal(np.moveaxis(audio[0], 1, 0).reshape(2, 8), stepped["sampler.audio"][0])


def test_draws_are_recorded_in_order_and_can_be_made_again(traced: Callable[..., Trace]) -> None:
    found = traced()
    for index, (modality, tokens) in enumerate((("video", 4), ("audio", 2))):
        record = found.site(f"noise.{modality}")[0]
        given = {name: tree["value"] for name, tree in record.inputs.items() if "value" in tree}
        assert given == {"seed": 42 + index, "draw": index, "dtype": "mlx.core.float32"}
        again = mx.random.normal((1, tokens, 8), key=mx.random.split(mx.random.key(42 + index))[1])
        assert np.array_equal(found.tensor(record.outputs), np.array(again))


def test_inputs_are_as_they_were_before_the_call_changed_them(traced: Callable[..., Trace]) -> None:
    found = traced()
    before = found.by_key()
    block = next(
        r for r in before.values() if r.key.site == "transformer.transformer_blocks.0" and r.key.guidance_pass == "cond"
    )
    linear = next(r for r in before.values() if r.key.site == "transformer.transformer_blocks.0.attn1")
    assert np.array_equal(
        found.tensor(block.inputs["x"]),
        found.tensor(linear.inputs["input"] if "input" in linear.inputs else linear.inputs["x"]),
    )


def test_streamed_blocks_are_told_apart(traced: Callable[..., Trace]) -> None:
    streamed = traced(env={"STANDIN_STREAM": "1"})
    sites = [r.key.site for r in streamed.by_key().values() if r.key.site.endswith(".attn1") and r.key.guidance_pass == "cond"]
    assert sites == [f"transformer.transformer_blocks.{index}.attn1" for index in (0, 1, 2)] * 2


def test_only_wanted_sites_are_tapped(traced: Callable[..., Trace]) -> None:
    found = traced(sites=["transformer.transformer_blocks.1", "latent.*"], outputs_only=True)
    assert {r.key.site for r in found.by_key().values()} == {"transformer.transformer_blocks.1", "latent.video", "latent.audio"}
    assert all(not record.inputs for record in found.by_key().values())


def test_sketches_are_those_of_the_tensors(traced: Callable[..., Trace], tmp_path: Path) -> None:
    sites = ["transformer.transformer_blocks.1", "noise.*", "latent.*"]
    sketched = Trace(traced(sites=sites, sketch=True).folder.rename(tmp_path / "sketched"))
    full = traced(sites=sites)
    assert list(sketched.by_key()) == list(full.by_key())
    for key, record in sketched.by_key().items():
        assert not record.inputs
        tensors = dict(leaves(full.by_key()[key].outputs))
        for path, leaf in leaves(record.outputs):
            assert ("sketch" in leaf) == (not key.site.startswith("noise."))
            if "sketch" in leaf:
                made, stored = of(full.tensor(tensors[path])), read(sketched, leaf)
                assert np.array_equal(made.sums, stored.sums)
                assert leaf["shape"] == tensors[path]["shape"]


def test_a_crash_leaves_neither_trace_nor_video(
    mlx_cli: tuple[Survey, dict[str, str]], asked: Callable[..., Job], tmp_path: Path
) -> None:
    found, env = mlx_cli
    with pytest.raises(ExitError, match="metal::malloc"):
        trace(asked(), found, {**env, "STANDIN_MODE": "crash"}, tmp_path / "trace")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_without_a_readable_interpreter_is_refused(mlx_cli: tuple[Survey, dict[str, str]], tmp_path: Path) -> None:
    found, env = mlx_cli
    wrapper = tmp_path / "ltx-2-mlx"
    wrapper.write_text(f'#!/bin/bash\nexec "{found.binary}" "$@"\n')
    wrapper.chmod(0o755)
    asked = survey(wrapper, env, None)
    with pytest.raises(TraceRefused, match="set LTX2_MLX_PYTHON"):
        interpreter_of(asked, env)
    assert interpreter_of(asked, {**env, "LTX2_MLX_PYTHON": str(found.interpreter)}) == found.interpreter
