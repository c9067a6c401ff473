"""Lack of evidence never passes: reference gone, trace cut, verdict edited, a NaN in a weight. The bridge serves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ltx_native.dispatch import Choice, InferenceEngine
from ltx_native.request import Request
from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import T2V_SQUARE
from parity.floors import Floors, config_sha256
from parity.folders import cache_folder
from parity.gate import Judgement
from parity.plugin import Parity
from parity.session import Session
from parity.suites.certificates import write_certificate


def choose(checkpoint: Checkpoint, verdict: Path) -> Choice:
    """What dispatch would do with a request on this checkpoint under this verdict."""
    request = Request(
        prompt="a fox", model=str(checkpoint.model), gemma=str(checkpoint.gemma), upsampler=_upsampler(checkpoint)
    )
    return InferenceEngine(verdict=verdict).choose(request.resolved())


def _upsampler(checkpoint: Checkpoint) -> str | None:
    return str(checkpoint.upsampler) if checkpoint.upsampler else None


def cache() -> ReferenceCache:
    return ReferenceCache(cache_folder() / "reference")


@pytest.fixture(scope="module")
def compared(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A healthy comparison, by a harness that has its certificate."""
    folder = tmp_path_factory.mktemp("healthy")
    session = Session(checkpoint, folder, cache(), certificate=write_certificate(folder / "certificate.json"))
    session.compare(T2V_SQUARE)
    return session


@pytest.fixture(scope="module")
def healthy(compared: Session) -> Path:
    """A verdict that lets native serve."""
    write_certificate(compared.certificate)
    verdict = compared.finish(page=False)
    assert verdict["verdict"] == "pass", verdict["reasons"]
    return compared.output / "verdict.json"


def test_a_harness_without_a_current_certificate_clears_nothing(compared: Session, tmp_path: Path, parity: Parity) -> None:
    parity.count(1)
    old = write_certificate(tmp_path / "old.json", code="0" * 64)
    for path, said in ((old, "older than the harness"), (tmp_path / "none.json", "no sensitivity certificate")):
        verdict = replace(compared, certificate=path).finish(tmp_path / "verdict.json", page=False)
        assert verdict["verdict"] == "inconclusive"
        assert said in verdict["reasons"][-1]
        assert "make certify" in verdict["reasons"][-1]


def test_floors_of_another_reference_judge_nothing(compared: Session, tmp_path: Path, parity: Parity) -> None:
    parity.count(1)
    reference, _ = cache().capture(T2V_SQUARE, compared.checkpoint)
    config = config_sha256(compared.checkpoint.model)
    current = compared.floors.of(config)
    assert current is not None
    for floors in (Floors(), Floors((replace(current, versions={**current.versions, "torch": "1.0"}),))):
        problem = floors.problem(config, reference.manifest["versions"])
        verdict = replace(compared, doubts=[problem]).finish(tmp_path / "verdict.json", page=False)
        assert verdict["verdict"] == "inconclusive"
        assert "parity calibrate" in verdict["reasons"][0]
    session = Session(compared.checkpoint, tmp_path / "run", cache(), floors=Floors())
    session.compare(T2V_SQUARE)
    assert session.doubts


def test_a_healthy_verdict_lets_native_serve(checkpoint: Checkpoint, healthy: Path, parity: Parity) -> None:
    parity.count(1)
    choice = choose(checkpoint, healthy)
    assert choice.engine == "native", choice.reason


def test_without_the_reference_nothing_passes(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX_REFERENCE_PYTHON", str(tmp_path / "gone" / "python"))
    session = Session(checkpoint, tmp_path / "run", cache())
    session.compare(T2V_SQUARE)
    verdict = session.finish(page=False)
    assert verdict["verdict"] == "inconclusive"
    assert "make reference" in verdict["reasons"][0]
    choice = choose(checkpoint, tmp_path / "run" / "verdict.json")
    assert choice.engine == "bridge"
    assert "inconclusive" in choice.reason


def test_a_truncated_trace_is_no_evidence(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured, video = cache().capture(T2V_SQUARE, checkpoint)
    folder = tmp_path / "cut" / "trace"
    shutil.copytree(captured.folder, folder)
    records = folder / "records.jsonl"
    records.write_bytes(records.read_bytes()[:-200])
    session = Session(checkpoint, tmp_path / "run", cache())

    def cut(*_: Any, **__: Any) -> Any:
        from parity.trace import Trace

        return Trace(folder), video

    monkeypatch.setattr(ReferenceCache, "capture", cut)
    session.compare(T2V_SQUARE)
    assert session.finish(page=False)["verdict"] == "inconclusive"
    assert choose(checkpoint, tmp_path / "run" / "verdict.json").engine == "bridge"


@pytest.mark.parametrize("edit", ["verdict", "fingerprint", "digest", "results"])
def test_an_edited_verdict_is_not_believed(checkpoint: Checkpoint, healthy: Path, tmp_path: Path, edit: str) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(healthy.parent, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / "verdict.json"
    content = json.loads(path.read_text())
    if edit == "verdict":
        content["reasons"] = ["all is well"]
    elif edit == "fingerprint":
        content["fingerprints"]["checkpoint"] = "0" * 64
    elif edit == "digest":
        content["digest"] = "0" * 64
    else:
        results = folder / "results.json"
        results.write_text(results.read_text().replace("e-07", "e-08"))
    path.write_text(json.dumps(content))
    choice = choose(checkpoint, path)
    assert choice.engine == "bridge"
    assert "altered" in choice.reason


def test_a_nan_in_one_weight_is_found(checkpoint: Checkpoint, healthy: Path, tmp_path: Path) -> None:
    poisoned = Checkpoint(tmp_path / checkpoint.model.name, checkpoint.gemma, checkpoint.upsampler)
    _poison(checkpoint.model, poisoned.model, "model.diffusion_model.transformer_blocks.1.attn1.to_q.weight")
    # The old verdict is for another checkpoint …
    assert choose(poisoned, healthy).engine == "bridge"
    # … and a new comparison on this one cannot pass.
    session = Session(poisoned, tmp_path / "run", cache())
    session.compare(T2V_SQUARE)
    assert session.finish(page=False)["verdict"] in ("fail", "inconclusive")
    choice = choose(poisoned, tmp_path / "run" / "verdict.json")
    assert choice.engine == "bridge"
    print(choice.reason)


def _poison(source: Path, target: Path, key: str) -> None:
    with safe_open(source, framework="np") as file:
        metadata = file.metadata()
    from ltx_native.tensor_files import read_tensors

    tensors: dict[str, Any] = {}
    import mlx.core as mx

    for name, array in read_tensors(source).items():
        if name == key:
            values = np.array(array.astype(mx.float32))
            values.flat[3] = np.nan
            array = mx.array(values)
        tensors[name] = np.array(array.astype(mx.float32))
    save_file(tensors, target, metadata)


def test_a_session_without_cases_is_inconclusive(checkpoint: Checkpoint, tmp_path: Path) -> None:
    session = Session(checkpoint, tmp_path, cache())
    assert session.finish(page=False)["verdict"] == "inconclusive"
    assert Judgement("pass").join(Judgement("inconclusive")).verdict == "inconclusive"
