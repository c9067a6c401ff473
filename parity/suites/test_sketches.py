"""Sketches of real runs: as near as they say, the same from both sides, and on the trail of a planted fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from parity.align import align
from parity.capture.native import capture, injected_noise
from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import T2V_SQUARE
from parity.folders import cache_folder
from parity.metrics import measure
from parity.plugin import Parity
from parity.search import FIRST_PASS
from parity.session import Session
from parity.sketch import estimate, estimates, of, read
from parity.trace import leaves

pytestmark = pytest.mark.slow
CACHE = ReferenceCache(cache_folder() / "reference")


class Planted(Session):
    """A session whose native side reads one weight of block 1 wrongly."""

    model: Path

    def native_checkpoint(self) -> NativeCheckpoint:
        files = self.checkpoint
        return NativeCheckpoint.open(str(self.model), str(files.gemma), str(files.upsampler))


@pytest.fixture(scope="module")
def wrong_model(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors: dict[str, Any]
    tensors, metadata = mx.load(str(checkpoint.model), return_metadata=True)  # type: ignore[assignment]
    (name,) = [n for n in tensors if n.endswith("transformer_blocks.1.audio_to_video_attn.to_out.0.weight")]
    tensors[name] = (tensors[name].astype(mx.float32) * 1.02).astype(tensors[name].dtype)
    path = tmp_path_factory.mktemp("wrong") / checkpoint.model.name
    mx.save_safetensors(str(path), tensors, metadata)  # type: ignore[arg-type]
    return path


def test_estimates_are_within_ten_percent_of_the_exact_errors(checkpoint: Checkpoint, tmp_path: Path, parity: Parity) -> None:
    reference, _ = CACHE.capture(T2V_SQUARE, checkpoint)
    opened = NativeCheckpoint.open(str(checkpoint.model), str(checkpoint.gemma))
    native = capture(opened, T2V_SQUARE, injected_noise(reference), tmp_path / "native", {}).trace
    alignment = align(reference.records, native.records)
    near, total = 0, 0
    for record, partner in alignment.pairs:
        ours = dict(leaves(partner.outputs)) if partner else {}
        for path, leaf in leaves(record.outputs):
            other = ours.get(path)
            if "tensor" not in leaf or other is None or "tensor" not in other or other["shape"] != leaf["shape"]:
                continue  # other layouts are met by `estimates`; here the numbers count
            theirs, mine = reference.tensor(leaf), native.tensor(other)
            if theirs.size == 0:
                continue
            exact = measure(mine, theirs)
            if exact.rel_l2 == 0.0 or not exact.finite:
                continue
            found = estimate(of(mine), of(theirs), theirs.size)
            near += abs(found.rel_l2 / exact.rel_l2 - 1) <= 0.1
            total += 1
    parity.count(total)
    print(f"{near} of {total} tensors within 10 %")
    assert total > 1000
    assert near >= 0.95 * total


def test_the_references_sketches_are_those_of_its_tensors(checkpoint: Checkpoint, parity: Parity) -> None:
    """Made in the reference's process from torch, and here from what was stored: the same sums, bit for bit."""
    sketched = CACHE.sketches(T2V_SQUARE, checkpoint, FIRST_PASS)
    full, _ = CACHE.capture(T2V_SQUARE, checkpoint)
    records = full.by_key()
    compared = 0
    for record in sketched.records:
        tensors = dict(leaves(records[record.key].outputs))
        for path, leaf in leaves(record.outputs):
            if "sketch" in leaf and record.key.site != "gemma":
                made, stored = of(full.tensor(tensors[path])), read(sketched, leaf)
                np.testing.assert_array_equal(stored.sums[: made.sums.size], made.sums)
                assert leaf["finite"] == made.finite
                assert leaf["norm"] == pytest.approx(np.sqrt(made.energy), rel=1e-13)  # squares are added up in another order
                compared += 1
    parity.count(compared)
    assert compared > 50


def test_a_healthy_run_gives_no_suspect_and_stays_small(checkpoint: Checkpoint, tmp_path: Path, parity: Parity) -> None:
    found = Session(checkpoint, tmp_path, CACHE).search(T2V_SQUARE)
    parity.count(len(found.rows))
    assert not found.found, found.sentence()
    assert found.coverage.complete
    assert found.trace_bytes < 2_000_000
    assert (tmp_path / "search.json").is_file()


def test_two_passes_name_the_block_that_the_full_comparison_names(
    checkpoint: Checkpoint, wrong_model: Path, tmp_path: Path, parity: Parity
) -> None:
    session = Planted(checkpoint, tmp_path, CACHE)
    session.model = wrong_model
    found, whole = session.search(T2V_SQUARE), session.compare(T2V_SQUARE)
    parity.count(len(found.rows) + len(whole.rows))
    print(found.sentence())
    assert whole.finding is not None
    assert found.finding is not None
    assert found.guilty == "transformer.transformer_blocks.1"
    assert found.finding.key.site == whole.finding.key.site == "transformer.transformer_blocks.1.audio_to_video_attn.to_out.0"


def test_native_sketches_are_those_of_native_tensors(checkpoint: Checkpoint, tmp_path: Path, parity: Parity) -> None:
    reference = CACHE.sketches(T2V_SQUARE, checkpoint, FIRST_PASS)
    opened = NativeCheckpoint.open(str(checkpoint.model), str(checkpoint.gemma))
    noise = injected_noise(reference)
    rows = []
    for name, sketched in (("tensors", False), ("sketches", True)):
        native = capture(opened, T2V_SQUARE, noise, tmp_path / name, {}, sketch=sketched).trace
        rows.append(
            estimates(align(reference.records, [r for r in native.records if r.key in reference.by_key()]), native, reference)
        )
    tensors, sketches = ({(row.key, row.output): row.error for row in found if row.key.site != "gemma"} for found in rows)
    parity.count(len(tensors))
    assert tensors == sketches
