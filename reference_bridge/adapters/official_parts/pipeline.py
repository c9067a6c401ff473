"""One of the official pipelines with clocks on its parts: every component's calls, every denoising step, the whole run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from reference_bridge.adapters.official import arguments, draws, generate, patches
from reference_bridge.adapters.official.checks import BadInput, gemma_config
from reference_bridge.adapters.official.inputs import check_files
from reference_bridge.adapters.official.sites import BUILDERS, ENTRIES
from reference_bridge.adapters.service import timed, usage


class Clocks:
    """Seconds per component while its own call runs, and of loading; every denoising step by itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.steps: list[dict[str, float]] = []
        self.passes = 0

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def install(self) -> None:
        """Clocks on what builds components, on their calls and on every loop's steps. Not undone: the process ends."""
        from ltx_pipelines.utils import samplers
        from ltx_pipelines.utils.model_ledger import ModelLedger

        for method, component in BUILDERS.items():
            setattr(ModelLedger, method, self._building(component, getattr(ModelLedger, method)))
        samplers.tqdm = self._stepping  # the bar round every loop's steps

    def _building(self, component: str, build: Callable[..., Any]) -> Callable[..., Any]:
        def built(ledger: Any) -> Any:
            started = time.perf_counter()
            model = build(ledger)
            self.add("load", time.perf_counter() - started)
            root = model.model.model if component == "gemma" else model
            method = ENTRIES.get(type(root).__name__, "forward")
            setattr(root, method, self._calls(component, getattr(root, method)))
            return model

        return built

    def _calls(self, component: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.add(component, time.perf_counter() - started)
                self.passes += component == "transformer"

        return called

    def _stepping(self, steps: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
        for step in steps:
            wall, cpu = time.perf_counter(), time.process_time()
            yield step
            self.steps.append({"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu})


def run_timed(args: argparse.Namespace, answers: TextIO) -> int:
    """Run as the flags of `generate` say, `--repeat` times; print one JSON line about the last run."""
    given = args.generate[1:] if args.generate[:1] == ["--"] else args.generate
    asked = arguments.parser().parse_args(["generate", *given, "--quiet"])
    arguments.check_generate(asked)
    if args.repeat < 1:
        raise BadInput("value out of range", "--repeat", args.repeat, "at least 1", "Change it.")
    import torch

    check_files(asked)
    torch.set_num_threads(args.threads)
    patches.apply(asked.dtype, asked.gemma, gemma_config(asked.gemma), generate._frozen(asked))
    draws.install(draws.Draws(None, None))
    clocks = Clocks()
    clocks.install()
    with torch.inference_mode():
        for _ in range(args.repeat):
            clocks.seconds, clocks.steps, clocks.passes = {}, [], 0
            spent = _one(asked)
    found = {"engine": "official", "steps": clocks.steps, "passes": clocks.passes, "stages_s": clocks.seconds}
    print(json.dumps({**found, **spent, **usage()}), file=answers, flush=True)
    return 0


def _one(asked: argparse.Namespace) -> dict[str, float]:
    from ltx_pipelines.utils import media_io

    def whole() -> None:
        pipeline, call = generate.build(asked)
        video, audio = pipeline(**call)
        plain = vars(media_io)["av"]
        if asked.width < 128:  # for this file only: images given to a pipeline are encoded with options of their own
            patches.encoder_without_mbtree()
        generate._encode(asked, video, audio)
        media_io.av = plain

    return timed(whole)[1]
