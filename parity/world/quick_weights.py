"""Random weights at the speed of a disk: raw random words instead of normal numbers, each tensor from a stream of its own.

A quantised weight is uniform over its levels, w = scale · (level - middle) + offset, with a scale and an offset that differ
from group to group; its spread is that of `random_checkpoint.draw` (gain / √fan_in). A seed and a key decide everything.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ltx_native.quantize import Quantisation, dequantise
from parity.world.layout import Tensor
from parity.world.random_checkpoint import draw, round_to_bfloat16

CHUNK = 1 << 22  # numbers drawn at a time
SCALES = 0.75, 1.25  # a group's scale over the layer's
OFFSET = 0.5  # a group's mean, in levels, at most


def packed(tensor: Tensor, how: Quantisation, seed: int) -> Iterator[NDArray[np.uint32]]:
    """The packed weight (out, in · bits / 32), in flat pieces."""
    stream = _stream(tensor.key, "packed", seed)
    left = tensor.shape[0] * tensor.shape[1] * how.bits // 32
    while left:
        count = min(left, CHUNK)
        yield stream.random_raw((count + 1) // 2).view(np.uint32)[:count]
        left -= count


def groups(tensor: Tensor, how: Quantisation, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(scales, biases), each (out, in / group size), representable in bfloat16."""
    rows, columns = tensor.shape
    uniform = _uniform(_stream(tensor.key, "groups", seed), 2 * rows * columns // how.group_size).reshape(2, rows, -1)
    levels = 2**how.bits
    spread = np.sqrt((levels**2 - 1) / 12, dtype=np.float32)
    low, high = SCALES
    scales = (low + (high - low) * uniform[0]) * np.float32(tensor.gain / np.sqrt(tensor.fan_in) / spread)
    biases = scales * (OFFSET * (2 * uniform[1] - 1) - np.float32((levels - 1) / 2))
    return round_to_bfloat16(scales), round_to_bfloat16(biases)


def dequantised(tensor: Tensor, how: Quantisation, seed: int) -> NDArray[np.float32]:
    """The (out, in) float32 weight that `packed` and `groups` stand for, by MLX's own rule."""
    words = np.concatenate(list(packed(tensor, how, seed))).reshape(tensor.shape[0], -1)
    scales, biases = (mx.array(part) for part in groups(tensor, how, seed))
    return np.array(dequantise(mx.array(words), scales, biases, how))


def plain(tensor: Tensor, seed: int) -> Iterator[NDArray[np.float32]]:
    """A tensor that is not quantised, in flat pieces of float32 that are representable in bfloat16.

    Large weights are uniform with the spread of normal ones; all others are `draw`'s.
    """
    size = int(np.prod(tensor.shape))
    if tensor.kind != "weight" or size < CHUNK:
        yield draw(tensor, seed).reshape(-1)
        return
    stream = _stream(tensor.key, "plain", seed)
    width = np.float32(np.sqrt(12) * tensor.gain / np.sqrt(tensor.fan_in))
    for start in range(0, size, CHUNK):
        yield round_to_bfloat16((_uniform(stream, min(CHUNK, size - start)) - np.float32(0.5)) * width)


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (round_to_bfloat16(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _stream(key: str, part: str, seed: int) -> np.random.SFC64:
    return np.random.SFC64(np.random.SeedSequence([seed, zlib.crc32(f"{key} {part}".encode())]))


def _uniform(stream: np.random.SFC64, count: int) -> NDArray[np.float32]:
    """Numbers in (0, 1), 16 random bits each: bfloat16 keeps 8 of them."""
    bits = np.asarray(stream.random_raw((count + 3) // 4)).view(np.uint16)[:count]
    return (bits.astype(np.float32) + np.float32(0.5)) * np.float32(2**-16)
