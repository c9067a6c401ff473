"""Videos of a handful of prompts, native beside reference, with what the CLIP and the pixel oracle say of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.report import media
from parity.report.media_view import MediaView, media_view

ATTRIBUTES = ("colour", "shape", "motion", "background")
BUDGET = 400_000  # bytes of one side's frames


@dataclass(frozen=True)
class Side:
    """One engine's video of the prompt."""

    name: str
    clip_score: float
    first: bool
    lost_to: str
    right: bool
    reads: str
    sound: str  # data URI


@dataclass(frozen=True)
class PromptView:
    """One prompt; `captions` counts its own and all hard negatives."""

    prompt: str
    captions: int
    media: MediaView
    sides: tuple[Side, ...]


def prompt_view(row: Mapping[str, Any], folder: Path, name: str) -> PromptView:
    """From a row of `fidelity_shown.Shown.rows`; media lie below `folder`."""
    view = media_view(row["media"], folder, name, min(BUDGET, media.SPRITE_BYTES))
    sounds = dict(view.sounds)
    sides = [
        Side(
            side,
            float(row[side]["clip_score"]),
            bool(row[side]["first"]),
            str(row[side]["lost_to"]),
            bool(row["oracle"][side]["right"]),
            _reads(row["oracle"][side]),
            sounds.get(side, ""),
        )
        for side in ("native", "reference")
        if row.get(side)
    ]
    return PromptView(str(row["prompt"]), int(row["captions"]), view, tuple(sides))


def _reads(seen: Mapping[str, Any]) -> str:
    return ", ".join(str(seen[name] or "nothing clear") for name in ATTRIBUTES)
