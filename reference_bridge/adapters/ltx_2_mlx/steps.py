"""The external CLI's transformer by itself, in its own interpreter: one forward pass on request, for its time.

    PYTHON -m reference_bridge.adapters.ltx_2_mlx.steps --config CONFIG.json     (requests on standard input)

Weights are drawn here: times do not depend on them, and no file of the CLI's layout is needed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official.checks import BadInput
from reference_bridge.adapters.service import Answer, own_stdout, quiet_environment, serve, timed


class Steps:
    """`shape` {video_tokens, audio_tokens, text_tokens, seed?} draws inputs; `step` runs one forward pass."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.mx: Any = importlib.import_module("mlx.core")
        utils: Any = importlib.import_module("mlx.utils")
        model: Any = importlib.import_module("ltx_core_mlx.model.transformer.model")
        self.config = model.LTXModelConfig.from_checkpoint_config(dict(config))
        self.model = model.LTXModel(self.config)
        drawn = utils.tree_map(lambda p: 0.02 * self.mx.random.normal(p.shape), self.model.parameters())
        self.model.update(drawn)
        self.mx.eval(self.model.parameters())
        self.run: Callable[[], Any] | None = None

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Answer]]:
        return {"shape": self.shape, "step": self.step}

    def shape(self, request: Mapping[str, Any]) -> Answer:
        mx, c = self.mx, self.config
        mx.random.seed(int(request.get("seed", 0)))
        video, audio, text = (int(request[f"{name}_tokens"]) for name in ("video", "audio", "text"))
        inputs = {
            "video_latent": mx.random.normal((1, video, c.video_patch_channels)),
            "audio_latent": mx.random.normal((1, audio, c.audio_patch_channels)),
            "timestep": mx.array([0.9]),
            "video_text_embeds": mx.random.normal((1, text, c.video_dim)),
            "audio_text_embeds": mx.random.normal((1, text, c.audio_dim)),
            "video_positions": mx.random.uniform(shape=(1, video, 3)),
            "audio_positions": mx.random.uniform(shape=(1, audio, 1)),
        }
        mx.eval(list(inputs.values()))
        self.run = lambda: mx.eval(self.model(**inputs))
        return {"video_tokens": video, "audio_tokens": audio}

    def step(self, request: Mapping[str, Any]) -> Answer:
        if self.run is None:
            raise BadInput("no size yet", "step", "nothing", "`shape` before it", "Send it.")
        return timed(self.run, int(request.get("repeat", 1)))[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="ltx_2_mlx.steps", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="the official configuration, a JSON file")
    args = parser.parse_args()
    quiet_environment(1)
    answers = own_stdout()
    config = json.loads(args.config.read_text(encoding="utf-8"))
    serve(Steps(config).handlers(), sys.stdin, answers, {"engine": "ltx-2-mlx"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
