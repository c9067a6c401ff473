"""The frozen prompt suite: the held-out captions in their pre-registered random order, each with hard negatives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity.world.scene import SPLIT_SEED, Caption, all_captions, hash_order, parse, split

SUITE_PATH: Final = Path(__file__).with_name("suite.json")
ORDER_SEED: Final = 5
NEGATIVES: Final = 15  # with the caption itself: ranking among 16


@dataclass(frozen=True)
class Prompt:
    """One entry: its place in the order, the caption, its noise seed and the captions it must outrank."""

    index: int
    caption: Caption
    seed: int
    negatives: tuple[Caption, ...]

    @property
    def text(self) -> str:
        return self.caption.text


def hard_negatives(caption: Caption, seed: int) -> list[Caption]:
    """All 14 captions with one attribute swapped, then one with more swapped, in a seeded order."""
    near = caption.neighbours()
    far = [c for c in all_captions() if c != caption and c not in near]
    return hash_order(near, seed) + hash_order(far, seed)[: NEGATIVES - len(near)]


def build_suite() -> dict[str, Any]:
    """The content of `suite.json`; depends on the seeds and the captions alone."""
    _, held_out = split(SPLIT_SEED)
    prompts = [
        {
            "index": index,
            "caption": caption.text,
            "seed": 1000 + index,
            "negatives": [c.text for c in hard_negatives(caption, ORDER_SEED + index)],
        }
        for index, caption in enumerate(hash_order(held_out, ORDER_SEED))
    ]
    return {"version": 1, "split_seed": SPLIT_SEED, "order_seed": ORDER_SEED, "prompts": prompts}


def load_suite(path: Path = SUITE_PATH) -> list[Prompt]:
    """The committed suite in its order; ValueError when the file is not one."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("version") != 1:
        raise ValueError(f"world suite: {path.name} has version {data.get('version')!r}, expected 1")
    return [
        Prompt(row["index"], parse(row["caption"]), row["seed"], tuple(parse(text) for text in row["negatives"]))
        for row in data["prompts"]
    ]


def write_suite(path: Path = SUITE_PATH) -> None:
    """Write the frozen file (once; a test holds the committed file and this function together)."""
    path.write_text(json.dumps(build_suite(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_suite()
