"""Images, sound, a clip and LoRAs for the modes that take them: small, seeded, made once per session."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ltx_native.media import write_video
from parity.world.random_checkpoint import write_lora

RATE = 24.0


@dataclass(frozen=True)
class Inputs:
    """Paths of everything a mode can be given; ``clip`` has 25 frames of 64×64 with sound, at 24 frames per second."""

    first_image: str
    second_image: str
    sound: str
    clip: str
    lora: str
    other_lora: str


def make_inputs(folder: Path) -> Inputs:
    """Write all inputs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [folder / "first.png", folder / "second.png"]
    for seed, path in enumerate(images):
        Image.fromarray(_picture(seed, 80, 72)).save(path)
    sound = folder / "tone.wav"
    _write_wav(sound, _tone(48000, 2.0))
    clip = folder / "clip.mp4"
    frames = np.stack([np.roll(_picture(7, 64, 64), 2 * i, axis=1) for i in range(25)])
    write_video(clip, iter([frames]), RATE, _tone(48000, 25 / RATE), 48000)
    loras = [write_lora(folder / f"lora-{seed}.safetensors", seed=seed) for seed in (1, 2)]
    return Inputs(str(images[0]), str(images[1]), str(sound), str(clip), str(loras[0]), str(loras[1]))


def _picture(seed: int, width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _tone(rate: int, seconds: float) -> np.ndarray:
    time = np.arange(int(rate * seconds)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * 440 * time), 0.3 * np.sin(2 * np.pi * 660 * time)]).astype(np.float32)


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48000)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
