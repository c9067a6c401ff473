"""Cache what the transformer trains on: latents of rendered clips and the text features of the captions."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from parity.world.render import render_batch
from parity.world.scene import Caption, Scene, split
from parity.world.train.audio import AudioVae, latent_frames, mels, set_statistics
from parity.world.train.networks import AUDIO_VAE
from parity.world.train.recipe import SEED, STAGES
from parity.world.train.state import Stage, without_gradients
from parity.world.train.text import TextEncoder, write_gemma
from parity.world.train.transformer import token_features
from parity.world.train.video_vae import VideoVae, to_video, trained


def save(path: Path, tensors: dict[str, torch.Tensor], made_by: str = "") -> None:
    """Under a temporary name, then renamed; `made_by` is the encoder's fingerprint."""
    temporary = path.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"made_by": made_by})
    os.replace(temporary, path)


def fresh(path: Path, made_by: str) -> bool:
    """Is the cache there, and from this encoder?"""
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return bool((file.metadata() or {}).get("made_by") == made_by)


def fingerprint(encoder: torch.nn.Module) -> str:
    """SHA-256 of the encoder's weights: its latents are worth keeping as long as it is the same."""
    digest = hashlib.sha256()
    for name, param in sorted(encoder.named_parameters()):
        digest.update(name.encode() + param.detach().numpy().tobytes())
    return digest.hexdigest()


def trained_vae(folder: Path, *, statistics: bool = True) -> VideoVae:
    """The video VAE's averaged weights, with the latents' statistics where they are known."""
    vae = trained(folder)
    if statistics:
        set_statistics(vae, load_file(folder / "video_statistics.safetensors"))
    return vae.eval()


def audio_vae(folder: Path, *, statistics: bool = True) -> AudioVae:
    """The audio VAE: its encoder is a function of the seed alone; its decoder is trained later."""
    torch.manual_seed(SEED)
    vae = AudioVae(AUDIO_VAE)
    if (folder / "audio_vae.safetensors").exists():
        Stage("audio_vae", vae, STAGES["audio_vae"], folder).use_average()
    if statistics:
        set_statistics(vae, load_file(folder / "audio_statistics.safetensors"))
    return vae.eval()


def audio_statistics(folder: Path) -> dict[str, torch.Tensor]:
    """Mean and standard deviation of the audio latents' channels."""
    statistics: dict[str, torch.Tensor] = load_file(folder / "audio_statistics.safetensors")
    return statistics


@without_gradients
def encode(
    folder: Path, captions: list[Caption], frames: int, side: int, each: int, seed: int, *, statistics: bool
) -> dict[str, torch.Tensor]:
    """`each` scenes of every caption as tokens: video (N, T, 128), audio (N, A, 128), caption (N,)."""
    video_vae, sound_vae = trained_vae(folder, statistics=statistics), audio_vae(folder, statistics=statistics)
    video, audio, labels = [], [], []
    started, shown = time.time(), 0.0
    for label, caption in enumerate(captions):
        rng = np.random.default_rng([SEED, seed, frames, side, label])
        scenes = [Scene.sample(caption, rng) for _ in range(each)]
        with torch.autocast("cpu", torch.bfloat16):
            latent = video_vae.encoder(to_video(render_batch(scenes, frames, side))).float()
        sound = sound_vae.encoder(mels(scenes, frames))[:, :, : latent_frames(frames)]
        video.append(latent.flatten(2).transpose(1, 2))
        audio.append(sound.transpose(1, 2).flatten(2))
        labels += [label] * each
        if time.time() - shown > 5.0:
            shown = time.time()
            left = (shown - started) / (label + 1) * (len(captions) - label - 1)
            print(f"latents {frames}x{side} {label + 1}/{len(captions)} {left / 60:.1f} min left", file=sys.stderr)
    return {"video": torch.cat(video), "audio": torch.cat(audio), "caption": torch.tensor(labels)}


def statistics_of(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean and standard deviation of each of the 128 channels over all tokens."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    return {"mean-of-means": flat.mean(0), "std-of-means": flat.std(0).clamp(min=1e-3)}


def text_features(folder: Path, prompts: list[str]) -> dict[str, torch.Tensor]:
    """Features of the real tokens, padded on the right, and how many there are."""
    if not (folder / "gemma" / "model.safetensors").exists():
        write_gemma(folder / "gemma")
    encoder = TextEncoder(folder / "gemma")
    rows = [token_features(encoder.hidden_states(prompt)) for prompt in prompts]
    counts = torch.tensor([len(row) for row in rows])
    features = torch.zeros(len(rows), int(counts.max()), rows[0].shape[-1])
    for index, row in enumerate(rows):
        features[index, : len(row)] = row
    return {"features": features, "counts": counts}


def prepare(folder: Path) -> None:
    """Everything the transformer stage reads; what is already there is kept."""
    captions, _ = split()
    if not (folder / "features.safetensors").exists():
        save(folder / "features.safetensors", text_features(folder, [c.text for c in captions] + [""]))
    made_by = fingerprint(trained_vae(folder, statistics=False).encoder)
    if not fresh(folder / "video_statistics.safetensors", made_by):
        probe = encode(folder, captions, 9, 64, 2, 10, statistics=False)
        save(folder / "audio_statistics.safetensors", statistics_of(probe["audio"]))
        save(folder / "video_statistics.safetensors", statistics_of(probe["video"]), made_by)
    for (frames, side), each in STAGES["transformer"]["cache"]:
        path = folder / f"latents_{frames}x{side}.safetensors"
        if not fresh(path, made_by):
            tensors = encode(folder, captions, frames, side, each, 11, statistics=True)
            save(path, {k: v.bfloat16() if v.is_floating_point() else v for k, v in tensors.items()}, made_by)


if __name__ == "__main__":
    torch.set_num_threads(1)
    prepare(Path(sys.argv[1]))
