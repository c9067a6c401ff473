"""The switchboard of the fault museum. A fault is a small patch of the native port, undone when its block ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_ROOMS = ("transformer", "text", "media", "sampling")


@dataclass(frozen=True)
class Fault:
    """One mistake: its row in `port_faults.json`, the component it sits in, and the patch that re-creates it."""

    id: str
    component: str
    title: str
    patch: Callable[[], Any]


FAULTS: dict[str, Fault] = {}


def register(id: str, component: str, title: str) -> Callable[[Callable[[], Iterator[None]]], Callable[[], Iterator[None]]]:
    """Enter a generator function as a fault; it patches, yields once and restores."""

    def enter(function: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
        if id in FAULTS:
            raise ValueError(f"fault {id} is registered twice")
        FAULTS[id] = Fault(id, component, title, contextmanager(function))
        return function

    return enter


@contextmanager
def fault(id: str) -> Iterator[Fault]:
    """Switch a fault on for the length of the block. Raises `KeyError` naming the known ones."""
    load()
    if id not in FAULTS:
        raise KeyError(f"no fault {id}; known: {', '.join(sorted(FAULTS))}")
    with FAULTS[id].patch():
        yield FAULTS[id]


def load() -> Mapping[str, Fault]:
    """All faults of the museum."""
    for room in _ROOMS:
        importlib.import_module(f"parity.faults.{room}")
    return FAULTS


@contextmanager
def patched(owner: Any, **attributes: Any) -> Iterator[None]:
    """Replace attributes of a module or class for the length of the block."""
    kept = {name: vars(owner)[name] for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(owner, name, value)
