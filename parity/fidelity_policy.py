"""The `[fidelity]` table of policy.toml, complete or refused."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ltx_native.errors import ConfigError
from parity.stats import Bet

POLICY: Final = Path(__file__).with_name("policy.toml")
NEEDED: Final = ("trained", "always", "never")


@dataclass(frozen=True)
class ClipScorePolicy:
    margin_points: float
    control_share: float


@dataclass(frozen=True)
class MarginPolicy:
    margin: float


@dataclass(frozen=True)
class MotionPolicy:
    margin: float
    still: float


@dataclass(frozen=True)
class SmokePolicy:
    min_frames: int
    min_brightest: float
    min_contrast: float
    min_motion: float
    min_audio_rms: float
    max_audio_peak: float


@dataclass(frozen=True)
class LadderPolicy:
    videos: int
    order: tuple[str, ...]
    tolerance_points: float
    severe: tuple[str, ...]
    mild: tuple[str, ...]

    @property
    def needed(self) -> tuple[str, ...]:
        """The rungs without which a pass means nothing, each once."""
        return tuple(dict.fromkeys(self.order + self.severe))


@dataclass(frozen=True)
class FidelityPolicy:
    needed: str
    alpha: float
    suite_size: int
    min_videos: int
    pilot_videos: int
    bound_sigmas: float
    bound_margins: float
    clip_score: ClipScorePolicy
    r_precision: MarginPolicy
    temporal_consistency: MarginPolicy
    motion: MotionPolicy
    smoke: SmokePolicy
    ladder: LadderPolicy
    sha256: str

    def bet(self, metric: str, margin: float, sigma: float) -> Bet:
        """The test of one metric, given its margin and its spread in the pilot."""
        if metric == "r_precision":  # outcomes are -1, 0, 1: the bound is no choice
            return Bet(margin, 1.0, min(max(sigma, margin), 1.0), hard=True)
        bound = max(self.bound_sigmas * sigma, self.bound_margins * margin)
        return Bet(margin, bound, min(max(sigma, margin / self.bound_margins), bound))


TABLES: Final[dict[str, type]] = {
    "clip_score": ClipScorePolicy,
    "r_precision": MarginPolicy,
    "temporal_consistency": MarginPolicy,
    "motion": MotionPolicy,
    "smoke": SmokePolicy,
    "ladder": LadderPolicy,
}


def read_policy(path: Path = POLICY) -> FidelityPolicy:
    """Read the table. Anything missing, unknown or of the wrong kind raises ConfigError."""
    try:
        content = path.read_bytes()
        table = tomllib.loads(content.decode())["fidelity"]
    except (OSError, KeyError, ValueError) as error:
        raise _bad(path, "fidelity", repr(error), "a readable TOML file with a [fidelity] table") from error
    values = {name: _fill(path, f"fidelity.{name}", kind, table.pop(name, None)) for name, kind in TABLES.items()}
    own = {field.name for field in fields(FidelityPolicy)} - set(TABLES) - {"sha256"}
    values |= _typed(path, "fidelity", FidelityPolicy, table, own)
    policy = FidelityPolicy(**values, sha256=hashlib.sha256(content).hexdigest())
    if not 0 < policy.alpha <= 0.1 or policy.suite_size < 2 or policy.pilot_videos < 3:
        found = f"alpha {policy.alpha}, {policy.suite_size} prompts, {policy.pilot_videos} in the pilot"
        raise _bad(path, "fidelity", found, "alpha in (0, 0.1], at least 2 prompts and 3 in the pilot")
    if policy.needed not in NEEDED:
        raise _bad(path, "fidelity.needed", policy.needed, f"one of {', '.join(NEEDED)}")
    if twice := set(policy.ladder.mild) & set(policy.ladder.needed):
        raise _bad(path, "fidelity.ladder.mild", ", ".join(sorted(twice)), "no rung of which something is demanded")
    return policy


def _fill(path: Path, name: str, kind: type, table: Any) -> Any:
    if not isinstance(table, dict):
        raise _bad(path, name, repr(table), "a table")
    return kind(**_typed(path, name, kind, table, {field.name for field in fields(kind)}))


def _typed(path: Path, name: str, kind: type, table: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    types = {field.name: field.type for field in fields(kind)}
    out: dict[str, Any] = {}
    for key in sorted(wanted | set(table)):
        value = table.get(key)
        if key not in wanted or key not in table:
            raise _bad(path, f"{name}.{key}", repr(value), f"exactly the keys {', '.join(sorted(wanted))}")
        if types[key] == "tuple[str, ...]" and isinstance(value, list) and all(isinstance(v, str) for v in value):
            out[key] = tuple(value)
        elif isinstance(value, {"str": str, "int": int}.get(str(types[key]), ())) and not isinstance(value, bool):
            out[key] = value
        elif types[key] == "float" and isinstance(value, int | float) and not isinstance(value, bool):
            out[key] = float(value)
        else:
            raise _bad(path, f"{name}.{key}", repr(value), str(types[key]))
    return out


def _bad(path: Path, key: str, value: str, expected: str) -> ConfigError:
    return ConfigError(f"policy: {key}", str(path), value, expected, "correct the policy file")
