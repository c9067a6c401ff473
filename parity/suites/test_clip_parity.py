"""The judge is judged first: MLX CLIP against transformers' CLIPModel, same random weights, same frames and captions.

Token ids and pixel values must be equal, features within rel_l2 1e-5. `--basetemp` holds the folders made on the way.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

from ltx_native.errors import RequestError
from parity.clip import Clip
from parity.clip.tokenizer import ClipTokenizer, read_tokenizer
from parity.folders import ROOT

BOUND_REL_L2 = 1e-5
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CAPTIONS = [
    "a red circle moving right on a gray background",
    "A  Photo\tof two cats' tails, isn't it?  (2 of 3) #7",
    "café naïve — 东京 Ünïcode ﬁligree 😀 e\u0301",
    "",
    "zebra",
]
LONG = "a blue square standing still on a white background, and " * 12


def reference_python() -> Path:
    """The interpreter of the reference environment; its absence fails the session in words."""
    python = Path(os.environ.get("LTX_REFERENCE_PYTHON", ROOT / ".venv-reference/bin/python"))
    if not python.is_file():
        pytest.fail(
            f"inconclusive: no reference environment at {python}; MLX CLIP was compared with nothing. "
            "Expected an interpreter with torch and transformers. Run `make reference` or set LTX_REFERENCE_PYTHON.",
            pytrace=False,
        )
    return python


def clip_config(layers: int, patch: int, width: int, text_width: int, projection: int, eos: int = 49407) -> dict[str, Any]:
    """An OpenAI layout; heads are 64 wide as in the released models."""
    shared = {"num_hidden_layers": layers, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    shared["projection_dim"] = projection
    text = {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": eos, "bos_token_id": 49406}
    size = {"hidden_size": text_width, "intermediate_size": 4 * text_width, "num_attention_heads": text_width // 64}
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    vision |= {"image_size": 224, "patch_size": patch, "num_channels": 3}
    return {
        "model_type": "clip",
        "projection_dim": projection,
        "logit_scale_init_value": 2.6592,
        "text_config": {**shared, **text, **size},
        "vision_config": {**shared, **vision},
    }


def siglip_config(layers: int) -> dict[str, Any]:
    shared = {"num_hidden_layers": layers, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    shared |= {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    text = {**shared, "vocab_size": 100, "max_position_embeddings": 64}
    vision = {**shared, "image_size": 224, "patch_size": 16, "num_channels": 3}
    return {"model_type": "siglip", "text_config": text, "vision_config": vision}


CASES = {
    "vit-b-32": clip_config(2, 32, 768, 512, 512),
    "vit-l-14": clip_config(2, 14, 1024, 768, 768),
    "old end token": clip_config(1, 32, 128, 128, 64, eos=2),
    "siglip-b-16": siglip_config(2),
}
if os.environ.get("LTX_CLIP_WHOLE"):  # every layer: 151 M and 428 M parameters, 2.3 GB on disk while it runs
    CASES["vit-b-32 whole"] = clip_config(12, 32, 768, 512, 512)
    CASES["vit-l-14 whole"] = clip_config(12, 14, 1024, 768, 768)
    CASES["vit-l-14 whole"]["vision_config"]["num_hidden_layers"] = 24


def preprocessor(model_type: str) -> dict[str, Any]:
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3, "rescale_factor": 1 / 255}
    if model_type == "siglip":
        half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}}
        return {**steps, **half, "do_center_crop": False}
    crop = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 224}}
    return {**steps, **crop, "image_mean": MEAN, "image_std": STD}


def frames(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Smooth colour fields with hard edges and noise: every resampling branch shows."""
    y, x = np.mgrid[0:height, 0:width] / min(height, width)
    waves = [np.sin(rng.uniform(2, 30) * x + rng.uniform(2, 30) * y + rng.uniform(0, 6)) for _ in range(3 * count)]
    image = 127 + 100 * np.stack(waves).reshape(count, 3, height, width).transpose(0, 2, 3, 1)
    image[:, height // 3 : height // 2, width // 4 : width // 2] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def train_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A small CLIP-style BPE (bytes, bytes with word end, merges), special tokens at OpenAI's ids."""
    corpus = [*CAPTIONS, LONG, *(p.read_text(encoding="utf-8") for p in sorted((ROOT / "parity/clip").glob("*.py")))]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=900, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    )
    model = json.loads(tokenizer.to_str())["model"]
    vocab: dict[str, int] = {}
    for token in [*alphabet, *(letter + "</w>" for letter in alphabet), *sorted(model["vocab"], key=model["vocab"].get)]:
        vocab.setdefault(token, len(vocab))
    vocab |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    return vocab, [tuple(pair) for pair in model["merges"]]


def train_sentencepiece(folder: Path, vocab_size: int) -> None:
    import sentencepiece

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join([CAPTIONS[0].lower(), "zebra cats tails two of three", LONG] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=vocab_size,
        pad_id=-1, bos_id=-1, eos_id=1, unk_id=2, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip


def rel_l2(native: np.ndarray, reference: np.ndarray) -> float:
    difference = native.astype(np.float64) - reference.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(reference.astype(np.float64)))


@dataclass
class Pair:
    """One folder opened by the native side, with what the reference made of it."""

    clip: Clip
    captions: list[str]
    frames: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    versions: dict[str, str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Every case's folder, built and run by one process of the reference."""
    root = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(7)
    inputs = {"wide": frames(rng, 2, 96, 160), "large": frames(rng, 1, 517, 300), "square": frames(rng, 1, 64, 64)}
    save_file(inputs, root / "inputs.safetensors")
    vocab, merges = train_vocabulary()
    (root / "vocab.json").write_text(json.dumps(vocab))
    (root / "merges.json").write_text(json.dumps(merges))
    jobs, out = [], {}
    for index, (name, config) in enumerate(CASES.items()):
        folder = out[name] = root / str(index)
        folder.mkdir()
        if config["model_type"] == "siglip":
            train_sentencepiece(folder, config["text_config"]["vocab_size"] - 20)
        job = {"folder": str(folder), "config": config, "seed": 11, "captions": [*CAPTIONS, LONG]}
        job |= {"inputs": str(root / "inputs.safetensors"), "output": str(folder / "reference.safetensors")}
        job |= {"preprocessor": preprocessor(config["model_type"])}
        jobs.append(job | {"vocab": str(root / "vocab.json"), "merges": str(root / "merges.json")})
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [str(reference_python()), str(Path(__file__).with_name("clip_worker.py")), str(root / "jobs.json")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        pytest.fail(f"inconclusive: the reference's CLIP could not run:\n{done.stderr[-3000:]}", pytrace=False)
    yield out
    for folder in out.values():
        (folder / "model.safetensors").unlink()


@pytest.fixture(scope="module", params=list(CASES))
def pair(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Pair:
    folder = folders[request.param]
    with safe_open(folder / "reference.safetensors", "np") as file:
        versions = file.metadata()
    return Pair(
        clip=Clip.open(folder),
        captions=[*CAPTIONS, LONG],
        frames=load_file(folder.parent / "inputs.safetensors"),
        reference=load_file(folder / "reference.safetensors"),
        versions=versions,
    )


def test_token_ids_are_equal(pair: Pair) -> None:
    ids = pair.clip.tokenizer.encode(pair.captions, truncate=True)
    np.testing.assert_array_equal(ids, pair.reference["input_ids"])
    assert ids.shape[1] == pair.clip.tokenizer.limit, "the long caption must reach the limit, else nothing was cut"


def test_a_caption_over_the_limit_is_refused(pair: Pair) -> None:
    with pytest.raises(RequestError, match=r"too long .* at most (77|64) tokens"):
        pair.clip.embed_texts([LONG])


def test_pixel_values_are_equal(pair: Pair) -> None:
    for name, images in pair.frames.items():
        native = pair.clip.preprocessing(images)
        np.testing.assert_array_equal(native, pair.reference[f"pixel_values.{name}"], err_msg=name)


def test_features_agree(pair: Pair, record_property: Any) -> None:
    text = pair.clip.text_features(pair.reference["input_ids"])
    worst = {"text_features": rel_l2(text, pair.reference["text_features"])}
    for name in pair.frames:
        features = pair.clip.image_features(pair.reference[f"pixel_values.{name}"])
        worst[f"image_features.{name}"] = rel_l2(features, pair.reference[f"image_features.{name}"])
        assert np.ptp(features, axis=-1).min() > 0
    record_property("rel_l2", worst)
    print({name: f"{value:.1e}" for name, value in worst.items()}, pair.versions)
    assert max(worst.values()) <= BOUND_REL_L2, worst


def test_different_inputs_give_different_features(pair: Pair) -> None:
    """The comparison is not blind: features of two captions and of two images lie far apart, compared with the bound."""
    for key in ("text_features", "image_features.wide"):
        first, second = pair.reference[key][:2]
        assert rel_l2(first, second) > 1000 * BOUND_REL_L2


def test_both_tokenizer_layouts_agree(tmp_path: Path) -> None:
    """vocab.json + merges.txt read the same as tokenizer.json."""
    vocab, merges = train_vocabulary()
    direct = ClipTokenizer(vocab, merges, 77)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges))
    again = read_tokenizer(tmp_path, "clip", 77)
    np.testing.assert_array_equal(direct.encode(CAPTIONS), again.encode(CAPTIONS))
