"""The museum of mistakes: complete, placed, and every patch undone."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from types import FunctionType
from typing import Any

import pytest

import ltx_native
from parity.faults.registry import FAULTS, facts, fault, load
from parity.matrix import ABILITIES, CHECKS
from parity.sites import COMPONENTS

PLACES = {*COMPONENTS, "export", "config", "checkpoint"}


def test_every_known_mistake_is_a_patch_or_has_a_reason() -> None:
    assert set(load()) == set(facts())
    assert not set(facts()) & set(facts("unrealisable"))
    assert len(facts()) + len(facts("unrealisable")) == 142
    assert all(len(row["reason"]) > 30 for row in facts("unrealisable").values())


@pytest.mark.parametrize("id", sorted(facts()))
def test_a_row_names_a_place_and_known_abilities(id: str) -> None:
    row = load()[id]
    assert row.component in PLACES
    assert set(row.needs) <= set(ABILITIES)
    assert row.effect in ("none", "subtle", "moderate", "gross")


def test_the_controls_are_marked() -> None:
    assert {row.id for row in load().values() if row.control} == {"QNT-08", "TOK-05", "MEM-03"}


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(KeyError, match="no fault XXX-99"), fault("XXX-99"):
        pass


def _code(value: object) -> bool:
    return callable(value) or isinstance(value, (classmethod, staticmethod))


def _port() -> dict[str, Any]:
    """Every function, class and class attribute of the port by name."""
    found: dict[str, Any] = {}
    for info in pkgutil.walk_packages(ltx_native.__path__, "ltx_native."):
        if info.name.endswith("__main__"):
            continue
        module = sys.modules.get(info.name) or import_module(info.name)
        for name, value in vars(module).items():
            if isinstance(value, (FunctionType, type)):
                found[f"{info.name}.{name}"] = value
            if isinstance(value, type) and value.__module__.startswith("ltx_native"):
                found |= {f"{info.name}.{name}.{key}": child for key, child in vars(value).items() if _code(child)}
    return found


def test_every_patch_changes_something_and_is_undone() -> None:
    load()
    before = _port()
    # A control about the reference patches nothing; one patches MLX; one the constants.
    silent = {"QNT-08", "SCH-07"}
    for id in sorted(FAULTS):
        with fault(id):
            during = _port()
        assert id in silent or any(during[name] is not before[name] for name in before), id
    after = _port()
    assert [name for name in before if after[name] is not before[name]] == []


def test_every_ability_is_brought_by_a_check() -> None:
    assert set(ABILITIES) <= set("".join(CHECKS.values()))
