"""Progress with the time that is left, on standard error, only where that is a terminal and nobody asked for quiet."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")
_COUNT = re.compile(r"(\d+)/(\d+)")


def shown(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


@contextmanager
def phase(label: str, quiet: bool, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar while the block runs; calling what it gives counts one. Without a total it shows that time passes."""
    if not shown(quiet):
        yield lambda: None
        return
    with _bar(total is not None) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


def track(items: Sequence[Item], label: str, quiet: bool) -> Iterator[Item]:
    """The items, with a bar over them."""
    with phase(label, quiet, len(items)) as step:
        for item in items:
            yield item
            step()


@contextmanager
def counting(label: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function for lines of news: one with `3/12` in it moves the bar, all of them stand above it."""
    if not shown(quiet):
        yield lambda text: None
        return
    with _bar(True) as bar:
        task = bar.add_task(label, total=None)

        def say(text: str) -> None:
            bar.console.print(text, markup=False, highlight=False)
            count = _COUNT.search(text)
            if count:
                done, total = map(int, count.groups())
                if bar.tasks[0].total != total:  # another phase: its speed is its own
                    bar.reset(task, total=total)
                bar.update(task, completed=done)

        yield say


def _bar(counted: bool) -> Progress:
    ends = (MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)) if counted else (TimeElapsedColumn(),)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), *ends)
    return Progress(*columns, console=Console(file=sys.stderr), transient=True)
