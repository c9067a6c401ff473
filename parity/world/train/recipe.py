"""For how long and how every part is trained, by stage; with `networks.py` all that decides it, hashed into the checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from parity.world.train.networks import AUDIO_VAE, CLIP, GEMMA, TRANSFORMER, UPSAMPLER, VAE, VOCODER

SEED: Final = 20261122
FPS: Final = 24.0

# Adam moves vectors, the orthogonalised momentum moves matrices (`matrix_lr`).
_COMMON: Final[dict[str, Any]] = {"betas": [0.9, 0.99], "clip": 1.0}

# One mini-batch is (frames, side, batch): equal cost, so the mix of sizes does not change the speed.
_VIDEO: Final[dict[str, Any]] = {**_COMMON, "batch": [9, 64, 8], "late_batches": [[17, 64, 4], [9, 128, 2]]}

# Stages after the first: every size from the start, the shape's edge and pale shapes count more.
_VIDEO_LATER: Final[dict[str, Any]] = {
    **_VIDEO,
    "lr": 3e-4,
    "matrix_lr": 0.012,
    "warmup": 50,
    "ema": 0.995,
    "late": 0.0,
    "late_share": 0.12,
    "foreground": 6.0,
    "edges": 0.7,
    "even": 1.5,
}
_VIDEO_FINE: Final[dict[str, Any]] = {**_VIDEO_LATER, "sharp": 1.0, "noise_floor": 0.25, "kl": 3e-4}

_TRANSFORMER: Final[dict[str, Any]] = {
    **_COMMON,
    "lr": 1e-3,
    "matrix_lr": 0.02,
    "warmup": 100,
    "ema": 0.998,
    "groups": 32,
    "each": 3,
    "slots": 20,
    "dropout": 0.12,
    "audio_weight": 0.3,
    "mix": [[[9, 64], 1.0]],
    "cache": [[[9, 64], 30]],
}

STAGES: Final[dict[str, dict[str, Any]]] = {
    "video_vae": {
        **_VIDEO,
        "steps": 3700,
        "lr": 4e-4,
        "matrix_lr": 0.02,
        "warmup": 100,
        "ema": 0.998,
        "late": 0.75,
        "late_share": 0.25,
        "foreground": 4.0,
        "edges": 0.5,
        "noise_floor": 0.25,
        "kl": 3e-4,
    },
    "video_decoder": {**_VIDEO_LATER, "steps": 2600, "noise_floor": 0.3},
    "video_refine": {**_VIDEO_FINE, "steps": 1300},
    "video_palette": {**_VIDEO_FINE, "steps": 850, "gray": 0.35},
    "transformer": {**_TRANSFORMER, "steps": 2600},
    "transformer_refine": {**_TRANSFORMER, "steps": 1500},
    "transformer_palette": {**_TRANSFORMER, "steps": 1000, "even": 1.0},
    "audio_vae": {
        **_COMMON,
        "steps": 100,
        "lr": 4e-4,
        "matrix_lr": 0.02,
        "warmup": 50,
        "ema": 0.99,
        "batch": 8,
        "noise": 0.1,
    },
    "clip": {**_COMMON, "steps": 700, "lr": 1e-3, "matrix_lr": 0.01, "warmup": 100, "ema": 0.99, "batch": 48},
    "upsampler": {**_COMMON, "steps": 150, "lr": 1e-3, "matrix_lr": 0.02, "warmup": 20, "ema": 0.98, "batch": 8},
    "vocoder": {
        "steps": 40,
        "lr": 2e-3,
        "matrix_lr": 0.0,
        "warmup": 50,
        "betas": [0.8, 0.99],
        "clip": 1.0,
        "ema": 0.99,
        "batch": 4,
    },
}


def rehearse(steps: int) -> None:
    """Shorten every stage and its caches and save after every step, to see that the whole chain runs and survives a kill.
    What comes out follows no prompt."""
    for config in STAGES.values():
        config["save_every"] = 0.0
        config["steps"] = min(steps, config["steps"])
        if "cache" in config:
            config["cache"] = [[size, 1] for size, _ in config["cache"]]


def recipe() -> dict[str, Any]:
    """All that decides the training besides the code, as one JSON object."""
    parts = {"transformer": TRANSFORMER, "vae": VAE, "audio_vae": AUDIO_VAE, "vocoder": VOCODER, "upsampler": UPSAMPLER}
    return {"seed": SEED, "fps": FPS, "gemma": GEMMA, "clip": CLIP, "stages": STAGES, **parts}


def recipe_hash(config: dict[str, Any]) -> str:
    """SHA-256 over the recipe and the code of this room: what a trained checkpoint was made by."""
    room = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for path in sorted([*room.glob("*.py"), *room.glob("train/*.py")]):
        digest.update(path.relative_to(room).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
