"""The native recorder: when it stores does not change what it stores, and it holds no more than it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.bench.native_side import Steps
from parity.capture import native
from parity.capture.native import NativeRecorder
from parity.checkpoints import tiny
from parity.trace import Record, Trace, TraceWriter

SIZE = {"width": 64, "height": 64, "frames": 9, "frame_rate": 24.0, "text_tokens": 16, "guided": False}


class Counting(NativeRecorder):
    """Counts flushes that had something to store."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += bool(self._pending)
        super().flush()


@pytest.fixture(scope="module")
def steps() -> Steps:
    found = Steps(str(tiny().model))
    found.shape(SIZE)
    return found


def recorded(steps: Steps, folder: Path, sketch: bool) -> tuple[list[Record], int]:
    with TraceWriter(folder, {"side": "native"}) as writer:
        recorder = Counting(writer, sketch=sketch)
        taps = recorder.taps()
        try:
            taps.add("transformer", steps.transformer)
            assert steps.unbatched is not None
            steps.unbatched()
        finally:
            taps.restore()
    return Trace(folder).records, recorder.flushes


@pytest.mark.parametrize("sketch", [True, False])
def test_a_model_larger_than_what_may_wait_is_stored_block_by_block(
    steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sketch: bool
) -> None:
    whole, once = recorded(steps, tmp_path / "whole", sketch)
    monkeypatch.setattr(native, "_HELD_BYTES", 0)
    by_block, flushes = recorded(steps, tmp_path / "by_block", sketch)
    assert by_block == whole
    assert len(whole) > 100
    assert (once, flushes) == (1, 1 + len(steps.transformer.transformer_blocks))


def test_sketches_come_without_inputs_and_tensors_with_all(steps: Steps, tmp_path: Path) -> None:
    sketches, _ = recorded(steps, tmp_path / "sketches", sketch=True)
    tensors, _ = recorded(steps, tmp_path / "tensors", sketch=False)
    assert [record.key for record in sketches] == [record.key for record in tensors]
    assert not any(record.inputs for record in sketches)
    assert all(record.inputs for record in tensors)
