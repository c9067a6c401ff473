"""How cost grows with tokens, blocks and frames at the mid size: times and the exponent of the best power law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.bench.clock import exponent, interleave, summary
from parity.bench.sides import MID, Size, engines, shape, subjects
from parity.checkpoints import made

#: What grows, its values, and the size at each. Widths at one latent frame: 16 to 1,024 tokens.
AXES: dict[str, tuple[Sequence[int], Callable[[int], Size], str]] = {
    "tokens": ((128, 256, 512, 1024), lambda side: replace(MID, width=side, height=side, frames=9, blocks=2), "step"),
    "blocks": ((1, 2, 4, 8), lambda count: replace(MID, width=128, height=128, blocks=count), "step"),
    "frames": ((9, 25, 49, 97), lambda frames: replace(MID, frames=frames, frame_rate=24.0, blocks=2), "step"),
    "decoded frames": (
        (9, 25, 49),
        lambda frames: replace(MID, width=128, height=128, frames=frames, frame_rate=24.0),
        "decode",
    ),
}


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """By axis: points (what, tokens, summary) and by engine the exponent over the axis, from medians of processor time."""
    found: dict[str, Any] = {}
    with engines(made("mid"), "mid", folder, cli=False) as services:
        for axis, (values, size_of, do) in AXES.items():
            points = []
            for value in values:
                tokens = shape(services, size_of(value))
                samples = interleave(subjects(services, do), rounds, 1)
                x = tokens["video_tokens"] if axis == "tokens" else value
                points.append({"x": x, "tokens": tokens, **summary(samples)})
            exponents = {
                engine: exponent([p["x"] for p in points], [p[engine]["cpu_s"]["median"] for p in points])
                for engine in services
            }
            found[axis] = {"points": points, "exponents": exponents}
    return found
