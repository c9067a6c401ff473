"""The full-size checkpoint: its plan at the true size without writing it, and the writer itself at a small size."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx_native.checkpoint import Checkpoint
from ltx_native.config import ModelConfig
from ltx_native.files import read_header
from ltx_native.layout import from_split
from ltx_native.quantize import Quantisation
from ltx_native.streaming import StreamedBlocks, streamed_transformer
from ltx_native.tensor_files import read_tensors
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.model import LTXModel
from parity.world import full_decode, full_size, full_step, layout, quick_weights
from parity.world.dequantised import write_dequantised_block
from parity.world.full_size import full_config, main, write_block, write_full_size
from parity.world.presets import preset
from parity.world.streamed_file import Entry, write_streamed

HOW = Quantisation(4, 32)


def small() -> dict[str, Any]:
    return preset("tiny")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full_size(tmp_path_factory.mktemp("full") / "small", config=small(), how=HOW, seed=5)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.*")}


def test_the_plan_has_the_true_models_tensors() -> None:
    """48 blocks: every parameter of the model built from the config, packed as published; about 12 GB."""
    config = full_config()
    plan = full_size._plan(config, 7, full_size.Q4, 0)
    read = ModelConfig.from_official(config, num_states=7, model_version="2.3.0").transformer
    assert (read.num_layers, read.inner_dim, read.audio_inner_dim) == (48, 4096, 2048)
    found = {from_split("transformer", e.key): e for e in plan["transformer-dev.safetensors"]}
    one = {k: v for k, v in found.items() if (k and not k.startswith("transformer_blocks.")) or ".7." in str(k)}
    wanted = dict(tree_flatten(LTXModel(read).parameters()))  # lazy: nothing is computed
    assert {k for k in found if k and not k.endswith((".scales", ".biases"))} == wanted.keys()
    for name, entry in one.items():
        assert name is not None
        if name.endswith((".scales", ".biases")):
            rows, columns = wanted[name.rpartition(".")[0] + ".weight"].shape
            assert (entry.shape, entry.dtype) == ((rows, columns // 64), "BF16"), name
        elif entry.dtype == "U32":
            rows, columns = wanted[name].shape
            assert entry.shape == (rows, columns // 8), name
        else:
            assert entry.shape == wanted[name].shape, name
    assert sum(e.dtype == "U32" for e in found.values()) == 48 * (6 * 5 + 4)
    assert 11e9 < sum(e.nbytes for entries in plan.values() for e in entries) < 13e9


def test_same_seed_same_bytes_and_no_block_like_another(folder: Path, tmp_path: Path) -> None:
    again = write_full_size(tmp_path / "again", config=small(), how=HOW, seed=5)
    other = write_full_size(tmp_path / "other", config=small(), how=HOW, seed=6)
    assert digests(again) == digests(folder)
    for name in ("transformer-dev.safetensors", "connector.safetensors", "vae_decoder.safetensors"):
        assert digests(other)[name] != digests(folder)[name]
    blocks = StreamedBlocks(Checkpoint.open(folder), mx.float32)
    one, two = (dict(tree_flatten(blocks.load(i).parameters())) for i in (0, 1))
    assert not [name for name in one if mx.array_equal(one[name], two[name]).item()]
    assert not list(tmp_path.glob(".*")), "no temporary folder stays"


def test_an_interrupted_run_is_continued_to_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    original, limit = quick_weights.packed, 40

    def packed(tensor: layout.Tensor, how: Quantisation, seed: int) -> Any:
        made.append(tensor.key)
        if len(made) == limit:
            yield np.zeros(3, np.uint32)  # cut inside a tensor
            raise KeyboardInterrupt
        yield from original(tensor, how, seed)

    monkeypatch.setattr(quick_weights, "packed", packed)
    with pytest.raises(KeyboardInterrupt):
        write_full_size(tmp_path / "cut", config=small(), how=HOW, seed=5)
    assert not (tmp_path / "cut").exists()
    assert (tmp_path / ".cut.partial").is_dir()
    assert digests(write_full_size(tmp_path / "cut", config=small(), how=HOW, seed=5)) == digests(folder)
    assert len(made) == 1 + len(set(made)) == 1 + 2 * (6 * 5 + 4), "what was there was not made again"

    limit = 3  # a partial folder of another seed is no beginning
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        write_full_size(tmp_path / "cut2", config=small(), how=HOW, seed=6)
    assert digests(write_full_size(tmp_path / "cut2", config=small(), how=HOW, seed=5)) == digests(folder)


def test_it_runs_finite_and_of_order_one(folder: Path) -> None:
    model = streamed_transformer(Checkpoint.open(folder), "float32")

    def modality(tokens: int, width: int, axes: int) -> Modality:
        positions = mx.random.uniform(shape=(1, axes, tokens, 2), key=mx.random.key(1))
        latent, text = (mx.random.normal((1, n, w), key=mx.random.key(n)) for n, w in ((tokens, 128), (9, width)))
        return Modality(latent, mx.array([0.5]), mx.full((1, 1, 1), 0.5), positions, text)

    for velocity in model(modality(12, 64, 3), modality(6, 32, 1)):
        assert velocity is not None
        assert 0.3 < mx.sqrt(mx.mean(velocity**2)).item() < 5


@pytest.mark.parametrize("block", [1, None])
def test_a_block_for_the_official_code_has_the_quantised_blocks_numbers(
    folder: Path, tmp_path: Path, block: int | None
) -> None:
    from_seed = write_block(tmp_path / "seed.safetensors", block, config=small(), how=HOW, seed=5)
    from_folder = write_dequantised_block(folder, block, tmp_path / "folder.safetensors")
    one, two = read_tensors(from_seed), read_tensors(from_folder)
    table = {
        t.key: t.shape for t in layout.transformer(small()["transformer"]) if (f".{block}." in t.key) == (block is not None)
    }
    if block is None:
        table = {k: v for k, v in table.items() if "transformer_blocks" not in k}
    assert one.keys() == two.keys() == table.keys()
    for key, value in one.items():
        assert value.shape == table[key]
        assert mx.array_equal(value, two[key]).item(), key
    assert read_header(from_seed).metadata == read_header(from_folder).metadata
    half = read_tensors(write_block(tmp_path / "half.safetensors", block, config=small(), how=HOW, seed=5, dtype="bfloat16"))
    assert all(mx.array_equal(half[key], value.astype(mx.bfloat16)).item() for key, value in one.items())


@pytest.mark.parametrize("bits", [4, 8])
def test_quick_weights_have_the_spread_of_drawn_ones(bits: int) -> None:
    tensor, how = layout.Tensor("x.weight", (64, 4096), "weight", 4096, 0.5), Quantisation(bits, 64)
    weight = quick_weights.dequantised(tensor, how, 0)
    assert weight.std() == pytest.approx(0.5 / math.sqrt(4096), rel=0.1)
    assert abs(weight.mean()) < 0.02 * weight.std()
    large = layout.Tensor("y.weight", (2048, 2049), "weight", 2049)
    pieces = list(quick_weights.plain(large, 0))
    assert [p.size for p in pieces] == [1 << 22, 2048 * 2049 - (1 << 22)]
    assert np.concatenate(pieces).std() == pytest.approx(1 / math.sqrt(2049), rel=0.01)


def test_a_tensor_of_the_wrong_length_or_twice_is_an_error(tmp_path: Path) -> None:
    entry = Entry("a", "F32", (3,), lambda: [np.zeros(2, np.float32)])
    with pytest.raises(ValueError, match="a has 8 bytes"):
        list(write_streamed(tmp_path / "f", [entry], {}))
    with pytest.raises(ValueError, match="twice"):
        list(write_streamed(tmp_path / "f", [entry, entry], {}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--block", "48"], "0 to 47"), (["--block", "-1"], "0 to 47"), (["--block", "first"], "a number or root")],
)
def test_bad_input_gives_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_output_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    assert main([str(tmp_path / "out")]) == 2
    assert "The output exists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_the_step_command_compares_and_can_fail(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(folder), "--frames", "2", "--rows", "2", "--columns", "3", "--text", "8", "--dtype", "bfloat16"]
    assert full_step.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "2 blocks, 12 video + 9 audio + 8 text tokens, bfloat16" in printed
    assert "streamed = one by one, bitwise: yes; finite: yes" in printed

    real = StreamedBlocks.load

    def altered(self: StreamedBlocks, index: int) -> Any:
        block = real(self, index)
        if index == 1:
            block.audio_ff.net[2].bias = 1.01 * block.audio_ff.net[2].bias
        return block

    monkeypatch.setattr(StreamedBlocks, "load", altered)
    assert full_step.main(arguments) == 1
    assert "bitwise: NO" in capsys.readouterr().out


def test_the_step_command_names_what_is_wrong(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([str(tmp_path / "none")], [str(folder), "--dtype", "int8"]):
        assert full_step.main(arguments) == 2
    assert capsys.readouterr().err.count("full_step: The ") == 2


def test_the_true_decoder_has_the_published_shapes() -> None:
    """86 tensors, 407 million numbers; convolutions by width as in the published folder."""
    table = [t for t in layout.video_vae(full_decode.true_vae()) if t.key.startswith("vae.decoder.")]
    assert len(table) + 2 == 86
    assert sum(math.prod(t.shape) for t in table) == pytest.approx(407e6, rel=2e-3)
    ups = [t.shape for t in table if re.search(r"up_blocks\.\d\.conv\.conv\.weight", t.key)]
    assert [shape[:2] for shape in ups] == [(4096, 1024), (4096, 512), (512, 512), (512, 256)]
    assert [t.shape[:2] for t in table if t.key == "vae.decoder.conv_out.conv.weight"] == [(48, 128)]


def test_the_decode_command_counts_frames_and_names_a_wrong_size(capsys: pytest.CaptureFixture[str]) -> None:
    """The true-size decoder takes minutes; a narrow one goes the same way."""
    narrow = full_decode.true_vae() | {"decoder_base_channels": 2}
    size = ["--frames", "17", "--height", "64", "--width", "96"]
    assert full_decode.main([*size, "--dtype", "bfloat16"], narrow) == 0
    assert re.search(r"17 frames 64 x 96 in [\d.]+ s .*peak resident [\d.]+ GB", capsys.readouterr().out)
    assert full_decode.main([*size[:-1], "100"], narrow) == 2
    assert "in --width): found 100, expected a multiple of 32, plus 0" in capsys.readouterr().err
