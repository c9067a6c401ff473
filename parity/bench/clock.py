"""Samples of several subjects in turns, and what is told about them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
WARMUP = 2


@dataclass(frozen=True)
class Sample:
    """One run: wall and processor seconds."""

    seconds: float
    cpu_s: float

    @staticmethod
    def of(answer: Mapping[str, Any]) -> Sample:
        return Sample(float(answer["seconds"]), float(answer["cpu_s"]))


Subject = Callable[[], Sample]
Samples = dict[str, list[Sample]]


def interleave(subjects: Mapping[str, Callable[[], T]], rounds: int, warmup: int = WARMUP) -> dict[str, list[T]]:
    """``rounds`` samples of each subject, one of each per round, the order turned round every time."""
    found: dict[str, list[T]] = {name: [] for name in subjects}
    for i in range(rounds + warmup):
        names = list(subjects) if i % 2 else list(subjects)[::-1]
        for name in names:
            sample = subjects[name]()
            if i >= warmup:
                found[name].append(sample)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def summary(samples: Samples, base: str = "native") -> dict[str, Any]:
    """Spreads by subject, and of ``base`` ÷ every other subject, round by round."""
    found: dict[str, Any] = {
        name: {"wall_s": spread([s.seconds for s in runs]), "cpu_s": spread([s.cpu_s for s in runs])}
        for name, runs in samples.items()
    }
    for name, runs in samples.items():
        if name != base and base in samples:
            pairs = list(zip(samples[base], runs, strict=True))
            found[f"{base} ÷ {name}"] = {
                "wall": spread([a.seconds / b.seconds for a, b in pairs]),
                "cpu": spread([a.cpu_s / b.cpu_s for a, b in pairs]),
            }
    return found


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of the least-squares fit y ∝ x^p. Raises ValueError below two different sizes."""
    import numpy as np

    if len(set(x)) < 2:
        raise ValueError("a growth exponent needs at least two sizes")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
