"""The small world: what a caption can say, and one concrete scene drawn from a caption.

Everything is measured in fractions of the frame's side, so one scene renders at any resolution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np

SHAPES: Final = ("circle", "square", "triangle", "cross")
COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.80, 0.20),
    "blue": (0.15, 0.20, 0.90),
    "yellow": (0.95, 0.85, 0.10),
    "cyan": (0.10, 0.80, 0.90),
    "magenta": (0.85, 0.15, 0.80),
}
MOTIONS: Final[dict[str, tuple[float, float]]] = {  # unit direction (x right, y down)
    "moving left": (-1.0, 0.0),
    "moving right": (1.0, 0.0),
    "moving up": (0.0, -1.0),
    "moving down": (0.0, 1.0),
    "standing still": (0.0, 0.0),
}
BACKGROUNDS: Final[dict[str, tuple[float, float, float]]] = {
    "black": (0.05, 0.05, 0.05),
    "gray": (0.30, 0.30, 0.30),
    "white": (0.95, 0.95, 0.95),
}
ATTRIBUTES: Final = ("shape", "colour", "motion", "background")

TRAVEL: Final = 0.36  # whole path of a moving shape
SIZE: Final = 0.19  # half extent of a shape
JITTER: Final = 0.04  # of the path's middle, both axes
SIZE_JITTER: Final = 0.05  # relative
SPLIT_SEED: Final = 2026
HELD_OUT: Final = 100


@dataclass(frozen=True, order=True)
class Caption:
    """One combination of the four attributes."""

    colour: str
    shape: str
    motion: str
    background: str

    def __post_init__(self) -> None:
        for name, allowed in (
            ("colour", COLOURS),
            ("shape", SHAPES),
            ("motion", MOTIONS),
            ("background", BACKGROUNDS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"world caption: {name} is {value!r}, expected one of {', '.join(allowed)}")

    @property
    def text(self) -> str:
        return f"a {self.colour} {self.shape} {self.motion} on a {self.background} background"

    @property
    def contrast(self) -> float:
        """The largest difference of a colour channel between shape and background."""
        pairs = zip(COLOURS[self.colour], BACKGROUNDS[self.background], strict=True)
        return max(abs(shape - ground) for shape, ground in pairs)

    def swap(self, attribute: str, value: str) -> Caption:
        """The same caption with one attribute changed."""
        return replace(self, **{attribute: value})

    def neighbours(self) -> list[Caption]:
        """All captions that differ in exactly one attribute (3 + 5 + 4 + 2 = 14)."""
        return [self.swap(name, value) for name in ATTRIBUTES for value in values(name) if value != getattr(self, name)]


def values(attribute: str) -> tuple[str, ...]:
    """What an attribute can be, in a fixed order."""
    return {
        "shape": SHAPES,
        "colour": tuple(COLOURS),
        "motion": tuple(MOTIONS),
        "background": tuple(BACKGROUNDS),
    }[attribute]


def parse(text: str) -> Caption:
    """The caption that a world sentence names; ValueError when it is not one."""
    for caption in all_captions():
        if caption.text == text.strip():
            return caption
    raise ValueError(f"world caption: cannot read {text!r}; expected e.g. {all_captions()[0].text!r}")


def all_captions() -> list[Caption]:
    """All 4 x 6 x 5 x 3 = 360 combinations, in a fixed order."""
    return [Caption(c, s, m, b) for s, c, m, b in product(SHAPES, COLOURS, MOTIONS, BACKGROUNDS)]


def hash_order(captions: Sequence[Caption], seed: int) -> list[Caption]:
    """A random order that depends on the seed and the sentences alone, not on a generator's version."""
    return sorted(captions, key=lambda c: hashlib.sha256(f"{seed}|{c.text}".encode()).digest())


def split(seed: int = SPLIT_SEED, held_out: int = HELD_OUT) -> tuple[list[Caption], list[Caption]]:
    """(train, held out) captions: disjoint combinations, every single attribute value in both."""
    ordered = hash_order(all_captions(), seed)
    return ordered[held_out:], ordered[:held_out]


@dataclass(frozen=True)
class Scene:
    """A caption made concrete: the path's middle and the half extent, in fractions of the side."""

    caption: Caption
    x: float
    y: float
    size: float

    @classmethod
    def sample(cls, caption: Caption, rng: np.random.Generator) -> Scene:
        """Draw start jitter and size; the shape stays inside the frame on its whole path."""
        dx, dy, ds = rng.uniform(-1.0, 1.0, 3)
        return cls(caption, 0.5 + JITTER * dx, 0.5 + JITTER * dy, SIZE * (1.0 + SIZE_JITTER * ds))

    def centres(self, frames: int) -> np.ndarray:
        """(F, 2) centre x, y per frame, in fractions of the side; the path's length does not depend on F."""
        progress = np.linspace(-0.5, 0.5, frames) if frames > 1 else np.zeros(1)
        direction = np.asarray(MOTIONS[self.caption.motion])
        return np.asarray([self.x, self.y]) + TRAVEL * progress[:, None] * direction
