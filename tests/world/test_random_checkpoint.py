"""The made checkpoint: same bytes from the same seed, real signal buffers, a tokenizer that both libraries read alike."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from ltx_native.checkpoint import Checkpoint
from ltx_native.config import GemmaConfig, ModelConfig, UpsamplerConfig
from ltx_native.convert import convert
from parity.world import layout, signal_bases
from parity.world.dequantised import write_dequantised
from parity.world.presets import UPSAMPLERS, preset
from parity.world.random_checkpoint import draw, main, paths, round_to_bfloat16, write_checkpoint, write_lora

PROMPTS = (
    "A cat walks along the beach",
    "  two  spaces, (digits) 1234567890 & punctuation: \"quotes\" -- dashes; question?",
    "Zoë naïvely sipped a crème brûlée — 日本語, emoji 🎬 and\ttabs\nand lines",
    "--begins like an option",
    "<start_of_turn>",
    "x",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "tiny"
    write_checkpoint(out)
    return out


def digests(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_same_seed_same_bytes_another_seed_other_weights(made: Path, tmp_path: Path) -> None:
    assert main([str(tmp_path / "again")]) == 0
    assert digests(tmp_path / "again") == digests(made)
    assert main([str(tmp_path / "again"), "--seed", "1", "--no-split"]) == 0, "an old checkpoint is replaced whole"
    other = digests(tmp_path / "again")
    assert "split/vocoder.safetensors" not in other
    same = {name for name, digest in other.items() if digests(made)[name] == digest}
    assert {Path(name).suffix for name in same} == {".json", ".model"}


def test_size_and_files(made: Path) -> None:
    assert sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) < 60e6
    assert all(path.exists() for path in paths(made).values())
    assert {path.name for path in made.parent.iterdir()} == {"tiny"}, "no temporary folder stays"


@pytest.mark.parametrize("name", ["tiny", "mid"])
def test_presets_are_accepted_by_the_strict_reader(name: str) -> None:
    config, gemma = preset(name)
    text = GemmaConfig.from_hf(gemma)
    model = ModelConfig.from_official(config, num_states=text.num_states, model_version="2.3.0")
    assert model.feature_extractor.embedding_dim == text.hidden_size
    assert np.prod(model.vocoder.upsample_rates) == 160, "16 kHz from 100 mel frames a second"
    assert np.prod(model.bwe.upsample_rates) == 240, "48 kHz from 200 mel frames a second"
    for upsampler in UPSAMPLERS.values():
        UpsamplerConfig.from_official(upsampler)


def test_every_tensor_is_set_finite_and_exact_in_bfloat16(made: Path) -> None:
    with safe_open(str(paths(made)["model"]), "np") as file:
        config = json.loads(file.metadata()["config"])
        names = set(file.keys())
        floats = [name for name in names if not name.startswith(("vae.encoder.", "audio_vae."))]
        for name in floats:
            values = file.get_tensor(name)
            assert np.isfinite(values).all(), name
            assert np.ptp(values) > 0 or (values.size == 1 and values != 0), name
            assert (round_to_bfloat16(values) == values).all(), name
    assert config == preset("tiny")[0]
    assert names == {tensor.key for tensor in layout.official(config, 7)}
    assert sum(".nin_shortcut." in name for name in names) == 6
    assert not (draw(layout.Tensor("a", (64,), "std"), 0) == 1).any()


def test_round_to_bfloat16_is_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -1.00390625, 1.005, 0.0], np.float32)
    assert round_to_bfloat16(values).tolist() == [1.0, 1.0, 1.015625, -1.0, 1.0078125, 0.0]


def test_tensors_do_not_depend_on_each_other() -> None:
    one = draw(layout.Tensor("a.weight", (8, 4), "weight", 4), 0)
    assert (one == draw(layout.Tensor("a.weight", (8, 4), "weight", 4), 0)).all()
    assert (one != draw(layout.Tensor("b.weight", (8, 4), "weight", 4), 0)).any()


def test_kaiser_sinc_passes_low_and_stops_high() -> None:
    taps = signal_bases.kaiser_sinc()[0, 0]
    response = np.abs(np.fft.rfft(taps, 512))
    assert taps.sum() == pytest.approx(1)
    assert np.allclose(taps, taps[::-1])
    assert response[:40].min() > 0.95
    assert response[-64:].max() < 0.01


def test_dft_bases_analyse_and_resynthesise() -> None:
    forward, inverse = (basis[:, 0] for basis in signal_bases.dft_bases(512, 80))
    signal = np.sin(np.arange(4096) * 0.3) + np.random.default_rng(0).standard_normal(4096) * 0.1
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    out = np.zeros(4096)
    for start in range(0, 4096 - 512, 80):
        frame = signal[start : start + 512]
        spectrum = forward @ frame
        want = np.fft.rfft(frame * window)
        assert np.allclose(spectrum, np.concatenate([want.real, want.imag]), atol=1e-9)
        out[start : start + 512] += spectrum @ inverse
    assert np.allclose(out[600:3400], signal[600:3400], atol=0.02 * np.abs(signal).max())


def test_slaney_mels() -> None:
    mels = signal_bases.slaney_mels(16000, 512, 64)
    centres = (mels @ np.linspace(0, 8000, 257)) / mels.sum(1)
    assert mels.shape == (64, 257)
    assert (mels.sum(1) > 0).all()
    assert (np.diff(centres) > 0).all()
    assert np.allclose(mels.sum(1)[20:] * 8000 / 256, 1, atol=0.1), "each triangle has unit area in hertz"


def test_tokenizer_files_agree(made: Path) -> None:
    import sentencepiece
    from tokenizers import Tokenizer

    folder = paths(made)["gemma"]
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for prompt in PROMPTS:
        if prompt.startswith("<"):
            assert fast.encode(prompt).ids == [2, 504], "a special token in the text is one token"
            continue
        ids = fast.encode(prompt).ids
        assert ids == [2, *pieces.encode(prompt)]
        assert max(ids) < 512
        assert fast.decode(ids) == prompt
    assert [fast.token_to_id(token) for token in ("<pad>", "<eos>", "<bos>", "<unk>")] == [0, 1, 2, 3]
    assert [fast.token_to_id(f"<{token}>") for token in ("start_of_image", "end_of_image", "image_soft_token")] == [
        506,
        507,
        508,
    ]


def test_lora_touches_what_it_is_asked_to(tmp_path: Path) -> None:
    with safe_open(str(write_lora(tmp_path / "all.safetensors", rank=3)), "np") as file:
        keys = list(file.keys())
        assert len(keys) == 2 * 2 * (6 * 4 + 4)
        assert all(key.startswith("diffusion_model.transformer_blocks.") for key in keys)
        assert file.get_tensor("diffusion_model.transformer_blocks.0.ff.net.2.lora_A.weight").shape == (3, 256)
    with safe_open(str(write_lora(tmp_path / "some.safetensors", only="audio_attn1")), "np") as file:
        assert len(list(file.keys())) == 2 * 2 * 4


@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_dequantised_single_file_equals_the_quantised_folder(made: Path, tmp_path: Path, dtype: str) -> None:
    convert(paths(made)["model"], tmp_path / "split", dtype=dtype, group_size=32)
    path = write_dequantised(tmp_path / "split", paths(made)["model"], tmp_path / "dense.safetensors")
    quantised, dense = Checkpoint.open(tmp_path / "split"), Checkpoint.open(path)
    one = quantised.weights("transformer", "float32")
    other = dense.weights("transformer", "float32")
    changed = 0
    for name, value in other.items():
        if (layer := name.removesuffix(".weight")) + ".scales" in one:
            parts = [one[f"{layer}.{part}"] for part in ("weight", "scales", "biases")]
            value_of_parts = mx.dequantize(*parts, group_size=32, bits=int(dtype[1]))
            assert mx.array_equal(value, value_of_parts).item(), name
            changed += 1
        else:
            assert mx.array_equal(value, one[name]).item(), name
    assert changed == 68
    assert dense.config == quantised.config
    for component in ("vocoder", "video_decoder", "audio_encoder"):
        a, b = dense.weights(component, "float32"), quantised.weights(component, "float32")
        assert all(mx.array_equal(a[name], b[name]).item() for name in a)


def test_bad_arguments_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "out"), "--preset", "huge"])
    assert caught.value.code == 2
    with pytest.raises(KeyError):
        write_checkpoint(tmp_path / "out", name="huge")
    with pytest.raises(KeyError):
        write_checkpoint(tmp_path / "out", upsamplers=["nothing"])
    assert list(tmp_path.iterdir()) == []
