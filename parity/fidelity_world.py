"""The world's frozen captions as a fidelity suite, with training captions as its pilot."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np

from parity.cases import Case, Guidance
from parity.fidelity_suite import Item, Suite
from parity.world.oracle import read
from parity.world.scene import ATTRIBUTES, SPLIT_SEED, Caption, hash_order, parse, split
from parity.world.suite import ORDER_SEED, hard_negatives, load_suite

PILOT_SEED: Final = 2000  # noise seeds and order of the pilot; the suite's are 1000 and up
PILOT: Final = 24

# What the world's checkpoint was trained for: one-stage, empty negative prompt, classifier-free guidance alone.
GUIDANCE: Final = Guidance(cfg=3.0, stg=0.0, modality=1.0, rescale=0.0)
CASE: Final = Case("fidelity", negative_prompt="", steps=20, video=GUIDANCE, audio=GUIDANCE)


def world_suite() -> Suite:
    """The held-out captions in their pre-registered order; every negative labelled with the attribute that it swaps."""
    items = tuple(
        Item(f"p{prompt.index:03d}", prompt.text, prompt.seed, _labelled(prompt.caption, prompt.negatives))
        for prompt in load_suite()
    )
    train, _ = split(SPLIT_SEED)
    pilot = tuple(
        Item(f"t{i:03d}", c.text, PILOT_SEED + i, _labelled(c, hard_negatives(c, ORDER_SEED + PILOT_SEED + i)))
        for i, c in enumerate(hash_order(train, PILOT_SEED)[:PILOT])
    )
    rows = json.dumps([[i.id, i.prompt, i.seed, i.hard_negatives] for i in items + pilot])
    return Suite("world", tuple(ATTRIBUTES), items, pilot, hashlib.sha256(rows.encode()).hexdigest())


def _labelled(caption: Caption, negatives: tuple[Caption, ...] | list[Caption]) -> tuple[tuple[str, str], ...]:
    out = []
    for negative in negatives:
        swapped = [name for name in ATTRIBUTES if getattr(negative, name) != getattr(caption, name)]
        out.append(("+".join(swapped), negative.text))
    return tuple(out)


def is_world(suite: Suite) -> bool:
    """Whether the pixel oracle can read this suite's captions."""
    return suite.sha256 == world_suite().sha256


def reading(item: Item, frames: np.ndarray) -> dict[str, Any]:
    """What the pixel oracle sees in a video of a world prompt: each attribute, and whether all are as asked."""
    seen = read(frames)
    return {name: getattr(seen, name) for name in ATTRIBUTES} | {"right": seen.matches(parse(item.prompt))}
