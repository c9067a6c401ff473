"""The frozen prompt suite: what is asked, in which order, with which seed, and which near misses must score lower."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ltx_native.errors import ConfigError

ID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(frozen=True)
class Item:
    """One datum: a prompt, its seed, and captions with one attribute swapped as (attribute, caption)."""

    id: str
    prompt: str
    seed: int
    hard_negatives: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Suite:
    """`items` in the pre-registered order; `pilot` has other prompts; `attributes` each have a negative per item."""

    name: str
    attributes: tuple[str, ...]
    items: tuple[Item, ...]
    pilot: tuple[Item, ...]
    sha256: str

    def control(self, item: Item) -> str:
        """A wrong prompt for an item: the next one half a suite further that reads differently. Fixed by the order."""
        group = self.items if item in self.items else self.pilot
        start = group.index(item) + len(group) // 2
        candidates = (group[(start + step) % len(group)].prompt for step in range(len(group)))
        return next(prompt for prompt in candidates if prompt != item.prompt)


def read_suite(path: Path) -> Suite:
    """Read and check a suite file; anything that would weaken the gate raises ConfigError."""
    try:
        content = path.read_bytes()
        raw = json.loads(content)
    except (OSError, ValueError) as error:
        raise _bad(path, "file", str(error), "a readable JSON file") from error
    wanted = {"schema", "name", "attributes", "prompts", "pilot"}
    if not isinstance(raw, dict) or not wanted <= set(raw) or raw["schema"] != 1:
        raise _bad(path, "keys", str(sorted(raw) if isinstance(raw, dict) else type(raw)), f"schema 1 with {sorted(wanted)}")
    attributes = tuple(str(a) for a in raw["attributes"])
    items = tuple(_item(path, attributes, row) for row in raw["prompts"])
    pilot = tuple(_item(path, attributes, row) for row in raw["pilot"])
    for label, values in (
        ("prompts", [i.prompt for i in items]),
        ("ids", [i.id for i in items + pilot]),
    ):
        if len(set(values)) < len(values):
            twice = next(v for v in values if values.count(v) > 1)
            raise _bad(path, label, f"{twice!r} twice", "no repetition: one prompt is one datum")
    if overlap := {i.prompt for i in items} & {i.prompt for i in pilot}:
        raise _bad(path, "pilot", repr(sorted(overlap)[0]), "prompts that are not in the suite")
    if len(items) < 2 or len({i.prompt for i in pilot}) < 2:
        raise _bad(path, "prompts", f"{len(items)} prompts, {len(pilot)} in the pilot", "at least 2 of each")
    return Suite(str(raw["name"]), attributes, items, pilot, hashlib.sha256(content).hexdigest())


def _item(path: Path, attributes: tuple[str, ...], row: Any) -> Item:
    try:
        negatives = tuple((str(n["attribute"]), str(n["prompt"])) for n in row["hard_negatives"])
        item = Item(str(row["id"]), str(row["prompt"]), int(row["seed"]), negatives)
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(path, "prompt", f"{row!r:.120}", "id, prompt, seed and hard_negatives") from error
    if not ID.fullmatch(item.id) or not item.prompt.strip():
        raise _bad(path, "prompt", f"id {item.id!r}, prompt {item.prompt!r}", "an id of letters, digits, - and _; a prompt")
    if missing := set(attributes) - {attribute for attribute, _ in negatives}:
        raise _bad(path, f"{item.id}.hard_negatives", f"none for {', '.join(sorted(missing))}", "one or more per attribute")
    if any(caption == item.prompt for _, caption in negatives):
        raise _bad(path, f"{item.id}.hard_negatives", "the prompt itself", "captions that differ from the prompt")
    return item


def _bad(path: Path, key: str, value: str, expected: str) -> ConfigError:
    return ConfigError(f"prompt suite: {key}", str(path), value, expected, "correct the suite; a suite in use is never edited")
