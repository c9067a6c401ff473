"""The switchboard of the fault museum. A fault is a small patch of the native port, undone when its block ends."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.nn as nn

_ROOMS = ("transformer", "rope", "text", "guidance", "sampling", "conditioning", "media", "sound", "weights")
_HERE = Path(__file__).parent

Patch = Callable[[], Iterator[None]]


@dataclass(frozen=True)
class Fault:
    """One mistake: what it is, the component it sits in, its effect ("none": a control), the abilities it takes, the patch."""

    id: str
    component: str
    title: str
    area: str
    effect: str
    needs: str
    patch: Callable[[], Any]
    cause: str = ""  # the hypotheses of its kind ("|" between), by the ids of `parity.hypotheses`; empty where there is none

    @property
    def control(self) -> bool:
        """A difference that must not be flagged."""
        return self.effect == "none"


FAULTS: dict[str, Fault] = {}


@cache
def facts(name: str = "faults") -> Mapping[str, Mapping[str, str]]:
    """Rows of `faults.toml` (or `unrealisable`) by id."""
    return tomllib.loads((_HERE / f"{name}.toml").read_text(encoding="utf-8"))


def register(id: str) -> Callable[[Patch], Patch]:
    """Enter a generator function as a fault; it patches, yields once and restores."""

    def enter(function: Patch) -> Patch:
        if id in FAULTS:
            raise ValueError(f"fault {id} is registered twice")
        FAULTS[id] = Fault(id=id, patch=contextmanager(function), **facts()[id])
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


@contextmanager
def everywhere(name: str, value: Any, *owners: Any) -> Iterator[None]:
    """Replace one name in every module that imported it."""
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(patched(owner, **{name: value}))
        yield


def swapping(root: type, old: type, new: type, where: Callable[[str], bool] = lambda path: True) -> Any:
    """Patch a component's constructor so that its modules of class ``old`` (at paths that ``where`` takes) become ``new``."""
    original = root.__init__  # type: ignore[misc]

    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for path, module in self.named_modules():
            if type(module) is old and where(path):
                module.__class__ = new

    return patched(root, __init__=init)
