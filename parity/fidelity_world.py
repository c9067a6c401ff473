"""The world's frozen captions as a fidelity suite, with training captions as its pilot."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from parity.fidelity_suite import Item, Suite
from parity.world.scene import ATTRIBUTES, SPLIT_SEED, Caption, hash_order, split
from parity.world.suite import ORDER_SEED, hard_negatives, load_suite

PILOT_SEED: Final = 2000  # noise seeds and order of the pilot; the suite's are 1000 and up
PILOT: Final = 24


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
