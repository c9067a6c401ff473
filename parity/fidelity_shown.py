"""A handful of prompts made by both engines for people to look at: videos, scores, and what the pixel oracle reads.

So few can show that something is broken, never that all is well: they can fail a verdict and do not help it to pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx_native.media import write_video
from parity.fidelity_gate import PairResult, Pilot, judge, smoke
from parity.fidelity_run import Run, made_pairs
from parity.fidelity_world import reading
from parity.gate import Judgement


@dataclass(frozen=True)
class Shown:
    """`rows` for the page, media relative to the folder they were written to; `judgement` is a pass or a fail."""

    judgement: Judgement
    rows: tuple[dict[str, Any], ...]

    @property
    def rests_on(self) -> str:
        right = {side: sum(bool(row["oracle"][side]["right"]) for row in self.rows) for side in ("native", "reference")}
        first = {side: sum(bool(row[side]["first"]) for row in self.rows) for side in ("native", "reference")}
        count = len(self.rows)
        return (
            f"{count} prompts made again: as asked by the pixel oracle, native {right['native']} and reference "
            f"{right['reference']}; own caption first by the CLIP, native {first['native']} and reference {first['reference']}"
        )


def show_prompts(run: Run, count: int, folder: Path, frame_rate: float, sample_rate: int, result: Mapping[str, Any]) -> Shown:
    """The first `count` prompts of the world's suite. `result` is the whole run's (`Evidence.content`), or nothing: its pilot
    says which difference would be too much; without it only what is plainly wrong fails."""
    items = run.suite.items[:count]
    pairs, rows = [], []
    for item, pair in zip(items, made_pairs(run, run.native, items), strict=False):
        pairs.append(pair)
        run.say(f"prompt {len(pairs)}/{len(items)}: {item.prompt}")
        if pair.native is None or pair.reference is None:
            break
        row: dict[str, Any] = {"id": item.id, "prompt": item.prompt, "seed": item.seed, "media": {}, "oracle": {}}
        for side, scores in ((run.native, pair.native), (run.reference, pair.reference)):
            video = run.store.video(side, item)
            path = folder / item.id / f"{side.name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, iter([video.frames]), frame_rate, np.clip(video.waveform, -1, 1), sample_rate)
            row["media"][side.name] = f"{item.id}/{path.name}"
            row["oracle"][side.name] = reading(item, video.frames)
            row[side.name] = {"clip_score": scores.clip_score, "first": scores.first, "lost_to": scores.lost_to}
        rows.append({**row, "captions": len(item.hard_negatives) + 1})
    return Shown(_judge(run, pairs, result), tuple(rows))


def _judge(run: Run, pairs: list[PairResult], result: Mapping[str, Any]) -> Judgement:
    problems = [f"{pair.prompt_id}: {text}" for pair in pairs for text in smoke(pair, run.policy)]
    if problems or not pairs:
        return Judgement("fail", tuple(problems) or ("no prompt was made",))
    if result.get("pilot"):
        found, _ = judge(pairs, run.policy.suite_size, Pilot.from_dict(result["pilot"]), run.policy)
        if found.verdict == "fail":
            return found
    return Judgement("pass")
