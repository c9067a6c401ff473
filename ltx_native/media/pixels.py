"""Pixel arithmetic that has to agree with the official code to the last bit or two."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


def resize_and_center_crop(frames: NDArray[np.generic], height: int, width: int) -> Float:
    """Frames (n, H, W, C) scaled until they fill height x width, then cut at the centre.

    Bilinear without antialiasing, pixel centres at half-integers, as `torch.nn.functional.interpolate` does.
    """
    _, source_height, source_width, _ = frames.shape
    scale = max(height / source_height, width / source_width)
    new_height, new_width = math.ceil(source_height * scale), math.ceil(source_width * scale)
    top, left = (new_height - height) // 2, (new_width - width) // 2
    x = np.asarray(frames, dtype=np.float32)
    x = _interpolate(x, new_height, slice(top, top + height), axis=1)
    return _interpolate(x, new_width, slice(left, left + width), axis=2)


def normalize(pixels: Float) -> Float:
    """0..255 to [-1, 1]."""
    return pixels / np.float32(127.5) - np.float32(1.0)


def to_uint8(pixels: Float) -> UInt8:
    """[-1, 1] to 0..255, clipped and cut (not rounded), as the official code writes frames."""
    unit = np.clip((pixels + np.float32(1.0)) / np.float32(2.0), np.float32(0.0), np.float32(1.0))
    return (unit * np.float32(255.0)).astype(np.uint8)


def _interpolate(x: Float, size: int, keep: slice, axis: int) -> Float:
    """Linear interpolation of `axis` to `size` places, of which `keep` are computed; float32 arithmetic throughout."""
    source = x.shape[axis]
    if size == source:
        return np.take(x, np.arange(source)[keep], axis=axis)
    scale = np.float32(source) / np.float32(size)
    places = (np.arange(size, dtype=np.float32)[keep] + np.float32(0.5)) * scale - np.float32(0.5)
    places = np.maximum(places, np.float32(0.0))
    low = np.minimum(places.astype(np.int64), source - 1)
    high = np.minimum(low + 1, source - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    weight = (places - low.astype(np.float32)).astype(np.float32).reshape(shape)
    blended = np.take(x, low, axis=axis) * (np.float32(1.0) - weight) + np.take(x, high, axis=axis) * weight
    return np.asarray(blended, dtype=np.float32)
