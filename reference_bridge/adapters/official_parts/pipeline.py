"""One of the official pipelines with clocks on its parts: every component's calls, every denoising step, the whole run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any, TextIO

from reference_bridge.adapters.clocks import Clocks
from reference_bridge.adapters.official import arguments, draws, generate, patches
from reference_bridge.adapters.official.checks import BadInput, gemma_config
from reference_bridge.adapters.official.inputs import check_files
from reference_bridge.adapters.official.sites import BUILDERS, ENTRIES
from reference_bridge.adapters.service import timed, usage


class OfficialClocks(Clocks):
    """Clocks on what builds components, on their calls and on every loop's steps. Not undone: the process ends."""

    def install(self) -> None:
        from ltx_pipelines.utils import samplers
        from ltx_pipelines.utils.model_ledger import ModelLedger

        for method, component in BUILDERS.items():
            setattr(ModelLedger, method, self._building(component, getattr(ModelLedger, method)))
        samplers.tqdm = self.stepping  # the bar round every loop's steps

    def _building(self, component: str, build: Callable[..., Any]) -> Callable[..., Any]:
        def built(ledger: Any) -> Any:
            with self.timing("load"):
                model = build(ledger)
            root = model.model.model if component == "gemma" else model
            text = getattr(root, "language_model", root)  # its vision tower is loaded and left alone
            self.weights[component] = sum(tensor.numel() for tensor in text.state_dict().values())
            method = ENTRIES.get(type(root).__name__, "forward")
            call = self.timed(component, getattr(root, method))
            setattr(root, method, self._seeing(call) if component == "transformer" else call)
            return model

        return built

    def _seeing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def seen(video: Any, audio: Any, *args: Any, **kwargs: Any) -> Any:
            self.saw_tokens(video.latent, audio.latent)
            return call(video, audio, *args, **kwargs)

        return seen


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
    clocks = OfficialClocks()
    clocks.install()
    with torch.inference_mode():
        for _ in range(args.repeat):
            clocks.restart()
            spent = _one(asked)
    print(json.dumps({"engine": "official", **clocks.told(), **spent, **usage()}), file=answers, flush=True)
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
