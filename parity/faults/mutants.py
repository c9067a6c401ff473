"""One-line mistakes of our own, beside the museum of real ones: what the checks were not written for.

    python -m parity.faults.mutants [ID ...]

A row of `mutants.toml` replaces a piece of one function's source text. The exam does not know which; a mutant that passes
shows a hole in the checks.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import os
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_suffix(".toml")
_ANNOTATIONS = __future__.annotations.compiler_flag


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in the function ``where`` (module:qualified.name); ``component`` is to be named for it."""

    id: str
    component: str
    where: str
    old: str
    new: str
    effect: str = "mutant"
    cause: str = ""

    @contextmanager
    def on(self) -> Iterator[None]:
        """Raises `ValueError` when the text does not stand in the function exactly once."""
        module_name, name = self.where.split(":")
        module = importlib.import_module(module_name)
        *path, attribute = name.split(".")
        owner: Any = module
        for part in path:
            owner = getattr(owner, part)
        original = vars(owner)[attribute]
        changed = _recompiled(self, module, owner, original, attribute)
        places = [(vars(owner), attribute)] if path else list(_mentions(original))
        _put(owner if path else None, places, changed)
        try:
            yield
        finally:
            _put(owner if path else None, places, original)


def load() -> Mapping[str, Mutant]:
    """All rows of the table by id."""
    rows = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return {id: Mutant(id, **row) for id, row in rows.items()}


def _recompiled(mutant: Mutant, module: Any, owner: Any, original: Any, attribute: str) -> Any:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(original)))
    if source.count(mutant.old) != 1:
        raise ValueError(
            f"mutant {mutant.id}: {mutant.old!r} stands {source.count(mutant.old)} times in {mutant.where}, not once"
        )
    source = source.replace(mutant.old, mutant.new)
    # The function is made inside another whose argument is the class, so that a bare super() finds it.
    lines = ["def make(__class__):", textwrap.indent(source, "    "), f"    return {attribute}"]
    scope: dict[str, Any] = {}
    code = compile("\n".join(lines), f"<mutant {mutant.id}>", "exec", flags=_ANNOTATIONS)
    exec(code, vars(module), scope)
    return scope["make"](owner)


def _mentions(original: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Everywhere in the engine and the harness where a function is named: modules, and tables in modules."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(("ltx_native", "parity")):
            continue
        for key, value in list(vars(module).items()):
            if value is original:
                yield vars(module), key
            elif isinstance(value, dict):
                yield from ((value, entry) for entry, kept in list(value.items()) if kept is original)


def _put(owner: Any, places: Sequence[tuple[Any, str]], value: Any) -> None:
    for table, key in places:
        if owner is not None:
            setattr(owner, key, value)
        else:
            table[key] = value


def main(argv: Sequence[str] | None = None) -> int:
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    from parity.capture.reference import ReferenceCache
    from parity.certify import examine, line
    from parity.checkpoints import tiny
    from parity.checks.exam import Evidence
    from parity.folders import cache_folder

    rows = load()
    wanted = list(sys.argv[1:] if argv is None else argv) or list(rows)
    evidence = Evidence.of(tiny(), ReferenceCache(cache_folder() / "reference"))
    if (healthy := examine(evidence, None)).caught:
        print(f"the port is flagged without any mutant: {healthy.sentence}", file=sys.stderr)
        return 1
    outcomes = []
    for id in wanted:
        with rows[id].on():
            outcomes.append(examine(evidence, rows[id]))
        print(line(outcomes[-1]), flush=True)
    caught, right = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("caught", "right"))
    print(f"{caught} of {len(outcomes)} mutants caught, {right} in the right component")
    return 0 if caught == len(outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
