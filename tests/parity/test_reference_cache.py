"""Captures of the reference by content: the same question runs nothing, any other does, and what is damaged is not believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity import cli
from parity.capture import reference
from parity.capture.reference import Checkpoint, ReferenceCache, ReferenceUnavailable
from parity.cases import T2V_SQUARE
from parity.trace import TraceWriter
from parity.verbs import cache as cache_verb


class Reference:
    """Stands where the official adapter is run: leaves a small trace and a file, and counts how often."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.whole = True

    def __call__(self, arguments: Sequence[str], quiet: bool = True) -> str:
        self.runs.append(list(arguments))
        given = {word.partition("=")[0]: word.partition("=")[2] for word in arguments}
        Path(given["--output"]).write_bytes(b"video")
        with TraceWriter(
            Path(given["--trace"]), {"side": "reference", "engine": "official", "request": {"prompt": "p"}}
        ) as writer:
            writer.append("site", writer.store(np.full(3, len(self.runs), np.float32)), stage="stage_1")
        if not self.whole:
            next(Path(given["--trace"]).glob("*.safetensors")).unlink()
        return ""


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Reference:
    found = Reference()
    monkeypatch.setattr(reference, "run_official", found)
    monkeypatch.setattr(reference, "reference_fingerprint", lambda: "reference 1")
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setenv("LTX_REFERENCE_PYTHON", str(python))
    return found


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    (tmp_path / "gemma").mkdir()
    for name in ("model.safetensors", "gemma/config.json"):
        (tmp_path / name).write_text(name)
    return Checkpoint(tmp_path / "model.safetensors", tmp_path / "gemma")


@pytest.fixture
def cache(tmp_path: Path) -> ReferenceCache:
    return ReferenceCache(tmp_path / "cache")


def test_the_same_question_runs_the_reference_once(official: Reference, checkpoint: Checkpoint, cache: ReferenceCache) -> None:
    first, video = cache.capture(T2V_SQUARE, checkpoint)
    again, _ = ReferenceCache(cache.folder).capture(replace(T2V_SQUARE, name="another name"), checkpoint)
    assert len(official.runs) == 1
    assert again.folder == first.folder
    assert video.read_bytes() == b"video"
    assert [entry["problem"] for entry in cache.entries()] == [""]


def test_another_request_checkpoint_site_or_reference_is_another_question(
    official: Reference, checkpoint: Checkpoint, cache: ReferenceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.capture(T2V_SQUARE, checkpoint)
    for case in (replace(T2V_SQUARE, prompt="q"), replace(T2V_SQUARE, seed=1), replace(T2V_SQUARE, steps=3)):
        cache.capture(case, checkpoint)
    cache.capture(T2V_SQUARE, checkpoint, ["site"])
    assert len(official.runs) == 5
    (checkpoint.gemma / "config.json").write_text("edited")
    cache.capture(T2V_SQUARE, checkpoint)
    checkpoint.model.write_text("retrained")
    cache.capture(T2V_SQUARE, checkpoint)
    assert len(official.runs) == 7
    monkeypatch.setattr(reference, "reference_fingerprint", lambda: "reference 2")
    cache.capture(T2V_SQUARE, checkpoint)
    cache.capture(T2V_SQUARE, checkpoint)
    assert len(official.runs) == 8


def test_a_damaged_capture_is_made_again(official: Reference, checkpoint: Checkpoint, cache: ReferenceCache) -> None:
    trace, _ = cache.capture(T2V_SQUARE, checkpoint)
    tensors = next(trace.folder.glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\7")
    (entry,) = cache.entries()
    assert "differs from its hash" in entry["problem"]
    again, _ = cache.capture(T2V_SQUARE, checkpoint)
    assert len(official.runs) == 2
    assert float(again.tensor(again.records[0].outputs)[0]) == 2.0


def test_a_run_that_leaves_no_whole_trace_is_not_kept(
    official: Reference, checkpoint: Checkpoint, cache: ReferenceCache
) -> None:
    official.whole = False
    with pytest.raises(ReferenceUnavailable, match="left no whole trace"):
        cache.capture(T2V_SQUARE, checkpoint)
    assert list(cache.folder.iterdir()) == []


def test_a_capture_of_a_reference_that_is_gone_is_no_evidence(
    official: Reference, checkpoint: Checkpoint, cache: ReferenceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.capture(T2V_SQUARE, checkpoint)
    monkeypatch.setenv("LTX_REFERENCE_PYTHON", "/nowhere/python")
    with pytest.raises(ReferenceUnavailable, match="make reference"):
        cache.capture(T2V_SQUARE, checkpoint)


def test_the_verb_lists_verifies_and_prunes(
    official: Reference, checkpoint: Checkpoint, cache: ReferenceCache, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cache_verb, "reference_cache", lambda: cache)
    good, _ = cache.capture(T2V_SQUARE, checkpoint)
    damaged, _ = cache.capture(replace(T2V_SQUARE, seed=1), checkpoint)
    stale, _ = cache.capture(replace(T2V_SQUARE, seed=2), checkpoint)
    (stale.folder.parent / "reference").write_text("reference 0")
    (damaged.folder / "records.jsonl").write_text("")

    def verb(action: str) -> tuple[int, dict[str, object]]:
        status = cli.main(["cache", action, "--json"])
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return status, found

    status, found = verb("list")
    assert (status, len(list(found["entries"]))) == (0, 3)  # type: ignore[call-overload]
    status, found = verb("verify")
    assert (status, found["damaged"]) == (1, [damaged.folder.parent.name])
    status, found = verb("prune")
    assert status == 0
    assert set(found["removed"]) == {damaged.folder.parent.name, stale.folder.parent.name}  # type: ignore[call-overload]
    assert [path.name for path in cache.folder.iterdir()] == [good.folder.parent.name]
    assert verb("verify")[0] == 0
