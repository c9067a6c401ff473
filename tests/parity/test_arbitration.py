"""Arbitration on traces that are made here, where it is known who departs and where it begins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.arbitration.command import status
from parity.arbitration.departures import Departure, for_report, read_departures
from parity.arbitration.table import arbitrate, table
from parity.trace import Trace, TraceWriter

RNG = np.random.default_rng(0)
CHAIN = [
    "transformer.patchify_proj",
    "transformer.transformer_blocks.0.attn1",
    "transformer.transformer_blocks.1.attn1",
    "denoised",
]
VALUES = {site: RNG.standard_normal((1, 6, 16)).astype(np.float32) for site in CHAIN}
IDS = {"input_ids": np.arange(8, dtype=np.int32)[None], "attention_mask": np.array([[0, 0, 0, 1, 1, 1, 1, 1]], np.int32)}
KNOWN = Departure("first-attention", "transformer.transformer_blocks.0.attn1", "0.2.0", "0.14.19", "w", "o", "e")


@pytest.fixture
def sides(tmp_path: Path) -> Callable[..., dict[str, Trace]]:
    """Three traces of the chain; `changes` maps a side to what is added at which sites."""

    def make(
        changes: Mapping[str, Mapping[str, float]],
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        cli: str | None = "0.14.19",
    ) -> dict[str, Trace]:
        traces = {}
        versions = {"ltx-pipelines-mlx": cli}
        for side in ("native", "cli", "official"):
            shutil.rmtree(tmp_path / side, ignore_errors=True)
            with TraceWriter(tmp_path / side, {"side": side, "engine": side, "versions": versions}) as writer:
                store = writer.store
                ids = {"fields": {name: store(array) for name, array in IDS.items()}}
                writer.append("tokenizer", ids, kind="function", stage="stage_1")
                for site, value in (extra or {}).get(side, {}).items():
                    writer.append(site, store(value), stage="stage_1")
                for site in CHAIN:
                    noise = changes.get(side, {}).get(site, 0.0) * np.linalg.norm(VALUES[site]) / 4
                    shifted = VALUES[site] + np.float32(noise) * np.eye(16, dtype=np.float32)[:6][None]
                    writer.append(site, store(shifted.astype(np.float32)), stage="stage_1", step=0, guidance_pass="cond")
            traces[side] = Trace(tmp_path / side)
        return traces

    return make


def by_site(rows: list[Any]) -> dict[str, Any]:
    return {row.site: row for row in rows}


def test_three_that_agree(sides: Callable[..., dict[str, Trace]]) -> None:
    rows = arbitrate(sides({}))
    assert {row.departs for row in rows} == {""}
    assert not any(row.onset for row in rows)


@pytest.mark.parametrize("guilty", ["native", "cli", "official"])
def test_the_one_that_departs_is_named(guilty: str, sides: Callable[..., dict[str, Trace]]) -> None:
    rows = by_site(arbitrate(sides({guilty: {CHAIN[1]: 0.01, CHAIN[2]: 0.02, CHAIN[3]: 0.02}}), [KNOWN]))
    assert rows[CHAIN[0]].departs == ""
    assert [rows[site].departs for site in CHAIN[1:]] == [guilty] * 3
    assert [row.site for row in rows.values() if row.onset] == ([CHAIN[1]] if guilty == "cli" else [])


def test_a_second_onset_shows_only_when_it_stands_out(sides: Callable[..., dict[str, Trace]]) -> None:
    rows = by_site(arbitrate(sides({"cli": {CHAIN[1]: 0.001, CHAIN[2]: 0.002, CHAIN[3]: 0.5}}), [KNOWN]))
    assert [(row.site, row.departure) for row in rows.values() if row.onset] == [
        (CHAIN[1], "first-attention"),
        ("denoised", "UNLISTED"),
    ]
    text = table(list(rows.values()))
    assert "begins here: first-attention" in text
    assert "begins here: UNLISTED" in text


@pytest.mark.parametrize(
    ("version", "excused"),
    [("0.14.19", True), ("0.2.0", True), ("0.14.20", False), ("1.0.0", False), ("0.1.9", False), (None, False), ("dev", False)],
)
def test_a_departure_excuses_only_the_versions_it_was_seen_on(
    version: str | None, excused: bool, sides: Callable[..., dict[str, Trace]]
) -> None:
    rows = arbitrate(sides({"cli": {CHAIN[1]: 0.001}}, cli=version), [KNOWN])
    (onset,) = [row for row in rows if row.onset]
    assert onset.departure == ("first-attention" if excused else "EXPIRED first-attention")
    assert onset.excused is excused
    assert status(rows) == (0 if excused else 1)
    assert (f"begins here: {onset.departure}") in table(rows)


def test_the_report_lists_every_departure_with_what_was_measured(
    sides: Callable[..., dict[str, Trace]], tmp_path: Path
) -> None:
    plain = for_report(tmp_path / "absent.json")
    assert [row["name"] for row in plain["rows"]] == [departure.name for departure in read_departures()]
    assert {row["at"] for row in plain["rows"]} == {row["holds"] for row in plain["rows"]} == {None}
    path = tmp_path / "arbitration.json"
    rows = [{"onset": True, "departure": name, "cli_official": value} for name, value in (
        ("gemma-final-norm", 2.5), ("gemma-final-norm", None), ("gemma-final-norm", 0.5), ("UNLISTED", 0.1),
        ("EXPIRED vocoder-tanh", 0.3))]  # fmt: skip
    path.write_text(json.dumps({"cli": "0.14.19", "rows": [*rows, {"onset": False, "departure": "", "cli_official": 9.0}]}))
    found = for_report(path)
    assert found["cli"] == "0.14.19"
    assert {row["name"]: row["at"] for row in found["rows"] if row["at"]} == {"gemma-final-norm": 2.5}
    assert found["not_excused"] == ["EXPIRED vocoder-tanh", "UNLISTED"]
    path.write_text(json.dumps({"cli": "0.15.0", "rows": rows}))
    assert not any(row["holds"] for row in for_report(path)["rows"])


def test_a_mistake_in_the_timing_shows_behind_a_larger_one_in_the_text(
    sides: Callable[..., dict[str, Trace]], tmp_path: Path
) -> None:
    gate = "transformer.av_ca_a2v_gate_adaln_single.emb"
    text, timing = np.ones((1, 4), np.float32), np.arange(4, dtype=np.float32)[None]
    for side in ("native", "cli", "official"):
        with TraceWriter(
            tmp_path / side, {"side": side, "engine": side, "versions": {"ltx-pipelines-mlx": "0.13.1"}}
        ) as writer:
            writer.append("gemma", writer.store(text * (9.0 if side == "cli" else 1.0)), stage="stage_1")
            for step in (0, 1):
                wrong = writer.store(timing * (1.5 if side == "cli" else 1.0))
                writer.append(gate, wrong, stage="stage_1", step=step, guidance_pass="cond")
    rows = arbitrate({side: Trace(tmp_path / side) for side in ("native", "cli", "official")}, read_departures())
    assert [(row.site, row.departure) for row in rows if row.onset] == [("gemma", "UNLISTED"), (gate, "av-ca-gate-scale")]


@pytest.mark.parametrize(("version", "named"), [("0.14.10", "old"), ("0.14.19", "wide"), ("0.15.0", "EXPIRED old")])
def test_of_two_departures_at_a_site_the_one_that_holds_is_named(
    version: str, named: str, sides: Callable[..., dict[str, Trace]]
) -> None:
    old = Departure("old", CHAIN[1], "0.2.0", "0.14.10", "w", "o", "e")
    wide = Departure("wide", "transformer.*", "0.2.0", "0.14.19", "w", "o", "e")
    rows = arbitrate(sides({"cli": {CHAIN[1]: 0.001}}, cli=version), [old, wide])
    assert [row.departure for row in rows if row.onset] == [named]


def test_what_takes_nothing_from_before_is_judged_by_itself(sides: Callable[..., dict[str, Trace]]) -> None:
    sigmas = np.linspace(1, 0, 5, dtype=np.float32)
    wrong = {"transformer.patchify_proj.first": np.ones((1, 6, 16), np.float32)}
    other = {"transformer.patchify_proj.first": -np.ones((1, 6, 16), np.float32)}
    same = {"native": {**wrong, "schedule": sigmas}, "official": {**wrong, "schedule": sigmas}}
    rows = by_site(arbitrate(sides({}, {**same, "cli": {**other, "schedule": sigmas**2}})))
    assert rows["transformer.patchify_proj.first"].onset
    assert rows["schedule"].onset


def test_a_benign_departure_hides_nothing(sides: Callable[..., dict[str, Trace]]) -> None:
    benign = Departure("placed-elsewhere", CHAIN[0], "0.2.0", "0.14.19", "w", "o", "e", benign=True)
    rows = by_site(arbitrate(sides({"cli": {CHAIN[0]: 0.9, CHAIN[1]: 0.001}}), [benign, KNOWN]))
    assert [row.departure for row in rows.values() if row.onset] == ["placed-elsewhere", "first-attention"]


def test_no_two_agree(sides: Callable[..., dict[str, Trace]]) -> None:
    rows = by_site(arbitrate(sides({"cli": {"denoised": 0.3}, "native": {"denoised": -0.2}})))
    assert rows["denoised"].departs == "all"


def test_padding_is_not_compared(sides: Callable[..., dict[str, Trace]]) -> None:
    value = RNG.standard_normal((1, 8, 16)).astype(np.float32)
    padded, real = value.copy(), value.copy()
    padded[:, :3] += 1.0
    real[:, 4] += 1.0
    site = "gemma.layers.0.mlp"
    same = {"native": {site: value}, "official": {site: value}}
    assert by_site(arbitrate(sides({}, {**same, "cli": {site: padded}})))[site].departs == ""
    assert by_site(arbitrate(sides({}, {**same, "cli": {site: real}})))[site].departs == "cli"


def test_layouts_meet(sides: Callable[..., dict[str, Trace]]) -> None:
    latent = RNG.standard_normal((1, 2, 3, 4, 128)).astype(np.float32)
    first = np.moveaxis(latent, -1, 1)
    row = np.ones((1, 16), np.float32)
    extra = {
        "native": {"latent.video": latent, "transformer.adaln_single.linear": row},
        "cli": {"latent.video": first, "transformer.adaln_single.linear": row},
        "official": {"latent.video": first, "transformer.adaln_single.linear": np.ones((1, 6, 16), np.float32)},
    }
    rows = by_site(arbitrate(sides({}, extra)))
    assert rows["latent.video"].departs == ""
    assert rows["transformer.adaln_single.linear"].departs == ""
    extra["cli"]["latent.video"] = first[:, :64]
    assert by_site(arbitrate(sides({}, extra)))["latent.video"].departs == "shape"


def test_nothing_in_common_is_no_evidence(tmp_path: Path) -> None:
    traces = {}
    for side in ("native", "cli", "official"):
        with TraceWriter(tmp_path / side, {"side": side, "engine": side}) as writer:
            writer.append(f"transformer.{side}", writer.store(np.ones(3, np.float32)), stage="stage_1")
        traces[side] = Trace(tmp_path / side)
    with pytest.raises(ValueError, match="nothing was arbitrated"):
        arbitrate(traces)


def test_the_list_of_departures_is_whole() -> None:
    from reference_bridge.adapters.ltx_2_mlx.corrections import CORRECTIONS

    departures = read_departures()
    assert len({departure.name for departure in departures}) == len(departures) >= 10
    for departure in departures:
        assert all((departure.what, departure.official, departure.evidence, departure.since, departure.expires))
        assert departure.correction in ("", *CORRECTIONS)
        assert departure.holds_for(departure.since)
        assert departure.holds_for(departure.expires)
    assert {departure.correction for departure in departures} >= set(CORRECTIONS)
