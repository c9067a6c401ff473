"""The probe's trace: whole or absent, each tensor once, every value as it was before the call."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from parity.trace import Trace, TraceError
from reference_bridge import probe_sketch, probe_trace
from reference_bridge.probe import Recorder, tap_torch
from reference_bridge.probe_trace import Dump, TraceWriter, Tree

MANIFEST = {"side": "reference", "engine": "official"}


class ArrayBackend:
    """NumPy in place of a tensor library; a `bytes` value stands for one of its dtypes."""

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, np.ndarray)

    def dump(self, value: Any) -> Dump:
        array = np.ascontiguousarray(value)
        return Dump(array.tobytes(), str(array.dtype), str(array.dtype), value.shape)

    def special(self, value: object) -> Tree | None:
        return {"type": "dtype", "value": value.decode()} if isinstance(value, bytes) else None


class Kind(enum.Enum):
    SELF = "skip_self"


@dataclasses.dataclass(frozen=True)
class Point:
    kind: Kind
    value: Any


class Pair(NamedTuple):
    left: Any
    right: Any


@pytest.fixture
def writer(tmp_path: Path) -> TraceWriter:
    return TraceWriter(tmp_path / "trace", ArrayBackend())


def close(writer: TraceWriter) -> Trace:
    writer.close(MANIFEST)
    return Trace(writer.folder)


def test_a_trace_is_read_back_by_the_harness_bit_for_bit(writer: TraceWriter) -> None:
    arrays = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(3.5),
        np.zeros((0, 4), np.float32),
        np.array([True, False]),
        np.arange(4, dtype=np.int64)[::2],
        np.arange(6, dtype=np.float32).reshape(3, 2).T,
    ]
    recorder = Recorder(writer)
    for array in arrays:
        recorder.value("site", "value", "Array", {"x": array}, array)
    trace = close(writer)
    for array, record in zip(arrays, trace.records, strict=True):
        for leaf in (record.outputs, record.inputs["x"]):
            stored = trace.tensor(leaf)
            assert stored.dtype == array.dtype
            assert leaf["shape"] == list(array.shape)
            np.testing.assert_array_equal(stored, array)


def test_trees_keep_structure_types_and_scalars(writer: TraceWriter) -> None:
    value = {
        "point": Point(Kind.SELF, [1, 2.5, None, "x", True]),
        "pair": Pair(np.ones(2, np.float32), float("inf")),
        "dtype": b"float32",
        "cache": object(),
    }
    tree = writer.tree(value)["fields"]
    items = [{"value": v} for v in (1, 2.5, None, "x", True)]
    assert tree["point"] == {"type": "Point", "fields": {"kind": {"value": "skip_self"}, "value": {"items": items}}}
    assert tree["pair"]["type"] == "Pair"
    assert tree["pair"]["fields"]["left"]["shape"] == [2]
    assert tree["pair"]["fields"]["right"] == {"value": "inf"}
    assert tree["dtype"] == {"type": "dtype", "value": "float32"}
    assert tree["cache"] == {"type": "object", "value": None}
    writer.abort()


def test_equal_content_is_stored_once_and_equal_bytes_of_another_shape_apart(writer: TraceWriter) -> None:
    x = np.arange(6, dtype=np.float32)
    leaves = [writer.store(array) for array in (x, x.copy(), x.reshape(2, 3), x.view(np.int32))]
    writer.flush()
    keys = {leaf["tensor"] for leaf in leaves}
    assert len(keys) == 3
    writer.close(MANIFEST)
    assert set(load_file(writer.folder / "tensors-00000.safetensors")) == keys


def test_large_traces_are_written_in_shards_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_trace, "_WAITING", 0)
    writer = TraceWriter(tmp_path / "trace", ArrayBackend(), shard_bytes=100)
    recorder = Recorder(writer)
    arrays = [np.full(20, i, np.float32) for i in range(5)]
    for array in arrays:
        recorder.value("site", "value", "Array", {}, array)
    assert len(list(writer.partial.glob("*.safetensors"))) == 2
    trace = close(writer)
    assert len(list(writer.folder.glob("*.safetensors"))) == 3
    for array, record in zip(arrays, trace.records, strict=True):
        np.testing.assert_array_equal(trace.tensor(record.outputs), array)


def test_the_final_name_appears_only_when_the_trace_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    (tmp_path / "trace.partial").mkdir()
    (tmp_path / "trace.partial" / "left-over").touch()
    writer = TraceWriter(folder, ArrayBackend())
    writer.store(np.ones(3, np.float32))
    assert not folder.exists()
    with pytest.raises(TraceError, match="manifest"):
        Trace(writer.partial)
    writer.close(MANIFEST)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace"]
    assert not (folder / "left-over").exists()


def test_abort_leaves_nothing(writer: TraceWriter) -> None:
    Recorder(writer).value("site", "value", "Array", {}, np.ones(2))
    writer.abort()
    assert list(writer.folder.parent.iterdir()) == []


def test_an_edited_tensor_file_is_noticed(writer: TraceWriter) -> None:
    writer.store(np.ones(3, np.float32))
    writer.close(MANIFEST)
    path = writer.folder / "tensors-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(TraceError, match="differs from its hash"):
        Trace(writer.folder)


def test_calls_count_per_place_in_the_run(writer: TraceWriter) -> None:
    recorder = Recorder(writer)
    places = [(None, None), (None, None), (0, "cond"), (0, "uncond"), (0, "uncond"), (1, "cond")]
    for recorder.step, recorder.guidance_pass in places:
        recorder.value("site", "value", "Array", {}, np.ones(1))
    recorder.stage = "stage_2"
    recorder.value("site", "value", "Array", {}, np.ones(1))
    trace = close(writer)
    assert [record.key.call for record in trace.records] == [0, 1, 0, 0, 1, 0, 0]
    assert len(trace.by_key()) == len(places) + 1


def test_only_wanted_sites_and_only_outputs_are_recorded(writer: TraceWriter) -> None:
    recorder = Recorder(writer, sites=("transformer.blocks.*", "latent.*"), outputs_only=True)
    for site in ("transformer.blocks.0", "transformer.norm", "latent.video"):
        recorder.value(site, "value", "Array", {"x": np.ones(2)}, np.ones(1))
    records = close(writer).records
    assert [record.key.site for record in records] == ["transformer.blocks.0", "latent.video"]
    assert all(record.inputs == {} for record in records)


class Module:
    """As much of torch.nn.Module as the probe uses."""

    def __init__(self, forward: Any, **children: Module) -> None:
        self.forward = forward
        self.children = children
        self.before: list[Any] = []
        self.after: list[Any] = []

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, child in self.children.items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def register_forward_pre_hook(self, hook: Any, with_kwargs: bool) -> None:
        self.before.append(hook)

    def register_forward_hook(self, hook: Any, with_kwargs: bool) -> None:
        self.after.append(hook)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for hook in self.before:
            hook(self, args, kwargs)
        output = self.forward(*args, **kwargs)
        for hook in self.after:
            hook(self, args, kwargs, output)
        return output


def test_modules_are_recorded_in_order_of_completion_with_inputs_by_name(writer: TraceWriter) -> None:
    def double_in_place(x: np.ndarray[Any, Any], scale: float = 2.0, **extra: Any) -> np.ndarray[Any, Any]:
        x *= scale
        return x

    inner = Module(double_in_place)
    root = Module(lambda x: inner(x.copy(), mask=None), layer=inner)
    tap_torch(Recorder(writer), "net", root)
    root(np.ones(2, np.float32))
    trace = close(writer)
    child, whole = trace.records
    assert (child.key.site, whole.key.site) == ("net.layer", "net")
    assert set(child.inputs) == {"x", "scale", "mask"}
    assert child.inputs["scale"] == {"value": 2.0}
    np.testing.assert_array_equal(trace.tensor(child.inputs["x"]), [1, 1])  # as it was before the call wrote to it
    np.testing.assert_array_equal(trace.tensor(child.outputs), [2, 2])


def test_a_module_entered_by_another_method_is_recorded_there(writer: TraceWriter) -> None:
    class MelSTFT(Module):
        def mel_spectrogram(self, y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return y + 1

    mel = MelSTFT(lambda: None)
    tap_torch(Recorder(writer), "vocoder", mel, {"MelSTFT": "mel_spectrogram"})
    mel.mel_spectrogram(np.zeros(2, np.float32))
    (record,) = close(writer).records
    assert (record.key.site, record.type, list(record.inputs)) == ("vocoder", "MelSTFT", ["y"])


def test_the_skipped_root_and_unwanted_sites_get_no_hook(writer: TraceWriter) -> None:
    child = Module(lambda x: x)
    root = Module(lambda x: child(x), layer=child)
    tap_torch(Recorder(writer, sites=("net",)), "net", root, skip_root=True)
    assert not root.before
    assert not child.before
    writer.abort()


def test_records_are_json_without_not_a_number(writer: TraceWriter) -> None:
    Recorder(writer).value("site", "value", "float", {"x": float("nan")}, float("-inf"))
    writer.close(MANIFEST)
    (line,) = (writer.folder / "records.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert record["inputs"]["x"] == {"value": "nan"}
    assert record["outputs"] == {"value": "-inf"}


def test_a_sketch_is_linear_in_the_tensor_and_of_its_pieces() -> None:
    values = np.random.default_rng(1).standard_normal(3 * probe_sketch.SKETCH_SUMS * 700 + 11)
    whole = probe_sketch.sketch(values)
    cut = 5 * probe_sketch.SKETCH_SUMS + 77
    pieces = probe_sketch.merge(probe_sketch.sketch(values[:cut]), probe_sketch.sketch(values[cut:], cut))
    np.testing.assert_allclose(pieces.sums, whole.sums, rtol=0, atol=1e-10)
    assert pieces.energy == pytest.approx(whole.energy, rel=1e-12)
    assert pieces.finite == whole.finite == values.size
    np.testing.assert_allclose(probe_sketch.sketch(2 * values).sums, 2 * whole.sums)


def test_signs_are_those_of_the_published_generator_wherever_a_piece_begins() -> None:
    state = (probe_sketch.SKETCH_SEED + 3 * 0x9E3779B97F4A7C15) & (2**64 - 1)  # splitmix64, word 3
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = ((state ^ (state >> shift)) * factor) & (2**64 - 1)
    state ^= state >> 31
    expected = [1 if (state >> bit) & 1 else -1 for bit in range(64)]
    assert probe_sketch.signs(3 * 64, 64).tolist() == expected
    assert probe_sketch.signs(3 * 64 + 5, 20).tolist() == expected[5:25]
    assert abs(int(probe_sketch.signs(0, 100_000).astype(np.int64).sum())) < 1500


def test_sketches_of_a_trace_are_those_of_each_tensor_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 9), (4, 9), (0,), (1 << 16,), ())]
    broken = arrays[0].copy()
    broken[1, 2] = np.nan
    writer = TraceWriter(tmp_path / "trace", ArrayBackend())
    recorder = Recorder(writer, sketch=True)
    for array in (*arrays, broken):
        recorder.value("site", "value", "Array", {"given": array}, array)
    recorder.value("noise.video", "value", "Array", {}, arrays[0])
    trace = close(writer)
    assert [record.index for record in trace.records] == list(range(7))
    for array, record in zip((*arrays, broken), trace.records, strict=False):
        expected = probe_sketch.sketch(array.reshape(-1))
        leaf = record.outputs
        assert record.inputs == {}
        assert leaf["norm"] == np.sqrt(expected.energy)
        assert (leaf["finite"], leaf["shape"], leaf["dtype"]) == (expected.finite, list(array.shape), "float32")
        np.testing.assert_array_equal(trace.tensor({"tensor": leaf["sketch"]}), expected.sums[: array.size])
    assert trace.records[5].outputs["finite"] == broken.size - 1
    np.testing.assert_array_equal(trace.tensor(trace.records[6].outputs), arrays[0])


def test_padding_of_a_masked_component_counts_as_zero(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "trace", ArrayBackend())
    states = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    recorder = Recorder(writer, sketch=True, masks={"gemma": np.array([[0, 0, 1, 1]])})
    recorder.value("gemma.norm", "module", "Norm", {}, states)
    leaf = close(writer).records[0].outputs
    assert leaf["norm"] == pytest.approx(float(np.linalg.norm(states[:, 2:])))
