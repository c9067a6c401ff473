"""The real `ltx-2-mlx`, where `LTX2_MLX_BIN` names one: through the bridge, traced, arbitrated. `make external-cli` runs this.

The checkpoint is the smallest that all three sides load; sizes that a version of the CLI takes no configuration for are
changed in memory, and so is the one thing that MLX lacks on machines without Metal. The CLI's files are as they were installed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from parity.arbitration import checkpoint
from parity.arbitration.imitation import imitations_for
from parity.arbitration.run import as_the_cli_ran, case_for_cli, different_draws, native, run
from parity.arbitration.table import Row, arbitrate, table
from parity.folders import ROOT, cache_folder
from parity.suites.external import pictures, started_with
from parity.trace import Trace
from reference_bridge.adapters.ltx_2_mlx.corrections import CORRECTIONS
from reference_bridge.adapters.ltx_2_mlx.trace import Traced, trace
from reference_bridge.boxes import read_movie
from reference_bridge.engine import BridgeEngine
from reference_bridge.environment import cache_dir, find_cli
from reference_bridge.errors import ExitError, OutputError, UnsupportedMode
from reference_bridge.job import MODES, Job
from reference_bridge.survey import Survey

pytestmark = [
    pytest.mark.external_cli,
    pytest.mark.skipif(not os.environ.get("LTX2_MLX_BIN"), reason="LTX2_MLX_BIN names no ltx-2-mlx"),
]

BRIDGE = """
import json, os, sys
os.environ["PYTHONPATH"] = os.environ.pop("CLI_PYTHONPATH")  # for the CLI's interpreter, not for this one
from reference_bridge.engine import BridgeEngine
from reference_bridge.errors import BridgeError
from reference_bridge.job import MODES, Job
try:
    BridgeEngine().generate_video(Job(**json.loads(sys.argv[1])))
except BridgeError as error:
    print(json.dumps([type(error).__name__, str(error)]))
    sys.exit(error.exit_status)
"""
BLOCKS = tuple(f"transformer.transformer_blocks.{index}" for index in range(checkpoint.LAYERS))


@pytest.fixture(scope="module")
def found() -> Survey:
    return find_cli(os.environ, cache_dir(os.environ) / "surveys").require()


@pytest.fixture(scope="module")
def files() -> checkpoint.Files:
    return checkpoint.make(cache_folder() / "arbitration")


@pytest.fixture(scope="module")
def cli_env(found: Survey, files: checkpoint.Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return started_with(tmp_path_factory.mktemp("at-start"), files.defaults(found.version))


def job(files: checkpoint.Files, output: Path, pipeline: str) -> Job:
    return Job(
        "a cat walking on the beach", output_path=str(output), model=str(files.split), gemma=str(files.cli_gemma),
        pipeline=pipeline, width=64, height=64, num_frames=1, steps=2, seed=42,
    )  # fmt: skip


def traced(found: Survey, files: checkpoint.Files, output: Path, pipeline: str, folder: Path | None, *sites: str) -> Traced:
    return trace(job(files, output, pipeline), found, os.environ, folder, sites=sites, defaults=files.defaults(found.version))


@pytest.mark.parametrize("pipeline", ["one-stage", "distilled"])
def test_a_video_comes_through_the_bridge_the_probe_changes_no_byte_and_native_draws_the_same_noise(
    pipeline: str, found: Survey, files: checkpoint.Files, cli_env: dict[str, str], tmp_path: Path
) -> None:
    bridged = BridgeEngine(cli_env).generate_video(job(files, tmp_path / "bridged.mp4", pipeline))
    assert bridged.model_used == f"external:{files.split}"
    movie = read_movie(Path(bridged.video_path))
    assert (movie.video.samples, movie.video.width, movie.audio is not None) == (1, 64, True)
    plain = traced(found, files, tmp_path / "plain.mp4", pipeline, None)
    sites = ("noise.*", "transformer*", "latent.*")
    probed = traced(found, files, tmp_path / "probed.mp4", pipeline, tmp_path / "trace", *sites)
    assert plain.video_path.read_bytes() == probed.video_path.read_bytes()
    assert pictures(Path(bridged.video_path)) == pictures(probed.video_path)
    cli = Trace(tmp_path / "trace")
    asked = replace(case_for_cli(steps=2, mode=pipeline), num_frames=1)
    assert different_draws(asked, files, cli) == []
    assert different_draws(asked.with_seed(43), files, cli)
    draws = [record for record in cli.records if record.key.site.startswith("noise.")]
    assert [int(record.inputs["seed"]["value"]) for record in draws] == (
        [42, 43] if pipeline == "one-stage" else [42, 43, 44, 44]
    )


@pytest.fixture(scope="module")
def inputs(files: checkpoint.Files, cli_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A clip of the CLI's own, its first picture, and a second of sound."""
    folder = tmp_path_factory.mktemp("inputs")
    clip, picture, sound = folder / "clip.mp4", folder / "picture.png", folder / "sound.wav"
    BridgeEngine(cli_env).generate_video(replace(job(files, clip, "one-stage"), num_frames=9))
    with av.open(str(clip)) as file:
        next(file.decode(video=0)).to_image().save(picture)
    with wave.open(str(sound), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((3000 * np.sin(np.arange(16000).repeat(2) / 9)).astype("<i2").tobytes())
    return {"source_video_path": str(clip), "image_path": str(picture), "audio_path": str(sound)}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_a_video_or_the_documented_error(
    mode: str, found: Survey, files: checkpoint.Files, cli_env: dict[str, str], inputs: dict[str, str], tmp_path: Path
) -> None:
    uses = {"i2v": "image_path", "audio_ref_video": "audio_path"}.get(mode)
    fields: dict[str, Any] = {uses: inputs[uses]} if uses else {}
    if mode in ("retake", "extend"):
        fields = {"source_video_path": inputs["source_video_path"], "width": None, "height": None, "num_frames": None}
        fields |= {"extend_frames": 1} if mode == "extend" else {"retake_start": 1 / 24, "retake_end": 9 / 24}
    asked = replace(job(files, tmp_path / "out.mp4", "one-stage"), mode=mode, **{"pipeline": None, **fields})
    engine = BridgeEngine(cli_env)
    subcommand = {"retake": "retake", "extend": "extend", "audio_ref_video": "a2v"}.get(mode, "generate")
    reason = found.surface().broken.get(subcommand)
    if reason:
        with pytest.raises(UnsupportedMode) as refused:
            engine.generate_video(asked)
        assert refused.value.reason == reason
        assert str(found.version) in reason
        return
    result = engine.generate_video(asked)
    print(f"{found.version} {mode}: {result.warnings}")
    assert len(pictures(tmp_path / "out.mp4")) == {"retake": 9, "extend": 17}.get(mode, 1)


def test_sound_to_video_places_its_tokens_as_if_at_24_frames_a_second(
    found: Survey, files: checkpoint.Files, inputs: dict[str, str], tmp_path: Path
) -> None:
    """A listed departure that no text-to-video trace can show; the bridge warns of it."""
    asked = replace(job(files, tmp_path / "out.mp4", "two-stage"), audio_path=inputs["audio_path"], frame_rate=12.0)
    asked = replace(asked, num_frames=9, pipeline=None)
    defaults = files.defaults(found.version)
    one = trace(asked, found, os.environ, tmp_path / "trace", sites=("state.*",), defaults=defaults)
    assert any("as if at 24 frames per second" in text for text in one.warnings)
    cli = Trace(tmp_path / "trace")
    for record in cli.site("state.video"):
        positions = cli.tensor(record.outputs["fields"]["positions"])  # (B, T, axes): midpoints in seconds and pixels
        # Pixel frame 0 is one latent frame, 1 to 8 the next: their midpoints are at 0.5 and 5 frames.
        np.testing.assert_allclose(np.unique(positions[..., 0]), np.array([0.5, 5.0]) / 24.0, rtol=1e-6)


def test_what_the_probe_costs(found: Survey, files: checkpoint.Files, tmp_path: Path) -> None:
    """Recording against the rest of the same run, the least of two; processor time with and without the probe beside it."""
    ways: dict[str, dict[str, Any]] = {
        "nothing": {},
        "sketches of block outputs": {"sites": BLOCKS, "outputs_only": True, "sketch": True},
        "block outputs": {"sites": BLOCKS, "outputs_only": True},
        "every module with its inputs": {"sites": ("transformer*",)},
    }
    share, cpu_s = dict.fromkeys(ways, 1.0), dict.fromkeys(ways, float("inf"))
    defaults = files.defaults(found.version)
    for turn in range(2):
        for name, options in ways.items():
            folder = tmp_path / f"{name} {turn}" if options else None
            asked = job(files, tmp_path / "out.mp4", "one-stage")
            one = trace(asked, found, os.environ, folder, defaults=defaults, hash_checkpoint=False, **options)
            share[name] = min(share[name], one.probe_s / (one.wall_s - one.probe_s))
            cpu_s[name] = min(cpu_s[name], one.cpu_s)
    for name in ways:
        print(f"recording {name}: {share[name]:.1%} of the rest, {cpu_s[name]:.1f} s of processor time")
    assert 0 < share["sketches of block outputs"] <= 0.05
    assert 0 < share["block outputs"] <= 0.30
    assert cpu_s["block outputs"] <= 1.3 * cpu_s["nothing"]


@pytest.fixture
def bridge(
    files: checkpoint.Files, cli_env: dict[str, str], tmp_path: Path
) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """Starts a bridge in a process of its own; gives it, and the CLI's process id once the CLI is denoising."""
    started: list[subprocess.Popen[str]] = []
    logs = cache_dir(os.environ) / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    def start() -> tuple[subprocess.Popen[str], int]:
        fields = {name: value for name, value in vars(job(files, tmp_path / "out.mp4", "one-stage")).items() if value}
        command = [sys.executable, "-c", BRIDGE, json.dumps({**fields, "num_frames": 97})]  # many frames: time to be killed in
        env = {**os.environ, "CLI_PYTHONPATH": cli_env["PYTHONPATH"]}
        before = set(logs.iterdir())
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        until = time.monotonic() + 240
        while not any("Denoising" in log.read_text(errors="replace") for log in set(logs.iterdir()) - before):
            assert time.monotonic() < until, "the CLI did not come to denoising"
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        (cli,) = _with_mlx(process.pid)
        return process, cli

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _with_mlx(pid: int) -> list[int]:
    """Descendants of a process that have loaded MLX, which the CLI has when it works."""
    working, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        try:
            waiting += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
            if parent != pid and "libmlx" in Path(f"/proc/{parent}/maps").read_text():
                working.append(parent)
        except OSError:
            continue
    return working


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("target", "how", "said"),
    [
        ("bridge", signal.SIGKILL, None),
        ("bridge", signal.SIGINT, ["Cancelled", "its children were ended, no video was written"]),
        ("cli", signal.SIGKILL, ["ExitError", "ltx-2-mlx was killed by signal 9"]),
    ],
)
def test_a_killed_run_leaves_neither_process_nor_file(
    target: str, how: signal.Signals, said: list[str] | None, tmp_path: Path,
    bridge: Callable[[], tuple[subprocess.Popen[str], int]],
) -> None:  # fmt: skip
    process, cli = bridge()
    os.kill(process.pid if target == "bridge" else cli, how)
    out, _ = process.communicate(timeout=60)
    until = time.monotonic() + 30
    while (not _gone(cli) or any(tmp_path.iterdir())) and time.monotonic() < until:
        time.sleep(0.1)
    assert _gone(cli)
    assert list(tmp_path.iterdir()) == []
    if said is not None:
        kind, text = json.loads(out)
        assert kind == said[0]
        assert said[1] in text


def test_a_full_disk_is_named(files: checkpoint.Files, cli_env: dict[str, str], tmp_path: Path) -> None:
    """On a file system with 4 KiB left, where this user may mount one; elsewhere a limit on the size of files fails alike."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode == 0
    asked = job(files, disk / "out.mp4", "one-stage")
    env = cli_env
    try:
        if mounted:
            (disk / "filler").write_bytes(b"\0" * ((2 << 20) - 4096))
        else:
            limited = tmp_path / "ltx-2-mlx"
            limited.write_text(f'#!/bin/sh\nulimit -f 1\nexec "{cli_env["LTX2_MLX_BIN"]}" "$@"\n')
            limited.chmod(0o755)
            env = {**cli_env, "LTX2_MLX_BIN": str(limited)}
        with pytest.raises((ExitError, OutputError)) as failed:
            BridgeEngine(env).generate_video(asked)
        print(failed.value)
        assert not mounted or f"no space is left in {disk}" in str(failed.value)
        assert [entry.name for entry in disk.iterdir()] == (["filler"] if mounted else [])
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="module")
def arbitrated(files: checkpoint.Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    folder = tmp_path_factory.mktemp("arbitration") / "as-it-is"
    return folder, run(folder, case_for_cli(), files)


def test_native_follows_the_official_code_wherever_the_cli_departs(arbitrated: tuple[Path, list[Row]]) -> None:
    _, rows = arbitrated
    print("\n" + table(rows))
    assert len(rows) > 1000
    assert not [row for row in rows if row.departs == "native"]
    assert not [row for row in rows if not row.excused]
    assert {"gemma-final-norm", "schedule-token-shift"} <= {row.departure for row in rows}


def test_native_can_depart_as_the_cli_does(
    arbitrated: tuple[Path, list[Row]], found: Survey, files: checkpoint.Files, tmp_path: Path
) -> None:
    """With every departure imitated, native is where the CLI is: what is listed is all there is."""
    folder, _ = arbitrated
    traces = {side: Trace(folder / side) for side in ("cli", "official")}
    case, noise = as_the_cli_ran(case_for_cli(), traces["cli"])
    rows = arbitrate({**traces, "native": native(tmp_path / "native", case, files, noise, imitations_for(found.version))})
    print("\n" + table(rows))
    final = {row.site: row for row in rows if row.site.startswith("latent.")}
    assert set(final) == {"latent.video", "latent.audio"}
    for row in final.values():
        assert row.native_cli < row.native_official / 10


def test_without_its_listed_departures_the_cli_agrees(files: checkpoint.Files, tmp_path: Path) -> None:
    rows = run(tmp_path / "corrected", case_for_cli(), files, corrections=tuple(CORRECTIONS))
    print("\n" + table(rows))
    final = {row.site: row.cli_official for row in rows if row.site.startswith("latent.")}
    assert set(final) == {"latent.video", "latent.audio"}
    assert all(value < 3e-4 for value in final.values()), final


def test_the_distilled_pipeline_is_arbitrated_too(files: checkpoint.Files, tmp_path: Path) -> None:
    rows = run(tmp_path / "distilled", case_for_cli(mode="distilled"), files)
    print("\n" + table(rows))
    assert not [row for row in rows if row.departs == "native" or not row.excused]
    assert {row.place for row in rows if row.site == "latent.video"} == {"[stage_1]", "[stage_2]"}
