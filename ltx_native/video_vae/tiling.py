"""How a clip is cut into overlapping tiles, and with what weights they are laid over each other again.

Sizes, shifts and ramps are those of the official decoder: tiles shape the picture, so another cut is another result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SPACE_SCALE = 32  # pixels of a latent column or row
TIME_SCALE = 8  # frames of a latent frame, but 1 of the first
MIN_ENCODER_OVERLAP_PX = 64  # the encoder pads its tiles with zeros: one latent on each side is thrown away
MIN_ENCODER_OVERLAP_FRAMES = 16


@dataclass(frozen=True)
class SpatialTilingConfig:
    tile_size_in_pixels: int  # of the longer side; the shorter is cut in proportion
    tile_overlap_in_pixels: int = 0

    def __post_init__(self) -> None:
        _check(self.tile_size_in_pixels, self.tile_overlap_in_pixels, smallest=64, unit=SPACE_SCALE)


@dataclass(frozen=True)
class TemporalTilingConfig:
    tile_size_in_frames: int
    tile_overlap_in_frames: int = 0

    def __post_init__(self) -> None:
        _check(self.tile_size_in_frames, self.tile_overlap_in_frames, smallest=16, unit=TIME_SCALE)


@dataclass(frozen=True)
class TilingConfig:
    spatial_config: SpatialTilingConfig | None = None
    temporal_config: TemporalTilingConfig | None = None

    @classmethod
    def default(cls) -> TilingConfig:
        return cls(SpatialTilingConfig(512, 64), TemporalTilingConfig(64, 24))


@dataclass(frozen=True)
class Interval:
    """A tile along one axis; the ramps are how far its weight rises at the start and falls at the end."""

    start: int
    end: int
    left_ramp: int = 0
    right_ramp: int = 0


@dataclass(frozen=True)
class Piece:
    """Where a tile is read, where it is laid down, and its weight at each place there."""

    source: slice
    target: slice
    weights: tuple[float, ...]


def split(length: int, size: int, overlap: int) -> list[Interval]:
    """Tiles of `size` every `size - overlap`, the last one cut short at `length`."""
    if length <= size:
        return [Interval(0, length)]
    if overlap >= size:
        raise ValueError(f"a tile is {size} and the least overlap {overlap}, expected a larger tile")
    count = (length + size - 2 * overlap - 1) // (size - overlap)
    starts = [i * (size - overlap) for i in range(count)]
    return [
        Interval(s, length if s == starts[-1] else s + size, overlap if s else 0, overlap if s != starts[-1] else 0)
        for s in starts
    ]


def decoder_space(length: int, longest: int, config: SpatialTilingConfig | None) -> list[Piece]:
    """Latent rows or columns to pixels; `longest` is the longer of the two sides."""
    if config is None:
        return [_whole(length, length * SPACE_SCALE)]
    overlap = config.tile_overlap_in_pixels // SPACE_SCALE
    size = max(2, overlap + 1, round(config.tile_size_in_pixels // SPACE_SCALE * length / longest))

    def piece(i: Interval) -> Piece:
        target = slice(i.start * SPACE_SCALE, i.end * SPACE_SCALE)
        return _piece(i, target, i.left_ramp * SPACE_SCALE, i.right_ramp * SPACE_SCALE, from_zero=False)

    return [piece(i) for i in split(length, size, overlap)]


def decoder_time(length: int, config: TemporalTilingConfig | None) -> list[Piece]:
    """Latent frames to frames. A tile's first latent frame decodes to one frame only, so all tiles but the first begin
    one latent frame early; that frame has the weight 0."""
    if config is None:
        return [_whole(length, (length - 1) * TIME_SCALE + 1)]
    intervals = split(length, config.tile_size_in_frames // TIME_SCALE, config.tile_overlap_in_frames // TIME_SCALE)
    intervals = [intervals[0]] + [replace(i, start=i.start - 1, left_ramp=i.left_ramp + 1) for i in intervals[1:]]

    def piece(i: Interval) -> Piece:
        target = slice(i.start * TIME_SCALE, (i.end - 1) * TIME_SCALE + 1)
        left = (i.left_ramp - 1) * TIME_SCALE + 1 if i.left_ramp else 0
        return _piece(i, target, left, i.right_ramp * TIME_SCALE, from_zero=True)

    return [piece(i) for i in intervals]


def encoder_space(length: int, config: SpatialTilingConfig | None) -> list[Piece]:
    """Pixels to latent rows or columns: every latent comes from one tile, none from a tile's padded edge."""
    if config is None:
        return [_whole(length, length // SPACE_SCALE)]
    overlap = max(config.tile_overlap_in_pixels, MIN_ENCODER_OVERLAP_PX)

    def piece(i: Interval) -> Piece:
        target = slice(i.start // SPACE_SCALE, i.end // SPACE_SCALE)
        return _rectangle(i, target, max(0, i.left_ramp // SPACE_SCALE - 1), 1 if i.right_ramp else 0)

    return [piece(i) for i in split(length, config.tile_size_in_pixels, overlap)]


def encoder_time(length: int, config: TemporalTilingConfig | None) -> list[Piece]:
    """Frames (8k + 1) to latent frames; the encoder is causal, so only a tile's beginning is thrown away."""
    if config is None:
        return [_whole(length, (length - 1) // TIME_SCALE + 1)]
    overlap = max(config.tile_overlap_in_frames, MIN_ENCODER_OVERLAP_FRAMES)
    intervals = split(length, config.tile_size_in_frames, overlap)
    intervals = [replace(i, end=i.end + 1) for i in intervals[:-1]] + intervals[-1:]

    def piece(i: Interval) -> Piece:
        target = slice(i.start // TIME_SCALE, (i.end - 1) // TIME_SCALE + 1)
        return _rectangle(i, target, (i.left_ramp - 1) // TIME_SCALE + 1 if i.left_ramp else 0, 0)

    return [piece(i) for i in intervals]


def _whole(length: int, target: int) -> Piece:
    return Piece(slice(0, length), slice(0, target), (1.0,) * target)


def _piece(interval: Interval, target: slice, left: int, right: int, from_zero: bool) -> Piece:
    """Weights that rise over `left` places (from 0, or from the first step above it) and fall over `right` to above 0."""
    length = target.stop - target.start
    steps = left if from_zero else left + 1
    first = 0 if from_zero else 1
    weights = [1.0] * length
    for i in range(min(left, length)):
        weights[i] *= (i + first) / steps
    for i in range(min(right, length)):
        weights[length - 1 - i] *= (i + 1) / (right + 1)
    return Piece(slice(interval.start, interval.end), target, tuple(weights))


def _rectangle(interval: Interval, target: slice, left: int, right: int) -> Piece:
    length = target.stop - target.start
    weights = [0.0] * left + [1.0] * max(0, length - left - right) + [0.0] * right
    return Piece(slice(interval.start, interval.end), target, tuple(weights[:length]))


def _check(size: int, overlap: int, smallest: int, unit: int) -> None:
    if size < smallest or size % unit:
        raise ValueError(f"a tile is {size}, expected at least {smallest} and a multiple of {unit}")
    if overlap < 0 or overlap % unit or overlap >= size:
        raise ValueError(f"the overlap is {overlap}, expected a multiple of {unit} from 0 to less than the tile's {size}")
