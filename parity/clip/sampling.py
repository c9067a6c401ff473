"""How a clip becomes what its CLIP looks at: single frames, or several frames in one picture.

A CLIP for single frames cannot see motion. One that was trained on mosaics says so in its folder, in `frame_sampling.json` or
in preprocessor_config.json: {"frames": n}, {"mosaic": [rows, columns]}, or as `filmstrip` {"frames": n, "grid": g, "tile": t},
whose tiles are averaged down to t x t pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ltx_native.errors import ConfigError, RequestError
from parity.clip.config import read_json

LEAST: Final = 8  # frames scored per video


@dataclass(frozen=True)
class FrameSampling:
    """`frames` single ones, or with `mosaic` one picture of rows x columns tiles, each averaged to `tile` pixels if given."""

    frames: int
    mosaic: tuple[int, int] | None = None
    tile: int | None = None

    def indices(self, count: int) -> np.ndarray:
        """Evenly spaced frame numbers, first and last included; all frames where there are no more than asked."""
        wanted = self.frames if self.mosaic else min(self.frames, count)
        return np.rint(np.linspace(0, count - 1, wanted)).astype(np.int64)

    def images(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (F, H, W, 3) to (views, H', W', 3): the single frames, or one mosaic read row by row."""
        picked = frames[self.indices(len(frames))]
        return picked if self.mosaic is None else self._assemble(self._small(picked))[None]

    def still_images(self, frames: np.ndarray) -> np.ndarray:
        """One image per frame; for a mosaic, that of a clip in which only this frame is ever seen."""
        if self.mosaic is None:
            return frames
        return np.stack([self._assemble(np.repeat(tile[None], self.frames, axis=0)) for tile in self._small(frames)])

    def _small(self, frames: np.ndarray) -> np.ndarray:
        """Box averages in float64, rounded to uint8."""
        if self.tile is None or frames.shape[1:3] == (self.tile, self.tile):
            return frames
        count, height, width, channels = frames.shape
        if height != width or height % self.tile:
            raise RequestError(
                "frames do not fit this CLIP's mosaic",
                "frame_sampling",
                f"{height} x {width} pixels",
                f"squares of a multiple of {self.tile} pixels",
                "generate at such a size, or use a CLIP for single frames",
            )
        factor = height // self.tile
        boxes = frames.astype(np.float64).reshape(count, self.tile, factor, self.tile, factor, channels)
        return np.rint(boxes.mean(axis=(2, 4))).astype(np.uint8)

    def _assemble(self, tiles: np.ndarray) -> np.ndarray:
        assert self.mosaic is not None
        rows, columns = self.mosaic
        _, height, width, channels = tiles.shape
        grid = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
        return grid.reshape(rows * height, columns * width, channels)


def declared_sampling(folder: Path, preprocessor: Mapping[str, Any]) -> FrameSampling:
    """What the folder declares; 8 single frames where it declares nothing. Two declarations or a strange one are refused."""
    found: list[tuple[str, Any]] = []
    if (folder / "frame_sampling.json").is_file():
        found.append(("frame_sampling.json", read_json(folder / "frame_sampling.json")))
    found += [(f"preprocessor_config.json: {k}", preprocessor[k]) for k in ("frame_sampling", "filmstrip") if k in preprocessor]
    if not found:
        return FrameSampling(LEAST)
    where, declared = found[0]
    sampling = _parse(declared, where.endswith("filmstrip")) if len(found) == 1 and isinstance(declared, dict) else None
    if sampling is None or sampling.frames < LEAST:
        raise ConfigError(
            "CLIP frame sampling",
            f"{folder}: {' and '.join(name for name, _ in found)}",
            repr(declared),
            f'one declaration, {{"frames": n}} or {{"mosaic": [rows, columns]}}, of at least {LEAST} frames',
            "correct the file",
        )
    return sampling


def _parse(declared: dict[str, Any], filmstrip: bool) -> FrameSampling | None:
    numbers = [v for value in declared.values() for v in (value if isinstance(value, list) else [value])]
    if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in numbers):
        return None
    if filmstrip:
        grid = declared.get("grid", 0)
        if set(declared) != {"frames", "grid", "tile"} or grid * grid != declared["frames"]:
            return None
        return FrameSampling(declared["frames"], (grid, grid), declared["tile"])
    if set(declared) == {"mosaic"} and isinstance(declared["mosaic"], list) and len(declared["mosaic"]) == 2:
        rows, columns = declared["mosaic"]
        return FrameSampling(rows * columns, (rows, columns))
    return FrameSampling(declared["frames"]) if set(declared) == {"frames"} else None
