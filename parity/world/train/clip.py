"""Train the world's CLIP (transformers' CLIPModel) on filmstrips and captions, and write it in Hugging Face layout."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from parity.world.filmstrip import DECLARED, GRID, TILE
from parity.world.render import render_batch, to_uint8
from parity.world.scene import Caption, Scene, all_captions, split
from parity.world.train.networks import CLIP
from parity.world.train.recipe import SEED, STAGES
from parity.world.train.state import Stage, without_gradients

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 bytes, in the order of CLIP's vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(len(rest))]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Byte-pair merges over whole words, the most frequent pair first, ties in alphabetical order."""
    split_words = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split_words.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for word, parts in split_words.items():
            split_words[word] = _merge(parts, best)
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def write_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt as CLIP has them, learned from the world's words."""
    words = Counter(word for caption in all_captions() for word in caption.text.split())
    merges = learn_merges(words, 200)
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), START, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "add_prefix_space": False,
        "bos_token": START,
        "do_lower_case": True,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": END,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> Any:
    """transformers' own CLIP tokenizer over those files."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


class Clip(nn.Module):
    """CLIPModel with the world's sizes."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        from transformers import CLIPConfig, CLIPModel

        ids = {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
        text = {**CLIP["text"], **ids, "pad_token_id": vocabulary - 1}
        config = CLIPConfig(text_config=text, vision_config=CLIP["vision"], projection_dim=CLIP["projection_dim"])
        self.clip = CLIPModel(config)

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Scaled cosines, pictures by captions. (B, C)"""
        image = self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)
        text = self.clip.text_projection(self.clip.text_model(input_ids=ids).pooler_output)
        scale = self.clip.logit_scale.exp().clamp(max=100.0)
        return scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T


def strips(clips: np.ndarray[Any, Any]) -> torch.Tensor:
    """(B, 9, 32, 32, 3) in [0, 1] to normalised pictures (B, 3, 96, 96)."""
    count = len(clips)
    grid = clips.reshape(count, GRID, GRID, TILE, TILE, 3).transpose(0, 5, 1, 3, 2, 4)
    picture = torch.from_numpy(np.ascontiguousarray(grid)).reshape(count, 3, GRID * TILE, GRID * TILE)
    return (picture.float() - MEAN[0]) / STD[0]


def soften(clips: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """What a small VAE does to a clip: blurred outlines, shifted levels, some noise."""
    passes = int(rng.integers(0, 4))
    for axis in (2, 3):
        for _ in range(passes):
            clips = 0.5 * clips + 0.25 * (np.roll(clips, 1, axis) + np.roll(clips, -1, axis))
    shape = (len(clips), 1, 1, 1, 3)
    clips = clips * rng.uniform(0.9, 1.1, shape) + rng.uniform(-0.06, 0.06, shape)
    return np.clip(clips + rng.normal(0.0, rng.uniform(0.0, 0.04), clips.shape), 0.0, 1.0)


def loss_of(
    net: Clip, ids: torch.Tensor, captions: Sequence[Caption], config: dict[str, Any], step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy both ways between a batch of pictures and all training captions, hard negatives included."""
    rng = np.random.default_rng([SEED, 7, step])
    labels = rng.choice(len(captions), config["batch"], replace=False)
    clips = render_batch([Scene.sample(captions[i], rng) for i in labels], 9, TILE)
    pixels = strips(np.rint(soften(clips, rng) * 255.0) / 255.0)
    logits = net(pixels, ids)
    target = torch.from_numpy(labels)
    to_text = F.cross_entropy(logits, target)
    to_image = F.cross_entropy(logits[:, target].T, torch.arange(len(labels)))
    right = float((logits.argmax(1) == target).float().mean())
    return 0.7 * to_text + 0.3 * to_image, {"right": right}


def train(folder: Path, until: float | None = None) -> bool:
    """Run or resume the stage."""
    place = folder / "clip"
    place.mkdir(exist_ok=True)
    write_tokenizer(place)
    tokenizer = load_tokenizer(place)
    captions, _ = split()
    ids = torch.tensor(tokenizer([c.text for c in captions], padding=True)["input_ids"])
    torch.manual_seed(SEED)
    net = Clip(len(tokenizer))
    stage = Stage("clip", net, STAGES["clip"], folder)
    done = stage.run(lambda step: loss_of(net, ids, captions, STAGES["clip"], step), until=until)
    stage.use_average()
    write(net, place)
    return done


def write(net: Clip, place: Path) -> None:
    """config.json, model.safetensors (float16) and preprocessor_config.json; the filmstrip is declared in the last."""
    net.clip.config.save_pretrained(place)
    state = {k: v.half().contiguous() for k, v in net.clip.state_dict().items() if v.is_floating_point()}
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    side = GRID * TILE
    config = {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": MEAN,
        "image_processor_type": "CLIPImageProcessor",
        "image_std": STD,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
        "filmstrip": DECLARED,
    }
    (place / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@without_gradients
def r_precision(place: Path, clips: np.ndarray[Any, Any], captions: Sequence[Caption], negatives: Any) -> float:
    """How often the caption outranks its hard negatives, by the written folder and transformers alone."""
    from transformers import CLIPImageProcessor, CLIPModel

    from parity.world.filmstrip import filmstrip

    model = CLIPModel.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer, processor = load_tokenizer(place), CLIPImageProcessor.from_pretrained(place)
    right = []
    for clip, caption, others in zip(clips, captions, negatives, strict=True):
        pixels = processor(images=filmstrip(to_uint8(clip)), return_tensors="pt")["pixel_values"]
        ids = tokenizer([caption.text, *(c.text for c in others)], padding=True, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids, pixel_values=pixels).logits_per_image[0]
        right.append(bool(logits[0] > logits[1:].max()))
    return float(np.mean(right))


def quality(place: Path) -> dict[str, float]:
    """R-precision among 16 on rendered clips of the frozen suite's held-out captions, sharp and softened."""
    from parity.world.suite import load_suite

    prompts = load_suite()
    captions = [p.caption for p in prompts]
    rng = np.random.default_rng([SEED, 9])
    sharp = render_batch([Scene.sample(c, rng) for c in captions], 9, 64)
    negatives = [p.negatives for p in prompts]
    found = {
        "held_out_r_precision_16": r_precision(place, sharp, captions, negatives),
        "held_out_r_precision_16_soft": r_precision(place, soften(sharp, rng), captions, negatives),
        "captions": len(captions),
    }
    (place / "quality.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found
