"""Blocks one at a time: what is asked for, how weights are handed over, what a planted mistake does."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ltx_native.checkpoint import Checkpoint
from ltx_native.convert import convert
from parity.capture import stream as native
from parity.capture.reference import ReferenceUnavailable
from parity.capture.service import Service
from parity.checkpoints import tiny
from parity.cli import main
from parity.faults.blocks import PLANTS, parse_plant
from parity.stream_request import parse_blocks


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(str(tiny().model))


@pytest.fixture(scope="module")
def prepared(checkpoint: Checkpoint) -> native.Pair:
    drawn = native.synthetic_modalities(checkpoint, 64, 64, 9, 24.0, 16, 0.7, 0)
    return native.prepare(native.StreamedTransformer(checkpoint).model, drawn)


def test_blocks_are_numbers_and_ranges():
    assert parse_blocks("0-2,37") == (0, 1, 2, 37)
    assert parse_plant("37") == ("weight-slice", 37)
    assert parse_plant("no-gate:3") == ("no-gate", 3)
    for wrong in ("", "a", "1-", "-1", "1;2"):
        with pytest.raises(ValueError, match="--blocks"):
            parse_blocks(wrong)
    with pytest.raises(ValueError, match=r"--plant: found 'eps:x'"):
        parse_plant("eps:x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blocks", "7"], "--blocks: block 7, expected 0 to 1"),
        (["--blocks", "0", "--plant", "1"], "block 1 is not among those compared"),
        (["--height", "60"], "--height: found 60"),
        (["--frames", "10"], "--frames: found 10"),
        (["--sigma", "0"], "--sigma above 0"),
    ],
)
def test_bad_input_is_refused_with_status_2(options, message, tmp_path, capsys):
    assert main(["compare", "--stream", *options, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quantised", [False, True])
def test_the_numbers_handed_over_are_those_native_computes_with(checkpoint, prepared, quantised, tmp_path):
    """A plain block filled with them gives what the block itself gives."""
    if quantised:
        convert(tiny().model, tmp_path / "split", dtype="q4", group_size=32)
        checkpoint = Checkpoint.open(str(tmp_path / "split"))
    block = native.StreamedTransformer(checkpoint).block(1)
    native.hand_over(block, tmp_path / "block.safetensors")
    weights = load_file(tmp_path / "block.safetensors")
    assert all(value.dtype == np.float32 for value in weights.values())
    plain = native.StreamedTransformer(Checkpoint.open(str(tiny().model))).block(1)
    plain.load_weights([(name, mx.array(value)) for name, value in weights.items()], strict=True)
    ours, theirs = (native.tokens_of(native.run_block(b, prepared, None)) for b in (block, plain))
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-5 * np.abs(value).max())


def test_arguments_survive_the_way_through_a_file(prepared, tmp_path):
    named = native.flat(prepared)
    save_file(named, tmp_path / "arguments.safetensors")
    again = native.flat(native.args_of(load_file(tmp_path / "arguments.safetensors")))
    assert named.keys() == again.keys()
    assert all(np.array_equal(named[name], again[name]) for name in named)
    assert {"video.x", "audio.x", "video.positional_embeddings.1", "audio.prompt_timestep"} <= named.keys()


@pytest.mark.parametrize("name", PLANTS)
def test_every_mistake_shows(checkpoint, prepared, name):
    blocks = native.StreamedTransformer(checkpoint)
    right, wrong = blocks.block(0), blocks.block(0)
    PLANTS[name](wrong)
    ours, theirs = (native.tokens_of(native.run_block(block, prepared, None)) for block in (wrong, right))
    error = np.linalg.norm(ours["video.x"] - theirs["video.x"]) / np.linalg.norm(theirs["video.x"])
    assert error > 3e-5


def _service(tmp_path: Path, program: str) -> Service:
    """Another side that is this little program."""
    (tmp_path / "program.py").write_text(program)
    return Service("the other side", [sys.executable, str(tmp_path / "program.py")])


def test_an_error_over_there_is_told_here(tmp_path):
    program = "import sys\nprint('{}', flush=True)\nfor line in sys.stdin: print('{\"error\": \"no weights\"}', flush=True)"
    with _service(tmp_path, program) as parts, pytest.raises(ReferenceUnavailable, match="no weights"):
        parts.ask("block", index=0)


def test_a_process_that_ends_is_told_with_its_last_words(tmp_path):
    program = "import sys\nsys.exit('out of memory')"
    with pytest.raises(ReferenceUnavailable, match="status 1: out of memory"), _service(tmp_path, program):
        pass
