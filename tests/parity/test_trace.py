"""A trace is whole or it is refused."""

import json

import numpy as np
import pytest

from parity.trace import Key, Trace, TraceError, TraceWriter, leaves


def write(folder, sites=("a", "b")):
    with TraceWriter(folder, {"side": "native"}) as writer:
        for i, site in enumerate(sites):
            leaf = writer.store(np.full((2, 3), i, np.float32))
            writer.append(site, leaf, stage="stage_1", inputs={"x": leaf})
    return folder


def test_round_trip(tmp_path):
    trace = Trace(write(tmp_path / "t"))
    assert [record.key.site for record in trace.records] == ["a", "b"]
    record = trace.by_key()[Key("b", "stage_1", None, None, 0)]
    assert np.array_equal(trace.tensor(record.outputs), np.ones((2, 3), np.float32))


def test_calls_of_one_site_are_told_apart(tmp_path):
    trace = Trace(write(tmp_path / "t", ("a", "a", "a")))
    assert [record.key.call for record in trace.records] == [0, 1, 2]


def test_equal_tensors_are_stored_once(tmp_path):
    with TraceWriter(tmp_path / "t", {}) as writer:
        first, second = writer.store(np.ones(4)), writer.store(np.ones(4))
        writer.append("a", first, stage="s")
    assert first["tensor"] == second["tensor"]


def test_leaves_name_every_tensor():
    tree = {"items": [{"type": "X", "fields": {"x": {"value": 1}}}, {"value": 2}]}
    assert [path for path, _ in leaves(tree)] == ["0.x", "1"]


def test_nothing_appears_when_the_run_fails(tmp_path):
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t", {}) as writer:
        writer.append("a", {"value": 1}, stage="s")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def truncate(folder):
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-7])


def drop_record(folder):
    path = folder / "records.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")


def remove_file(folder):
    next(folder.glob("*.safetensors")).unlink()


def not_complete(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"complete": False}))


def other_schema(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))


def no_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [truncate, drop_record, remove_file, not_complete, other_schema, no_manifest])
def test_damaged_traces_are_refused(tmp_path, damage):
    folder = write(tmp_path / "t")
    damage(folder)
    with pytest.raises(TraceError):
        Trace(folder)
