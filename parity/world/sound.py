"""The sound of a scene: pitch says the shape, pan and loudness say the motion (NumPy only)."""

from __future__ import annotations

from typing import Final

import numpy as np

from parity.world.scene import MOTIONS, Scene

PITCH: Final = {"circle": 262.0, "square": 392.0, "triangle": 587.0, "cross": 880.0}  # Hz
HARMONICS: Final = (1.0, 0.4, 0.2)
LEVEL: Final = 0.5


def render_sound(scene: Scene, seconds: float, rate: int = 16_000) -> np.ndarray:
    """(2, N) float32 in [-1, 1]: left and right at constant total power, N = round(seconds * rate)."""
    count = round(seconds * rate)
    if count < 1:
        raise ValueError(f"world sound: {seconds} s at {rate} Hz has no sample; expected a positive length")
    time = np.arange(count) / rate
    progress = np.linspace(-0.5, 0.5, count)
    right, down = MOTIONS[scene.caption.motion]
    base = PITCH[scene.caption.shape]
    tone = sum(a * np.sin(2.0 * np.pi * base * (k + 1) * time) for k, a in enumerate(HARMONICS))
    loudness = 0.7 * (1.0 - 0.8 * down * progress)  # rises while the shape rises
    angle = np.pi / 4.0 * (1.0 + 1.8 * right * progress)
    fade = np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.005 * rate))
    mono = LEVEL * loudness * fade * tone / sum(HARMONICS)
    return np.stack([np.cos(angle) * mono, np.sin(angle) * mono]).astype(np.float32)
