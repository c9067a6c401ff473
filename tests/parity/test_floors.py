"""Measured floors: kept with what they belong to, shrinking freely, growing with a reason, expiring."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.bounds import FLOORS, BoundsError, load_bounds
from parity.calibrate import justification, repeated, unjustified
from parity.checkpoints import WORLD, named, tiny
from parity.floors import (
    MARK,
    PACKAGES,
    Calibration,
    Floor,
    Floors,
    config_sha256,
    fingerprint,
    kinds,
    load_floors,
    save_floors,
)
from parity.folders import ROOT
from parity.gate import load_policy
from parity.trace import Trace, TraceWriter

VERSIONS = dict.fromkeys(PACKAGES, "1.0")
FLOOR = Floor("transformer:Linear", 2e-7, 3e-3, 0.0, 40)
ONE = Calibration("tiny", "abc", "t2v", "2026-01-01", VERSIONS, 4e-7, {"latent.video": 1e-6}, (FLOOR,), {"video": (1e-7, 1e-6)})


def test_floors_are_read_as_written_and_people_s_part_stays(tmp_path: Path) -> None:
    path = tmp_path / "floors.toml"
    other = replace(ONE, checkpoint="world", config="def", reason="another sampler")
    save_floors(Floors((ONE,)).with_(other), path)
    assert load_floors(path).calibrations == (ONE, other)
    assert path.read_text().partition(MARK)[0].rstrip() == FLOORS.read_text().partition(MARK)[0].rstrip()
    assert load_bounds("float32", path) == load_bounds("float32")
    save_floors(load_floors(path).with_(replace(ONE, date="2026-02-02")), path)
    assert [found.date for found in load_floors(path).calibrations] == ["2026-02-02", "2026-01-01"]
    assert path.read_text().count(MARK) == 1


@pytest.mark.parametrize("changed", PACKAGES)
def test_another_version_of_the_reference_expires_them(changed: str) -> None:
    problem = Floors((ONE,)).problem("abc", {**VERSIONS, changed: "2.0"})
    assert f"expired ({changed} 1.0 → 2.0)" in problem
    assert "parity calibrate" in problem
    assert Floors((ONE,)).problem("abc", {**VERSIONS, changed: None})


def test_another_processor_s_build_does_not() -> None:
    assert Floors((ONE,)).problem("abc", {**VERSIONS, "torch": "1.0+cpu", "numpy": "9", "platform": "another"}) == ""
    assert fingerprint({"torch": "2.13.0+cpu"})["torch"] == "2.13.0"


def test_a_configuration_that_was_never_measured_is_not_judged() -> None:
    assert "there are: tiny" in Floors((ONE,)).problem("other", VERSIONS)
    assert "there are: none" in Floors().problem("other", VERSIONS)


def test_floors_grow_only_with_a_reason() -> None:
    floors = Floors((ONE,))
    assert floors.loosened(replace(ONE, floors=(replace(FLOOR, float32=1e-8, bfloat16=1e-3),))) == []
    assert floors.loosened(replace(ONE, floors=(replace(FLOOR, float32=2.5e-7),))) == []  # rounding of another processor
    assert floors.loosened(replace(ONE, floors=(replace(FLOOR, float32=4e-7),))) == ["transformer:Linear float32 2e-07 → 4e-07"]
    assert floors.loosened(replace(ONE, floors=(replace(FLOOR, repeat=1e-6),))) == ["transformer:Linear repeat 0 → 1e-06"]
    assert floors.loosened(replace(ONE, floors=())) == ["transformer:Linear is no longer measured"]
    assert floors.loosened(replace(ONE, config="new", floors=())) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("XY"), st.floats(0, 1) | st.none()), max_size=20))
def test_a_kind_s_floor_is_its_worst_call(rows: list[tuple[str, str, float | None]]) -> None:
    found = kinds([(f"{site}.layer", name, value) for site, name, value in rows])
    assert sum(count for _, count in found.values()) == len(rows)
    for site, name, value in rows:
        assert found[f"{site}:{name}"][0] >= (np.inf if value is None else value)


def test_self_divergence_justifies_a_bound_or_refutes_it() -> None:
    limits = {"latents": 1e-4, "frames": 4e-3, "waveform": 1e-4}
    divergence = {"latent.video": 1e-6, "frames": 0.0, "waveform": 1e-3}
    assert justification(divergence, limits)[0].endswith("the bound 1.0e-04 is 100 times that")
    assert unjustified(divergence, limits) == ["waveform"]


@pytest.mark.parametrize("text", ["[[calibration]]\n", "[[calibration]]\ncheckpoint = 3\n", "not toml"])
def test_a_damaged_file_is_an_error_not_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "floors.toml").write_text(text)
    with pytest.raises(BoundsError, match="no usable floors"):
        load_floors(tmp_path / "floors.toml")


def test_a_file_without_a_configuration_says_so(tmp_path: Path) -> None:
    with pytest.raises(BoundsError, match="no configuration"):
        config_sha256(tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", ["tiny", "world"])
def test_the_shipped_floors_are_current(name: str) -> None:
    """For the versions that the reference environment pins and the configurations of the checkpoints that come with it."""
    model = (tiny() if name == "tiny" else named(WORLD)).model
    pinned = (ROOT / "reference_bridge" / "adapters" / "official" / "requirements.txt").read_text()
    versions = dict(line.split("#")[0].strip().split("==", 1) for line in pinned.splitlines() if "==" in line.split("#")[0])
    calibration = load_floors().of(config_sha256(model))
    assert calibration is not None, "run `parity calibrate`"
    assert calibration.checkpoint == name
    for package, version in calibration.versions.items():
        assert version, package
        assert versions.get(package, version).partition("+")[0] == version, package
    assert not unjustified(calibration.divergence, vars(load_policy()))
    assert set(calibration.divergence) == {"latent.video", "latent.audio", "frames", "waveform"}
    assert {name: len(values) for name, values in calibration.growth.items()} == {"video": 4, "audio": 4}
    assert all(floor.repeat == 0.0 for floor in calibration.floors), "the reference does not repeat itself"


def test_looser_bounds_stay_within_a_dozen_times_what_was_measured() -> None:
    for bound in load_bounds("float32").sites:
        assert bound.rel_l2 <= 12 * bound.measured, bound.pattern


def test_floors_are_small_beside_the_bounds() -> None:
    bounds = load_bounds("float32")
    data = tomllib.loads(FLOORS.read_text())
    assert json.dumps(data)
    for calibration in load_floors().calibrations:
        for floor in calibration.floors:
            limit = bounds.local(floor.kind.partition(":")[0], floor.kind.partition(":")[2])
            special = any(bound.pattern.startswith(floor.kind.partition(":")[0]) for bound in bounds.sites)
            assert floor.float32 <= limit / 3 or special, f"{calibration.checkpoint} {floor.kind}"


def run_verb(monkeypatch: pytest.MonkeyPatch, found: Calibration, *words: str) -> int:
    from parity import calibrate, cli

    monkeypatch.setattr(calibrate, "calibrate", lambda *_: found)
    return cli.main(["calibrate", "--quiet", *words])


def test_the_command_refuses_what_grew_and_takes_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "floors.toml"
    assert run_verb(monkeypatch, ONE, "-o", str(path)) == 0
    before = path.read_text()
    worse = replace(ONE, floors=(replace(FLOOR, float32=1e-6),))
    assert run_verb(monkeypatch, worse, "-o", str(path)) == 1
    assert path.read_text() == before
    assert "transformer:Linear float32 2e-07 → 1e-06" in capsys.readouterr().out
    assert run_verb(monkeypatch, worse, "-o", str(path), "--reason", "the reference sums in another order") == 0
    (kept,) = load_floors(path).calibrations
    assert (kept.floors[0].float32, kept.reason) == (1e-6, "the reference sums in another order")
    better = replace(ONE, floors=(replace(FLOOR, float32=1e-8),))
    assert run_verb(monkeypatch, better, "-o", str(path)) == 0
    assert run_verb(monkeypatch, replace(ONE, divergence={"latent.video": 1.0}), "-o", str(path), "--reason", "x") == 1


def _trace(folder: Path, order: list[float], nudge: float = 0.0) -> Trace:
    """One module called once per entry, on an input of its own."""
    with TraceWriter(folder, {"side": "reference"}) as writer:
        for value in order:
            given, made = np.full((2, 2), value), np.full((2, 2), 2 * value + nudge)
            writer.append(
                "gemma.rotary_emb", writer.store(made), inputs={"x": writer.store(given)}, type_name="Rotary", stage="stage_1"
            )
    return Trace(folder)


def test_two_runs_are_paired_by_what_goes_in_not_by_the_order_of_calls(tmp_path: Path) -> None:
    one, other = _trace(tmp_path / "a", [1.0, 2.0, 3.0]), _trace(tmp_path / "b", [3.0, 1.0, 2.0])
    assert [error for _, _, error in repeated(one, other)] == [0.0, 0.0, 0.0]
    assert [error for _, _, error in repeated(one, _trace(tmp_path / "c", [1.0, 2.0, 3.0], 1e-3))] == pytest.approx(
        [5e-4, 2.5e-4, 1.67e-4], rel=0.01
    )
    assert [error for _, _, error in repeated(one, _trace(tmp_path / "d", [1.0, 2.0]))][2] is None
