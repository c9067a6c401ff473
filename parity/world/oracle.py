"""Reads colour, shape, motion and background from frames by measuring pixels: nothing here is learned.

Robust to the soft outlines of a small video VAE: shapes are matched against templates of several edge widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.world.render import distance
from parity.world.scene import ATTRIBUTES, BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZE, TRAVEL, Caption

VISIBLE = 0.15  # least contrast of anything that counts as a shape
STILL = 0.4  # of the full path: less displacement than this is "standing still"
MISFIT = 0.35  # largest relative squared error of the best template
SIZES = (0.85, 0.95, 1.05, 1.15)  # relative to the world's shape size
EDGES = (1.0, 3.0, 5.0)  # template edge widths, pixels of a 64 px frame


@dataclass(frozen=True)
class Reading:
    """What a clip shows; None where nothing fits. `misfit` is the best template's relative squared error."""

    colour: str | None
    shape: str | None
    motion: str | None
    background: str | None
    misfit: float

    def correct(self, caption: Caption) -> dict[str, bool]:
        """Attribute by attribute: is it what the caption asks for?"""
        return {name: getattr(self, name) == getattr(caption, name) for name in ATTRIBUTES}

    def matches(self, caption: Caption) -> bool:
        """All four attributes right."""
        return all(self.correct(caption).values())


def read(frames: np.ndarray[Any, Any]) -> Reading:
    """Read a clip: (F, H, W, 3), uint8 or floating point in [0, 1]; ValueError for anything else."""
    video = _as_float(frames)
    ground = _border(video)
    background = _nearest(ground, BACKGROUNDS)
    contrast = np.abs(video - ground).max(-1)  # (F, H, W)
    peak = float(np.quantile(contrast, 0.985))
    if peak < VISIBLE:
        return Reading(None, None, None, background, float("inf"))
    alpha = np.clip(contrast / peak, 0.0, 1.0)
    alpha[alpha < 0.2] = 0.0
    body = alpha > 0.75
    colour = _nearest(np.median(video[body], axis=0), COLOURS) if body.any() else None
    mass = alpha.sum((1, 2))
    if (mass < 0.01 * alpha[0].size).any():  # gone in some frame
        return Reading(colour, None, None, background, float("inf"))
    centres = _centroids(alpha, mass)
    shape, misfit = _match(alpha, centres)
    return Reading(colour, shape if misfit < MISFIT else None, _motion(centres), background, misfit)


def _as_float(frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"world oracle: frames have shape {frames.shape}, expected (F, H, W, 3)")
    video = frames.astype(np.float32) / (255.0 if frames.dtype == np.uint8 else 1.0)
    if not np.isfinite(video).all():
        raise ValueError("world oracle: frames hold NaN or infinity; the generation failed before it was scored")
    return np.clip(video, 0.0, 1.0)


def _border(video: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    edge = max(2, video.shape[1] // 32)
    rims = (video[:, :edge], video[:, -edge:], video[:, :, :edge], video[:, :, -edge:])
    return np.asarray(np.median(np.concatenate([rim.reshape(-1, 3) for rim in rims]), axis=0))


def _nearest(colour: np.ndarray[Any, Any], names: dict[str, tuple[float, float, float]]) -> str:
    return min(names, key=lambda name: float(np.square(np.asarray(names[name]) - colour).sum()))


def _centroids(alpha: np.ndarray[Any, Any], mass: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(F, 2) x, y in fractions of the side."""
    pixel = (np.arange(alpha.shape[1]) + 0.5) / alpha.shape[1]
    x = (alpha * pixel[None, None, :]).sum((1, 2)) / mass
    y = (alpha * pixel[None, :, None]).sum((1, 2)) / mass
    return np.stack([x, y], axis=1)


def _motion(centres: np.ndarray[Any, Any]) -> str:
    ends = max(1, len(centres) // 4)
    shift = (centres[-ends:].mean(0) - centres[:ends].mean(0)) * len(centres) / (len(centres) - ends)
    if np.abs(shift).max() < STILL * TRAVEL:
        return "standing still"
    unit = np.sign(shift) * (np.abs(shift) == np.abs(shift).max())
    return next(name for name, direction in MOTIONS.items() if np.array_equal(unit, np.asarray(direction)))


def _match(alpha: np.ndarray[Any, Any], centres: np.ndarray[Any, Any]) -> tuple[str, float]:
    """The template with the least squared error summed over all frames, and that error over the clip's energy."""
    pixel = (np.arange(alpha.shape[1]) + 0.5) / alpha.shape[1]
    energy = float(np.square(alpha).sum())
    dx = pixel[None, None, :] - centres[:, 0, None, None]
    dy = pixel[None, :, None] - centres[:, 1, None, None]
    best = ("", float("inf"))
    for shape in SHAPES:
        for scale in SIZES:
            size = SIZE * scale
            # A triangle's centre of mass lies a third of its half height below its middle.
            lift = size / 3.0 if shape == "triangle" else 0.0
            outline = distance(shape, dx, dy + lift, size) * 64.0
            for edge in EDGES:
                template = np.clip(0.5 - outline / edge, 0.0, 1.0)
                error = float(np.square(alpha - template).sum()) / energy
                if error < best[1]:
                    best = (shape, error)
    return best
