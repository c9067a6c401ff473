"""Anti-aliased frames of a scene, from signed distances (NumPy only)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.world.scene import BACKGROUNDS, COLOURS, Scene


def distance(shape: str, dx: np.ndarray, dy: np.ndarray, size: np.ndarray | float) -> np.ndarray:
    """Signed distance to a shape's outline (negative inside), in the unit of dx, dy and size."""
    if shape == "circle":
        return np.asarray(np.hypot(dx, dy) - size)
    if shape == "square":
        return np.asarray(np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * size)
    if shape == "triangle":  # apex up, as wide as high: corners (0, -s), (-s, s), (s, s)
        slope = (2.0 * np.abs(dx) - dy - size) / np.sqrt(5.0)
        return np.asarray(np.maximum(slope, dy - size))
    if shape == "cross":
        arm, half = size, 0.36 * size
        flat = np.maximum(np.abs(dx) - arm, np.abs(dy) - half)
        upright = np.maximum(np.abs(dx) - half, np.abs(dy) - arm)
        return np.asarray(np.minimum(flat, upright))
    raise ValueError(f"world render: unknown shape {shape!r}")


def coverage(scene: Scene, frames: int, side: int) -> np.ndarray:
    """(F, H, W) float32 in [0, 1]: how much of each pixel the shape covers."""
    pixel = (np.arange(side, dtype=np.float32) + 0.5) / side
    centres = scene.centres(frames).astype(np.float32)
    dx = pixel[None, None, :] - centres[:, 0, None, None]
    dy = pixel[None, :, None] - centres[:, 1, None, None]
    inside = 0.5 - side * distance(scene.caption.shape, dx, dy, scene.size)
    return np.asarray(np.clip(inside, 0.0, 1.0), dtype=np.float32)


def render(scene: Scene, frames: int = 9, side: int = 64) -> np.ndarray:
    """(F, H, W, 3) float32 in [0, 1]."""
    if frames < 1 or frames % 8 != 1 or side % 32:
        raise ValueError(f"world render: {frames} frames of {side} px; expected 8k + 1 frames, a multiple of 32 px")
    alpha = coverage(scene, frames, side)[..., None]
    colour = np.asarray(COLOURS[scene.caption.colour], dtype=np.float32)
    ground = np.asarray(BACKGROUNDS[scene.caption.background], dtype=np.float32)
    return np.asarray(ground + alpha * (colour - ground), dtype=np.float32)


def render_batch(scenes: Sequence[Scene], frames: int = 9, side: int = 64) -> np.ndarray:
    """(B, F, H, W, 3) float32 in [0, 1]."""
    return np.stack([render(scene, frames, side) for scene in scenes])


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """[0, 1] to 0..255, rounded."""
    return np.asarray(np.clip(np.rint(frames * 255.0), 0, 255), dtype=np.uint8)
