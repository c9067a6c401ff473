"""The case matrix: the smallest set of runs and checks that exercises every ability, and the files the cases read.

Module calls are replayed on the captures of `T2V`; the other cases record component roots and pipeline values only, because
what they add is the wiring around the modules, and the encoders and upsampler whole.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from parity.cases import T2V_WIDE, Case, Image
from parity.folders import cache_folder

# Component roots and the values between them.
ROOTS: tuple[str, ...] = (
    "tokenizer", "gemma", "embeddings_processor", "schedule", "noise.*", "state.*", "transformer", "denoised", "guidance.*",
    "post_process.*", "sampler.*", "latent.*", "video_decoder", "audio_decoder", "vocoder", "waveform", "frames",
)  # fmt: skip
ENCODERS: tuple[str, ...] = ("video_encoder*", "audio_encoder*", "upsampler*")


@dataclass(frozen=True)
class Entry:
    """One row of the matrix: a case, which sites are recorded (all when empty), and the abilities it brings."""

    case: Case
    sites: tuple[str, ...]
    abilities: str
    adds: str


def inputs() -> Mapping[str, Path]:
    """The image, sound, clip and LoRA that the cases read, made when they are not there; paths by role."""
    folder = cache_folder() / "inputs-2"
    names = {
        "image": "image.png", "second": "second.png", "sound": "sound.wav", "lora": "lora.safetensors",
        "clip": "clip.mp4", "odd_clip": "clip-20-frames.mp4",
    }  # fmt: skip
    paths = {role: (folder / name).resolve() for role, name in names.items()}
    if not all(path.is_file() for path in paths.values()):
        _make(paths)
    return paths


def _make(paths: Mapping[str, Path]) -> None:
    from PIL import Image as Picture

    from ltx_native.media import write_video
    from parity.world.random_checkpoint import write_lora

    paths["image"].parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:80, 0:120]
    top_heavy = np.stack([255 * (y < 30), 2 * x, 40 + y], axis=-1).astype(np.uint8)  # no symmetry to hide a flip behind
    Picture.fromarray(top_heavy).save(paths["image"])
    Picture.fromarray(top_heavy[:, ::-1, ::-1]).save(paths["second"])
    rate = 44100
    time = np.arange(rate) / rate
    sound = np.stack([0.4 * np.sin(2 * np.pi * 440 * time), 0.1 * np.sin(2 * np.pi * (200 + 900 * time) * time)])
    with wave.open(str(paths["sound"]), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound.T * 32767).astype("<i2").tobytes())
    row, column = np.mgrid[0:64, 0:64]
    frames = np.stack([np.stack([4 * column, 4 * row, (8 * f + row) % 256], axis=-1) for f in range(20)]).astype(np.uint8)
    for role, count in (("clip", 17), ("odd_clip", 20)):
        track = sound[:, : int(count / 25 * rate)].astype(np.float32)
        write_video(paths[role], iter([frames[:count]]), 25.0, track, rate)
    write_lora(paths["lora"])


@cache
def matrix() -> tuple[Entry, ...]:
    """All cases, cheapest first."""
    files = inputs()
    lora = ((str(files["lora"]), 0.7),)
    base = replace(T2V_WIDE, width=128, num_frames=17, steps=2, distilled_loras=((str(files["lora"]), 1.0),))
    anchors = (Image(str(files["image"]), 0, 0.8), Image(str(files["second"]), 8, 1.0, crf=33))
    return (
        Entry(T2V_WIDE, (), "MKEFJPRSTXV", "every module, every pass and step, 25 fps, not square"),
        Entry(
            # 17 frames at 23.976 a second last as long as 17.7 audio frames: rounding down would be seen.
            replace(base, name="keyframes-128x64x17", frame_rate=23.976, mode="two-stage", images=anchors, loras=lora),
            (*ROOTS, *ENCODERS),
            "NFJRGQ",
            "replaced first frame, recompressed keyframe at frame 8, upsampler, second stage, LoRA, a broken frame rate",
        ),
        Entry(
            replace(base, name="second-order-128x64x17", mode="two-stage-hq"),
            (*ROOTS, *ENCODERS),
            "JRST",
            "the second-order sampler with fresh noise at every evaluation, in both stages",
        ),
        Entry(
            replace(base, name="sound-128x64x17", mode="a2v", audio_path=str(files["sound"])),
            (*ROOTS, *ENCODERS),
            "NEAGL",
            "frozen modality, sound from a file, more video than audio tokens",
        ),
        Entry(
            replace(
                base,
                name="retake-64x64",
                width=64,
                mode="retake",
                source_path=str(files["clip"]),
                start=0.2,
                end=0.5,
                distilled_loras=(),
            ),
            (*ROOTS, *ENCODERS),
            "NLEX",
            "masks that change along time, both modalities from a source",
        ),
    )


# What the checks beside the cases bring; the names are those of `parity.certify.checks`.
CHECKS: Mapping[str, str] = {
    "configs": "CV", "weights": "W", "playback": "EFGJNPRX", "prompts": "EKLV", "conditionings": "FNX", "guiding": "GP",
    "blending": "LN", "second_order": "JT", "sources": "LN", "wiring": "GN", "quantised": "W", "long": "DL",
    "norms": "M", "upsamplers": "CM",
    "fusion": "GW", "export": "AQ", "replays": "MKSP", "batches": "B", "passes": "DP", "tiles": "FLX", "dtypes": "T",
    "every_site": "MKX", "repeat": "DOR", "controls": "O", "bench": "Y",
}  # fmt: skip

ABILITIES: Mapping[str, str] = {
    "M": "module outputs on identical inputs", "K": "valid tokens only, finite", "E": "from raw input",
    "C": "config and constants", "W": "weights: coverage, strict load, hashes", "T": "dtype flow", "S": "the whole schedule",
    "N": "conditioned cases", "B": "batch of distinct samples", "F": "frame rate and sizes", "L": "length",
    "P": "every guidance pass", "R": "injected noise, order of draws, repeats", "J": "trajectory by step",
    "X": "where the error lies", "A": "sound: level, pitch, rate", "G": "wiring", "D": "batched, compiled, other kernels",
    "V": "provenance of expectations", "O": "what must not be flagged", "Q": "the exported file", "Y": "time and memory",
}  # fmt: skip


def covered() -> dict[str, list[str]]:
    """Which cases and checks exercise each ability, for the report's table."""
    rows = [(entry.case.name, entry.abilities) for entry in matrix()] + list(CHECKS.items())
    return {code: [name for name, codes in rows if code in codes] for code in ABILITIES}
