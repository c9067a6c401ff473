"""Limits for local errors, read from `floors.toml`: a default per dtype and the few sites that need more, with the reason."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

FLOORS = Path(__file__).with_name("floors.toml")


class BoundsError(ValueError):
    """A floors file that cannot be used."""


@dataclass(frozen=True)
class SiteBound:
    """A looser limit for the sites matching ``pattern``; ``measured`` is what the reference differs from itself there."""

    pattern: str
    type: str
    rel_l2: float
    measured: float
    reason: str


@dataclass(frozen=True)
class Bounds:
    """Local rel_l2 limits of one dtype: a number per site, or ``factor`` times what the reference differs from itself."""

    dtype: str
    default: float
    sites: tuple[SiteBound, ...]
    factor: float = 2.0

    def local(self, site: str, type_name: str, floor: float | None = None) -> float:
        if floor is not None:
            # Where the reference stays in float32 its floor is zero and native answers to the float32 bound.
            return max(self.factor * floor, self.default)
        for bound in self.sites:
            if fnmatchcase(site, bound.pattern) and fnmatchcase(type_name, bound.type):
                return bound.rel_l2
        return self.default


def load_bounds(dtype: str, path: Path = FLOORS) -> Bounds:
    """Read the limits for a dtype. Raises `BoundsError` when the file is unreadable or lacks the dtype or a reason."""
    try:
        data = tomllib.loads(path.read_text())
        default = float(data["default"][dtype])
        sites = tuple(
            SiteBound(
                str(row["pattern"]), str(row.get("type", "*")), float(row[dtype]), float(row["measured"]), str(row["reason"])
            )
            for row in data.get("site", [])
            if dtype in row
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise BoundsError(f"{path}: no usable bounds for {dtype} ({error!r})") from error
    for bound in sites:
        if not bound.reason or bound.measured <= 0:
            raise BoundsError(f"{path}: the looser bound for {bound.pattern} states no reason or measured floor")
    return Bounds(dtype, default, sites)
