"""From uint8 frames to CLIP's pixel values, bit for bit as transformers' CLIPImageProcessor on its PIL backend.

The order of roundings is part of the result: Pillow resizes in uint8, the rescale is done in float64 and rounded to
float32, the normalisation runs in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ltx_native.errors import ConfigError
from parity.clip.config import read_json

BOOKKEEPING: Final = frozenset({"feature_extractor_type", "image_processor_type", "processor_class", "data_format"}) | {
    "default_to_square",
    "do_convert_rgb",
    "frame_sampling",
    "filmstrip",
}


@dataclass(frozen=True)
class Preprocessing:
    """What preprocessor_config.json orders. `size` is a shortest edge (int) or (height, width); None skips a step."""

    size: int | tuple[int, int] | None
    resample: int
    crop: tuple[int, int] | None
    rescale_factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(F, H, W, 3) uint8 to (F, h, w, 3) float32."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"CLIP preprocessing: {frames.dtype} {frames.shape}; expected uint8 (F, H, W, 3)")
        return np.stack([self._one(frame) for frame in frames])

    def _one(self, image: np.ndarray) -> np.ndarray:
        if self.size is not None:
            height, width = self._resized(*image.shape[:2])
            resample = Image.Resampling(self.resample)
            image = np.asarray(Image.fromarray(image).resize((width, height), resample=resample))
        if self.crop is not None:
            image = centre_crop(image, *self.crop)
        if self.rescale_factor is not None:
            image = (image.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.mean is not None and self.std is not None:
            image = image.astype(np.float32)
            image = (image - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.asarray(image, np.float32)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        assert self.size is not None
        long_edge = int(self.size * max(height, width) / min(height, width))
        return (long_edge, self.size) if width <= height else (self.size, long_edge)


def centre_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle (height, width) of an (H, W, C) image; zeros around it where the image is smaller."""
    rows, columns = (_window(*pair) for pair in zip(image.shape[:2], (height, width), strict=True))
    out = np.zeros((height, width, image.shape[2]), image.dtype)
    out[rows[0], columns[0]] = image[rows[1], columns[1]]
    return out


def _window(length: int, wanted: int) -> tuple[slice, slice]:
    """Where the kept part lies in the output and in the input, along one axis."""
    if length >= wanted:
        start = (length - wanted) // 2
        return slice(0, wanted), slice(start, start + wanted)
    start = -((length - wanted) // 2)  # the odd pixel of padding goes in front
    return slice(start, start + length), slice(0, length)


def read_preprocessing(path: Path) -> tuple[Preprocessing, dict[str, Any]]:
    """(steps, raw JSON) of preprocessor_config.json; ConfigError on anything not honoured here."""
    raw = read_json(path)
    steps = {"do_resize", "do_center_crop", "do_rescale", "do_normalize"}
    known = steps | {"size", "resample", "crop_size", "rescale_factor", "image_mean", "image_std"} | BOOKKEEPING
    for key, value in raw.items():
        if key not in known and value is not None:
            raise _bad(path, key, value, "no such key: its meaning is not implemented here")
    for key in steps:
        default = key == "do_rescale"  # old files leave it out; all of them rescale
        if not isinstance(raw.setdefault(key, default), bool):
            raise _bad(path, key, raw[key], "true or false")
    crop = _size(path, "crop_size", raw) if raw["do_center_crop"] else None
    if isinstance(crop, int):
        crop = (crop, crop)
    return Preprocessing(
        size=_size(path, "size", raw) if raw["do_resize"] else None,
        resample=_resample(path, raw),
        crop=crop,
        rescale_factor=float(raw.get("rescale_factor", 1 / 255)) if raw["do_rescale"] else None,
        mean=_triple(path, "image_mean", raw) if raw["do_normalize"] else None,
        std=_triple(path, "image_std", raw) if raw["do_normalize"] else None,
    ), raw


def _size(path: Path, key: str, raw: dict[str, Any]) -> int | tuple[int, int]:
    value = raw.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, dict):
        given = {k: v for k, v in value.items() if v is not None}
        if all(isinstance(v, int) and v > 0 for v in given.values()):
            if set(given) == {"height", "width"}:
                return given["height"], given["width"]
            if set(given) == {"shortest_edge"}:
                return int(given["shortest_edge"])
    raise _bad(path, key, value, 'a positive integer, {"shortest_edge": n} or {"height": n, "width": n}')


def _resample(path: Path, raw: dict[str, Any]) -> int:
    value = raw.get("resample")
    if raw["do_resize"] and value not in tuple(int(r) for r in Image.Resampling):
        raise _bad(path, "resample", value, "a Pillow filter number, 3 for bicubic")
    return int(value or 0)


def _triple(path: Path, key: str, raw: dict[str, Any]) -> tuple[float, ...]:
    value = raw.get(key)
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise _bad(path, key, value, "three numbers")
    if key == "image_std" and not all(v > 0 for v in value):
        raise _bad(path, key, value, "three positive numbers")
    return tuple(float(v) for v in value)


def _bad(path: Path, key: str, value: object, expected: str) -> ConfigError:
    return ConfigError(
        what=f"CLIP preprocessing: {key}",
        where=str(path),
        value=repr(value),
        expected=expected,
        next_step="correct preprocessor_config.json",
    )
