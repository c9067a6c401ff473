"""One forward pass and one guided step, tiny and mid: native, official, external CLI in turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.bench.clock import interleave, summary
from parity.bench.sides import MID, TINY, engines, shape, subjects
from parity.checkpoints import made

SIZES = {
    "tiny": {"forward": TINY, "guided step": replace(TINY, guided=True, text_tokens=1024)},
    "mid": {"forward": MID, "guided step": replace(MID, guided=True)},
}
#: Steps per sample: what a loop keeps warm stays warm, as in a run of many steps.
REPEAT = {"tiny": 10, "mid": 1}
#: native ÷ other, processor seconds, median: what is asked for.
TARGETS = {("tiny", "official"): 1.0, ("mid", "official"): 0.95, ("mid", "ltx-2-mlx"): 0.8}


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """By `PRESET forward` and `PRESET guided step`: spreads, ratios, tokens, peak bytes. The CLI has no guided step here."""
    found: dict[str, Any] = {}
    for name, sizes in SIZES.items():
        for what, size in sizes.items():
            with engines(made(name), name, folder, cli=not size.guided) as services:
                tokens = shape(services, size)
                few = max(3, rounds // 5) if name == "mid" else rounds
                samples = interleave(subjects(services, repeat=REPEAT[name]), few)
                peaks = {engine: service.peak_bytes for engine, service in services.items()}
            found[f"{name} {what}"] = {**summary(samples), "tokens": tokens, "peak_bytes": peaks, "rounds": few}
    return found
