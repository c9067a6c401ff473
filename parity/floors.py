"""Measured noise floors: what the reference differs from itself, by kind of module, and whether they still hold.

They stand in `floors.toml` below the line that `parity calibrate` writes; what is above it is written by people. A floor holds
for the versions of the reference and the configuration of the checkpoint it was measured on, on any processor.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.bounds import FLOORS, BoundsError
from parity.files import write_text

MARK = "# Measured by `parity calibrate`, which writes all below this line.\n"
RENEW = "run `parity calibrate`"
# What decides the reference's numbers; the rest of its environment reads and writes files.
PACKAGES = ("ltx-core", "ltx-pipelines", "torch", "transformers")
DTYPES = ("float32", "bfloat16", "repeat")


@dataclass(frozen=True)
class Floor:
    """One kind of module (``component:Type``): the largest rel_l2 among its calls.

    ``float32``: against float64 on the same inputs; ``bfloat16``: against float32; ``repeat``: between two runs.
    """

    kind: str
    float32: float
    bfloat16: float
    repeat: float
    tensors: int


@dataclass(frozen=True)
class Calibration:
    """All floors of one checkpoint.

    ``divergence`` is how far the end of the run moves when its start moves by ``nudge``, ``growth`` the same by modality after
    every step (rel_l2 of the latent).
    """

    checkpoint: str
    config: str
    case: str
    date: str
    versions: Mapping[str, str | None]
    nudge: float
    divergence: Mapping[str, float]
    floors: tuple[Floor, ...]
    growth: Mapping[str, tuple[float, ...]]
    reason: str = ""

    def by_kind(self) -> dict[str, Floor]:
        return {floor.kind: floor for floor in self.floors}


@dataclass(frozen=True)
class Floors:
    """Every calibration there is."""

    calibrations: tuple[Calibration, ...] = field(default=())

    def of(self, config: str) -> Calibration | None:
        return next((found for found in self.calibrations if found.config == config), None)

    def problem(self, config: str, versions: Mapping[str, str | None]) -> str:
        """Why a comparison may not be judged by these floors; empty when it may."""
        found = self.of(config)
        if found is None:
            known = ", ".join(item.checkpoint for item in self.calibrations) or "none"
            return f"no noise floors were measured for a checkpoint of this configuration (there are: {known}); {RENEW}"
        now = fingerprint(versions)
        changed = [f"{name} {found.versions.get(name)} → {now[name]}" for name in now if found.versions.get(name) != now[name]]
        return f"the noise floors have expired ({', '.join(changed)}); {RENEW}" if changed else ""

    def loosened(self, new: Calibration) -> list[str]:
        """Kinds whose floor has grown beyond what the last digit moves, or that are gone: this wants a reason."""
        old = self.of(new.config)
        if old is None:
            return []
        now = new.by_kind()
        grown = []
        for kind, floor in old.by_kind().items():
            other = now.get(kind)
            if other is None:
                grown.append(f"{kind} is no longer measured")
                continue
            for dtype in DTYPES:
                before, after = getattr(floor, dtype), getattr(other, dtype)
                if after > 1.5 * before and after > 1e-9:
                    grown.append(f"{kind} {dtype} {before:.2g} → {after:.2g}")
        return grown

    def with_(self, new: Calibration) -> Floors:
        kept = tuple(item for item in self.calibrations if item.config != new.config)
        return Floors(tuple(sorted((*kept, new), key=lambda item: item.checkpoint)))


def fingerprint(versions: Mapping[str, str | None]) -> dict[str, str | None]:
    """The versions a floor depends on. A build suffix (+cpu) names a processor and not the arithmetic asked for."""
    return {name: value.partition("+")[0] if (value := versions.get(name)) else None for name in PACKAGES}


def config_sha256(model: Path) -> str:
    """Of the configuration in an official file's header, without the weights. Raises `BoundsError`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(model, framework="np") as file:
            config = json.loads((file.metadata() or {})["config"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BoundsError(f"{model}: no configuration in the file's header ({error!r})") from error
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def load_floors(path: Path = FLOORS) -> Floors:
    """Read the measured part. Raises `BoundsError`; a file without one gives no floors."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("calibration", [])
        return Floors(tuple(_calibration(row) for row in rows))
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise BoundsError(f"{path}: no usable floors ({error!r})") from error


def _calibration(row: Mapping[str, Any]) -> Calibration:
    floors = tuple(
        Floor(kind, float(found["float32"]), float(found["bfloat16"]), float(found["repeat"]), int(found["tensors"]))
        for kind, found in row["floors"].items()
    )
    return Calibration(
        str(row["checkpoint"]),
        str(row["config"]),
        str(row["case"]),
        str(row["date"]),
        {name: value or None for name, value in row["versions"].items()},
        float(row["nudge"]),
        {name: float(value) for name, value in row["divergence"].items()},
        floors,
        {name: tuple(map(float, values)) for name, values in row["growth"].items()},
        str(row.get("reason", "")),
    )


def save_floors(floors: Floors, path: Path = FLOORS, template: Path = FLOORS) -> None:
    """Write the measured part below what people wrote in ``path`` (or, where there is no such file, in ``template``)."""
    text = (path if path.is_file() else template).read_text(encoding="utf-8")
    written = text.partition(MARK)[0].rstrip() + "\n\n" + MARK + "".join(map(_toml, floors.calibrations))
    tomllib.loads(written)
    write_text(path, written)


def _toml(item: Calibration) -> str:
    lines = ["", "[[calibration]]"]
    lines += [f"{name} = {json.dumps(getattr(item, name))}" for name in ("checkpoint", "config", "case", "date")]
    lines += [f"reason = {json.dumps(item.reason)}"] if item.reason else []
    lines += [f"versions = {_inline({name: value or '' for name, value in item.versions.items()})}"]
    lines += [f"nudge = {_number(item.nudge)}", f"divergence = {_inline(dict(item.divergence))}"]
    lines += [f"growth = {_inline(dict(item.growth))}", "", "[calibration.floors]"]
    for floor in item.floors:
        values = {dtype: getattr(floor, dtype) for dtype in DTYPES} | {"tensors": floor.tensors}
        lines.append(f"{json.dumps(floor.kind)} = {_inline(values)}")
    return "\n".join(lines) + "\n"


def _inline(values: Mapping[str, Any]) -> str:
    pairs = (f"{json.dumps(name)} = {_value(value)}" for name, value in values.items())
    return "{ " + ", ".join(pairs) + " }"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _number(value) if isinstance(value, float) else json.dumps(value)


def _number(value: float) -> str:
    text = f"{value:.3g}"
    return text if "." in text or "e" in text or "inf" in text or "nan" in text else text + ".0"


def kinds(rows: Sequence[tuple[str, str, float | None]]) -> dict[str, tuple[float, int]]:
    """Largest floor and count by kind from (site, type, floor) rows; what could not be measured is infinite."""
    found: dict[str, tuple[float, int]] = {}
    for site, type_name, value in rows:
        kind = f"{site.split('.', 1)[0]}:{type_name}"
        worst, count = found.get(kind, (0.0, 0))
        found[kind] = (max(worst, float("inf") if value is None else value), count + 1)
    return found
