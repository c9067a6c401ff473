"""MLX CLIP without a reference: strict loading, tokens, pixels, mosaics. parity/suites compares it with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ltx_native.errors import CheckpointError, ConfigError, RequestError, UserError
from parity.clip import Clip, FrameSampling
from parity.clip.preprocess import centre_crop, read_preprocessing
from parity.clip.tokenizer import read_tokenizer

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
VOCAB = {c: i for i, c in enumerate(ALPHABET)} | {f"{c}</w>": 26 + i for i, c in enumerate(ALPHABET)}
VOCAB |= {"ca": 52, "cat</w>": 53, "<|startoftext|>": 54, "<|endoftext|>": 55}
MERGES = [["c", "a"], ["ca", "t</w>"]]


def sizes(width: int, heads: int) -> dict[str, Any]:
    shared = {"num_hidden_layers": 2, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    return {**shared, "hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads}


CONFIG: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 12,
    "logit_scale_init_value": 2.6592,
    "text_config": {**sizes(16, 2), "vocab_size": 56, "max_position_embeddings": 10, "eos_token_id": 55},
    "vision_config": {**sizes(24, 3), "image_size": 16, "patch_size": 8, "num_channels": 3},
}
STEPS: dict[str, Any] = {"do_resize": True, "size": {"shortest_edge": 16}, "resample": 3, "do_center_crop": True}
STEPS |= {"crop_size": {"height": 16, "width": 16}, "do_rescale": True, "rescale_factor": 1 / 255}
STEPS |= {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All of the tiny model's tensors under their Hugging Face names and layouts."""
    out: dict[str, np.ndarray] = {"logit_scale": np.array(2.0, np.float32)}

    def add(name: str, *shape: int) -> None:
        out[name] = (rng.normal(size=shape) * (0.3 if len(shape) > 1 else 0.1)).astype(np.float32)

    for tower, width in (("text_model", 16), ("vision_model", 24)):
        for layer in range(2):
            prefix = f"{tower}.encoder.layers.{layer}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                add(f"{prefix}.self_attn.{name}.weight", width, width)
                add(f"{prefix}.self_attn.{name}.bias", width)
            add(f"{prefix}.mlp.fc1.weight", 2 * width, width)
            add(f"{prefix}.mlp.fc1.bias", 2 * width)
            add(f"{prefix}.mlp.fc2.weight", width, 2 * width)
            add(f"{prefix}.mlp.fc2.bias", width)
            for norm in ("layer_norm1", "layer_norm2"):
                out[f"{prefix}.{norm}.weight"] = np.ones(width, np.float32)
                add(f"{prefix}.{norm}.bias", width)
    for norm, width in (
        ("text_model.final_layer_norm", 16),
        ("vision_model.pre_layrnorm", 24),
        ("vision_model.post_layernorm", 24),
    ):
        out[f"{norm}.weight"] = np.ones(width, np.float32)
        add(f"{norm}.bias", width)
    add("text_model.embeddings.token_embedding.weight", 56, 16)
    add("text_model.embeddings.position_embedding.weight", 10, 16)
    add("vision_model.embeddings.class_embedding", 24)
    add("vision_model.embeddings.patch_embedding.weight", 24, 3, 8, 8)
    add("vision_model.embeddings.position_embedding.weight", 5, 24)
    add("text_projection.weight", 12, 16)
    add("visual_projection.weight", 12, 24)
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(STEPS))
    model = {"type": "BPE", "vocab": VOCAB, "merges": MERGES, "end_of_word_suffix": "</w>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    save_file(tensors(np.random.default_rng(0)), tmp_path / "model.safetensors")
    return tmp_path


def edit(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def frames(count: int = 9, side: int = 20) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def test_embeddings_have_unit_length(folder: Path) -> None:
    clip = Clip.open(folder)
    texts, images = clip.embed_texts(["a cat", "dog"]), clip.embed_frames(frames())
    assert texts.shape == (2, 12)
    assert images.shape == (8, 12)
    for rows in (texts, images, clip.embed_stills(frames())):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_a_batch_is_its_rows(folder: Path) -> None:
    clip = Clip.open(folder)
    captions = ["a cat", "dog", "zebra cat"]
    together = clip.embed_texts(captions)
    np.testing.assert_allclose(together, np.concatenate([clip.embed_texts([c]) for c in captions]), atol=1e-5)
    images = frames(5)
    np.testing.assert_allclose(clip.embed_images(images), clip.embed_images(images, batch=2), atol=1e-5)


def test_token_ids(folder: Path) -> None:
    tokenizer = read_tokenizer(folder, "clip", 10)
    ids = tokenizer.encode(["A  CAT", "b"])
    assert ids.tolist() == [[54, 26, 53, 55], [54, 27, 55, 55]]
    assert tokenizer.encode(["cat " * 20], truncate=True).tolist() == [[54, *[53] * 8, 55]]


def test_only_the_text_up_to_the_first_end_counts(folder: Path) -> None:
    clip = Clip.open(folder)
    short, padded = np.array([[54, 53, 55]]), np.array([[54, 53, 55, 55, 55, 55]])
    np.testing.assert_allclose(clip.text_features(short), clip.text_features(padded), atol=1e-5)
    assert np.abs(clip.text_features(short) - clip.text_features(np.array([[54, 26, 55]]))).max() > 1e-3


def test_the_old_end_token_reads_the_same(folder: Path) -> None:
    now = Clip.open(folder).embed_texts(["a cat"])
    edit(folder / "config.json", {"text_config": {**CONFIG["text_config"], "eos_token_id": 2}})
    np.testing.assert_array_equal(Clip.open(folder).embed_texts(["a cat"]), now)


def test_old_and_half_precision_checkpoints_load(folder: Path) -> None:
    """Position counters of old files are dropped; fp16 weights are computed with in fp32."""
    plain = Clip.open(folder).embed_texts(["a cat"])
    weights = {k: v.astype(np.float16) for k, v in load_file(folder / "model.safetensors").items()}
    weights["text_model.embeddings.position_ids"] = np.arange(10)[None]
    save_file(weights, folder / "model.safetensors")
    half = Clip.open(folder).embed_texts(["a cat"])
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, plain, atol=5e-3)


def damage(folder: Path, kind: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "text_model.encoder.layers.1.mlp.fc1.bias"
    if kind == "missing":
        del weights[name]
    elif kind == "extra":
        weights["text_model.extra"] = np.zeros(3, np.float32)
    elif kind == "shape":
        weights[name] = weights[name][:-1]
    elif kind == "nan":
        weights[name][3] = np.nan
    save_file(weights, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "no file":
        path.unlink()


@pytest.mark.parametrize("kind", ["missing", "extra", "shape", "nan", "truncated", "no file"])
def test_weights_are_loaded_strictly(folder: Path, kind: str) -> None:
    damage(folder, kind)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        Clip.open(folder)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "word"),
    [
        ("config.json", {"model_type": "blip"}, "model_type"),
        ("config.json", {"qk_norm": True}, "qk_norm"),
        ("config.json", {"text_config": {**CONFIG["text_config"], "rope_theta": 1e4}}, "text_config.rope_theta"),
        ("config.json", {"text_config": {**CONFIG["text_config"], "hidden_act": "relu"}}, "hidden_act"),
        ("config.json", {"vision_config": {**CONFIG["vision_config"], "num_attention_heads": 5}}, "num_attention_heads"),
        (
            "config.json",
            {"vision_config": {k: v for k, v in CONFIG["vision_config"].items() if k != "patch_size"}},
            "patch_size",
        ),
        ("config.json", {"text_config_dict": {"hidden_size": 99}}, "text_config_dict.hidden_size"),
        ("preprocessor_config.json", {"do_pad": True}, "do_pad"),
        ("preprocessor_config.json", {"size": {"longest_edge": 16}}, "size"),
        ("preprocessor_config.json", {"image_std": [1, 1, 0]}, "image_std"),
        ("preprocessor_config.json", {"resample": 9}, "resample"),
        ("preprocessor_config.json", {"frame_sampling": {"mosaic": [2, 3]}}, "at least 8"),
        ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {}}}, "BPE"),
    ],
)
def test_what_is_not_implemented_is_refused(folder: Path, file: str, change: dict[str, Any], word: str) -> None:
    edit(folder / file, change)
    with pytest.raises(ConfigError) as caught:
        Clip.open(folder)
    assert word in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_wrong_crop_is_told_in_words(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", {"crop_size": {"height": 8, "width": 8}})
    with pytest.raises(ConfigError, match=r"\(8, 8, 3\).*\(16, 16, 3\)"):
        Clip.open(folder).embed_frames(frames())


@pytest.mark.parametrize("caption", ["cat " * 9, "c4t", "cat 4", "<|endoftext|> cat"])
def test_unreadable_captions_are_refused(folder: Path, caption: str) -> None:
    """Too long, a character outside the vocabulary, an end token spelled out: each would score half a caption."""
    with pytest.raises(RequestError):
        Clip.open(folder).embed_texts([caption])


def test_fingerprint_follows_the_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    one = Clip.open(folder).fingerprint
    other = tmp_path_factory.mktemp("other")
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert Clip.open(other).fingerprint == one
    edit(other / "preprocessor_config.json", {"resample": 2})
    third = tmp_path_factory.mktemp("third")
    for path in other.iterdir():
        (third / path.name).write_bytes(path.read_bytes())
    assert Clip.open(third).fingerprint != one


def test_mosaic_shows_the_clip_row_by_row(folder: Path) -> None:
    sampling = FrameSampling(9, (3, 3))
    numbered = np.arange(17, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    image = sampling.images(numbered)
    assert image.shape == (1, 12, 12, 3)
    assert image[0, ::4, ::4, 0].tolist() == [[0, 2, 4], [6, 8, 10], [12, 14, 16]]
    still = sampling.still_images(numbered[5:7])
    assert still.shape == (2, 12, 12, 3)
    assert set(np.unique(still[0])) == {5}
    (folder / "frame_sampling.json").write_text('{"mosaic": [3, 3]}')
    clip = Clip.open(folder)
    assert clip.embed_frames(frames()).shape == (1, 12)
    assert clip.embed_stills(frames()).shape == (9, 12)


def test_filmstrip_of_the_world(folder: Path) -> None:
    """What the world's CLIP was trained on, to the last level."""
    from parity.world.filmstrip import DECLARED, filmstrip

    edit(folder / "preprocessor_config.json", {"filmstrip": DECLARED})
    sampling = Clip.open(folder).sampling
    for count, side in ((9, 64), (17, 128), (33, 32)):
        clip = np.random.default_rng(count).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
        np.testing.assert_array_equal(sampling.images(clip)[0], filmstrip(clip))
    with pytest.raises(RequestError, match="multiple of 32"):
        sampling.images(np.zeros((9, 48, 64, 3), np.uint8))
    (folder / "frame_sampling.json").write_text('{"frames": 8}')
    with pytest.raises(ConfigError, match="one declaration"):
        Clip.open(folder)


@given(count=st.integers(1, 200), wanted=st.integers(8, 32))
def test_sampled_frames_are_spread_evenly(count: int, wanted: int) -> None:
    indices = FrameSampling(wanted, None).indices(count)
    assert indices[0] == 0
    assert indices[-1] == count - 1 or count == 1
    assert len(indices) == min(wanted, count)
    assert (np.diff(indices) >= 1).all()


@given(height=st.integers(1, 12), width=st.integers(1, 12), crop=st.integers(1, 12))
def test_centre_crop_keeps_the_middle(height: int, width: int, crop: int) -> None:
    image = np.arange(1, height * width + 1).reshape(height, width, 1)
    out = centre_crop(image, crop, crop)
    assert out.shape == (crop, crop, 1)
    assert (out > 0).sum() == min(height, crop) * min(width, crop)
    if height >= crop and width >= crop:
        top, left = (height - crop) // 2, (width - crop) // 2
        np.testing.assert_array_equal(out, image[top : top + crop, left : left + crop])


def test_pixels_are_normalised_in_float32(folder: Path) -> None:
    preprocessing, _ = read_preprocessing(folder / "preprocessor_config.json")
    flat = np.full((1, 16, 16, 3), 51, np.uint8)
    expected = (np.float32(51 / 255) - np.array([0.5, 0.4, 0.3], np.float32)) / np.array([0.2, 0.3, 0.4], np.float32)
    np.testing.assert_array_equal(preprocessing(flat)[0, 3, 3], expected)
    with pytest.raises(ValueError, match="expected uint8"):
        preprocessing(flat.astype(np.float32))


def test_every_error_is_a_user_error() -> None:
    assert all(issubclass(kind, UserError) for kind in (CheckpointError, ConfigError, RequestError))
