"""The files that the README's commands name, small: images, sound, a clip, LoRAs, and the checkpoint in both layouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ltx_native.media import write_video
from parity.world.random_checkpoint import write_lora

CLIP_FRAMES, CLIP_RATE = 33, 25.0


def write_mode_files(folder: Path, tiny: dict[str, Path]) -> Path:
    """Fill a folder with every file that the README's commands name."""
    rng = np.random.default_rng(0)
    for name in ("first.png", "second.png"):
        Image.fromarray(rng.integers(0, 255, (48, 80, 3), dtype=np.uint8)).save(folder / name)
    time = np.arange(5 * 48000, dtype=np.float32) / 48000
    tone = np.stack([0.4 * np.sin(2 * np.pi * hertz * time) for hertz in (440, 660)]).astype(np.float32)
    with av.open(str(folder / "voice.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray((tone.T * 32767).astype(np.int16).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = np.linspace(0, 255, CLIP_FRAMES * 64 * 64 * 3).reshape(CLIP_FRAMES, 64, 64, 3).astype(np.uint8)
    write_video(folder / "clip.mp4", [clip], CLIP_RATE, tone[:, : round(48000 * CLIP_FRAMES / CLIP_RATE)], 48000)
    for seed, name in enumerate(("refine", "style", "pose")):
        write_lora(folder / f"{name}.safetensors", seed=seed)
    (folder / "GEMMA").symlink_to(tiny["gemma"])
    for name in ("official.safetensors", "ltx-2.3-spatial-upscaler-x2.safetensors"):
        source = tiny["model"] if name.startswith("official") else tiny["upsampler"]
        shutil.copy(source, folder / name)
    for name in ("MODEL", "DISTILLED"):  # the published layouts: an official file and a split folder
        home = folder / name
        if name == "MODEL":
            home.mkdir()
            shutil.copy(tiny["model"], home / "ltx-2.3-dev.safetensors")
        else:
            shutil.copytree(tiny["split"], home)
            (home / "transformer-dev.safetensors").rename(home / "transformer-distilled.safetensors")
        shutil.copy(tiny["upsampler"], home)
    return folder
