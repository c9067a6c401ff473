"""Seconds of a reference's components and denoising steps, taken inside its own process, and what they worked on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Settle = Callable[[Any], object]  # finishes what a lazy framework has only promised


class Clocks:
    """Wall and processor seconds by stage; every denoising step by itself; sizes, so that nobody compares unlike work.

    `settle` computes a result before its clock stops.
    """

    def __init__(self, settle: Settle = lambda result: None) -> None:
        self.settle = settle
        self._inside: set[str] = set()
        self.restart()

    def restart(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.steps: list[dict[str, float]] = []
        self.calls: dict[str, int] = {}
        self.weights: dict[str, int] = {}
        self.shapes: dict[str, list[int]] = {}
        self.tokens: list[list[int]] = []

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Seconds go to `name`, once where calls of one name lie inside each other."""
        if name in self._inside:
            yield
            return
        self._inside.add(name)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._inside.discard(name)
            self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
            self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call on the clock of a component; its output's shape is kept."""

        def called(*args: Any, **kwargs: Any) -> Any:
            with self.timing(name):
                result = call(*args, **kwargs)
                self.settle(result)
            self.calls[name] = self.calls.get(name, 0) + 1
            if hasattr(result, "shape"):
                self.shapes[name] = [int(size) for size in result.shape]
            return result

        return called

    def saw_tokens(self, video: Any, audio: Any) -> None:
        """Latents (B, T, C) that the transformer was given; both counts are kept where they change."""
        found = [int(video.shape[1]), int(audio.shape[1])]
        if self.tokens[-1:] != [found]:
            self.tokens.append(found)

    def stepping(self, steps: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
        """What a sampling loop goes through, in the place of its progress bar."""
        for step in steps:
            wall, cpu = time.perf_counter(), time.process_time()
            yield step
            self.settle(())
            self.steps.append({"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu})

    def told(self) -> dict[str, Any]:
        """For a report: `stages_s`, `stages_cpu_s`, `steps`, and `work`, all JSON."""
        work = {"calls": self.calls, "weights": self.weights, "shapes": self.shapes, "tokens": self.tokens}
        return {"stages_s": self.wall, "stages_cpu_s": self.cpu, "steps": self.steps, "work": work}
