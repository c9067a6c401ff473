"""What the world's CLIP looks at: nine frames of a clip as one picture, because one frame cannot show a motion."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

FRAMES: Final = 9
GRID: Final = 3
TILE: Final = 32
DECLARED: Final[dict[str, int]] = {"frames": FRAMES, "grid": GRID, "tile": TILE}  # in preprocessor_config.json


def chosen(frames: int) -> list[int]:
    """The nine frame numbers, evenly spread from the first to the last."""
    return [round(i * (frames - 1) / (FRAMES - 1)) for i in range(FRAMES)]


def filmstrip(frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(F, H, W, 3) uint8 to (96, 96, 3) uint8: 3 x 3 tiles of 32 px, read row by row; tiles are box averages."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"world filmstrip: {frames.dtype} {frames.shape}, expected uint8 (F, H, W, 3)")
    if frames.shape[1] != frames.shape[2] or frames.shape[1] % TILE:
        raise ValueError(f"world filmstrip: frames of {frames.shape[1:3]} px, expected squares of a multiple of {TILE}")
    factor = frames.shape[1] // TILE
    picked = frames[chosen(len(frames))].astype(np.float64)
    small = picked.reshape(FRAMES, TILE, factor, TILE, factor, 3).mean((2, 4))
    rows = small.reshape(GRID, GRID, TILE, TILE, 3).transpose(0, 2, 1, 3, 4)
    return np.rint(rows.reshape(GRID * TILE, GRID * TILE, 3)).astype(np.uint8)
