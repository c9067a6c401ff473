"""The real `ltx-2-mlx`, where `LTX2_MLX_BIN` names one: through the bridge, traced, and arbitrated against the other two."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from parity.arbitration import checkpoint
from parity.arbitration.run import case_for_cli, rounded_noise, run, same_draws
from parity.arbitration.table import Row, table
from parity.checkpoints import cache_folder
from parity.trace import Trace
from reference_bridge.adapters.ltx_2_mlx.corrections import CORRECTIONS
from reference_bridge.adapters.ltx_2_mlx.trace import Traced, trace
from reference_bridge.boxes import read_movie
from reference_bridge.environment import cache_dir, find_cli
from reference_bridge.job import Job
from reference_bridge.survey import Survey

pytestmark = [
    pytest.mark.external_cli,
    pytest.mark.skipif(not os.environ.get("LTX2_MLX_BIN"), reason="LTX2_MLX_BIN names no ltx-2-mlx"),
]


@pytest.fixture(scope="module")
def found() -> Survey:
    return find_cli(os.environ, cache_dir(os.environ) / "surveys").require()


@pytest.fixture(scope="module")
def files() -> checkpoint.Files:
    return checkpoint.make(cache_folder() / "arbitration")


@pytest.fixture(scope="module")
def arbitrated(files: checkpoint.Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    folder = tmp_path_factory.mktemp("arbitration") / "as-it-is"
    return folder, run(folder, case_for_cli(), files)


def job(files: checkpoint.Files, output: Path, pipeline: str) -> Job:
    return Job(
        "a cat walking on the beach", output_path=str(output), model=str(files.split), gemma=str(files.cli_gemma),
        pipeline=pipeline, width=64, height=64, num_frames=1, steps=2, seed=42,
    )  # fmt: skip


def traced(found: Survey, files: checkpoint.Files, output: Path, pipeline: str, folder: Path | None, *sites: str) -> Traced:
    return trace(job(files, output, pipeline), found, os.environ, folder, sites=sites, defaults=files.defaults())


@pytest.mark.parametrize("pipeline", ["one-stage", "distilled"])
def test_the_probe_changes_no_byte_and_the_draws_are_native_s(
    pipeline: str, found: Survey, files: checkpoint.Files, tmp_path: Path
) -> None:
    plain = traced(found, files, tmp_path / "plain.mp4", pipeline, None)
    probed = traced(found, files, tmp_path / "probed.mp4", pipeline, tmp_path / "trace", "noise.*", "transformer*", "latent.*")
    assert plain.video_path.read_bytes() == probed.video_path.read_bytes()
    assert read_movie(probed.video_path).video.samples == 1
    cli = Trace(tmp_path / "trace")
    assert same_draws(cli) == []
    draws = [record for record in cli.records if record.key.site.startswith("noise.")]
    assert [int(record.inputs["seed"]["value"]) for record in draws] == (
        [42, 43] if pipeline == "one-stage" else [42, 43, 44, 44]
    )


def test_native_follows_the_official_code_wherever_the_cli_departs(arbitrated: tuple[Path, list[Row]]) -> None:
    folder, rows = arbitrated
    print("\n" + table(rows))
    assert len(rows) > 1000
    assert not [row for row in rows if row.departs == "native"]
    assert not [row for row in rows if not row.excused]
    assert {"gemma-final-norm", "schedule-token-shift"} <= {row.departure for row in rows}
    assert same_draws(Trace(folder / "cli")) == []
    assert set(rounded_noise(Trace(folder / "cli"))) == {"video", "audio"}


def test_without_its_listed_departures_the_cli_agrees(files: checkpoint.Files, tmp_path: Path) -> None:
    rows = run(tmp_path / "corrected", case_for_cli(), files, corrections=tuple(CORRECTIONS))
    final = {row.site: row.cli_official for row in rows if row.site.startswith("latent.")}
    assert set(final) == {"latent.video", "latent.audio"}
    assert all(value < 3e-4 for value in final.values()), final
