"""The official transformer with one block in memory: what comes before the blocks, one block at a time, what comes after.

Weights arrive as safetensors files under the official names, so that a caller can hand over the very numbers its own side
uses (dequantised ones, for instance). The tensors that run through the blocks stay in this process.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official import patches, provenance
from reference_bridge.adapters.official.checks import BadInput, safetensors_header
from reference_bridge.adapters.service import Answer, timed
from reference_bridge.probe import Recorder, tap_torch
from reference_bridge.probe_trace import TorchBackend, TraceWriter

MODALITIES = ("video", "audio")


class Blocks:
    """One official `LTXModel` of `config` without weights; requests bring them.

    `prepare` {weights, inputs, output}: modalities by `video.latent` … to the first block's arguments, written by
    `video.x`, `video.positional_embeddings.0` …; `begin` {inputs}: such arguments as they are;
    `block` {index, weights, output}: the next block on the running tokens; `video.x` and `audio.x` are written;
    `inside` {trace, pass}: the last block once more on the same tokens, every module in it recorded; `again`: the same for its
    time; `velocity` {weights, output}: what comes after the blocks. Weights may be under a `prefix` that requests name.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        import torch
        from ltx_core.model.transformer.model_configurator import LTXModelConfigurator

        patches.av_cross_timestep()
        whole = {**config, "transformer": {**config["transformer"], "num_layers": 1}}
        with torch.device("meta"):
            self.model: Any = LTXModelConfigurator.from_config(whole).eval()
        self.template = self.model.transformer_blocks[0]
        self.model.transformer_blocks = torch.nn.ModuleList()
        self.running: tuple[Any, Any] | None = None
        self.perturbations: Any = None
        self.last: tuple[Any, dict[str, Any]] | None = None

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Answer]]:
        names = ("prepare", "begin", "block", "inside", "again", "velocity")
        return {name: getattr(self, name) for name in names}

    def prepare(self, request: Mapping[str, Any]) -> Answer:
        import torch
        from ltx_core.model.transformer.modality import Modality
        from safetensors.torch import load_file, save_file

        self._load_rest(request)
        named = load_file(_file(request, "inputs"))
        fields = {field.name for field in dataclasses.fields(Modality)}
        video, audio = (
            Modality(**{n: named[f"{m}.{n}"] for n in fields if f"{m}.{n}" in named}, enabled=True) for m in MODALITIES
        )
        with torch.inference_mode():
            first = (
                self.model.video_args_preprocessor.prepare(video, audio),
                self.model.audio_args_preprocessor.prepare(audio, video),
            )
        flat = {f"{m}.{path}": tensor for m, args in zip(MODALITIES, first, strict=True) for path, tensor in _tensors(args)}
        save_file({name: tensor.clone().contiguous() for name, tensor in flat.items()}, request["output"])
        self.model.to("meta")  # lets go of the weights
        return self._begin(first, request)

    def begin(self, request: Mapping[str, Any]) -> Answer:
        from ltx_core.model.transformer.transformer_args import TransformerArgs
        from safetensors.torch import load_file

        named = load_file(_file(request, "inputs"))

        def value(prefix: str) -> Any:
            parts = [named[f"{prefix}.{i}"] for i in range(2) if f"{prefix}.{i}" in named]
            return tuple(parts) if parts else named.get(prefix)

        off = request.get("disabled", ())
        names = [field.name for field in dataclasses.fields(TransformerArgs) if field.name != "enabled"]
        video, audio = (TransformerArgs(**{n: value(f"{m}.{n}") for n in names}, enabled=m not in off) for m in MODALITIES)
        return self._begin((video, audio), request)

    def _begin(self, first: tuple[Any, Any], request: Mapping[str, Any]) -> Answer:
        self.running, self.last = first, None
        self.perturbations = perturbations(request.get("perturbations"), first[0].x.shape[0])
        return {"tokens": [args.x.shape[1] for args in first]}

    def block(self, request: Mapping[str, Any]) -> Answer:
        import torch
        from safetensors.torch import save_file

        self.last = None  # lets go of the last block's weights before the next ones are read
        video, audio = self._running("block")
        block = copy.deepcopy(self.template)
        block.idx = int(request["index"])
        block.load_state_dict(_weights(request), strict=True, assign=True)
        arguments = {"video": video, "audio": audio, "perturbations": self.perturbations}
        with torch.inference_mode():
            (video, audio), spent = timed(lambda: block(**arguments))
        self.last, self.running = (block, arguments), (video, audio)
        out = {f"{m}.x": args.x for m, args in zip(MODALITIES, self.running, strict=True)}
        save_file({name: tensor.clone().contiguous() for name, tensor in out.items()}, request["output"])
        return spent

    def inside(self, request: Mapping[str, Any]) -> Answer:
        import torch

        block, arguments = self._last("inside")
        with torch.inference_mode():
            site = f"transformer.transformer_blocks.{block.idx}"
            with_trace(Path(request["trace"]), site, block, arguments, str(request["pass"]))
        return {}

    def again(self, request: Mapping[str, Any]) -> Answer:
        import torch

        block, arguments = self._last("again")
        with torch.inference_mode():
            return timed(lambda: block(**arguments))[1]

    def velocity(self, request: Mapping[str, Any]) -> Answer:
        import torch
        from safetensors.torch import save_file

        running = self._running("velocity")
        self._load_rest(request)
        out = {}
        with torch.inference_mode():
            for name, args in zip(MODALITIES, running, strict=True):
                prefix = "" if name == "video" else "audio_"
                own = (getattr(self.model, prefix + part) for part in ("scale_shift_table", "norm_out", "proj_out"))
                out[name] = self.model._process_output(*own, args.x, args.embedded_timestep).contiguous()
        save_file(out, request["output"])
        self.model.to("meta")
        return {}

    def _running(self, asked: str) -> tuple[Any, Any]:
        if self.running is None:
            raise BadInput("nothing runs yet", asked, "no tokens", "`prepare` or `begin` before it", "Send one of them.")
        return self.running

    def _last(self, asked: str) -> tuple[Any, dict[str, Any]]:
        if self.last is None:
            raise BadInput("no block ran yet", asked, "nothing", "`block` before it", "Send it.")
        return self.last

    def _load_rest(self, request: Mapping[str, Any]) -> None:
        """All parameters outside the blocks, each exactly once."""
        self.model.load_state_dict(_weights(request), strict=True, assign=True)


def perturbations(described: Any, batch: int) -> Any:
    """The official config from JSON: per sample a list of {"type", "blocks"}; None: nothing is left out."""
    from ltx_core.guidance import perturbations as official

    if described is None:
        return official.BatchedPerturbationConfig.empty(batch)
    samples = [
        official.PerturbationConfig([official.Perturbation(official.PerturbationType(p["type"]), p["blocks"]) for p in one])
        for one in described
    ]
    return official.BatchedPerturbationConfig(samples)


def with_trace(folder: Path, site: str, block: Any, arguments: Mapping[str, Any], guidance_pass: str) -> None:
    """Run a block with every module inside recorded."""
    writer = TraceWriter(folder, TorchBackend())
    try:
        tap_torch(Recorder(writer, step=0, guidance_pass=guidance_pass), site, block)
        block(**arguments)
        about = {"side": "reference", "engine": "official", "dtype": "float32", "device": "cpu", "commit": None}
        writer.close(
            {**about, "code": provenance.code_sha256(), "versions": provenance.versions(), "checkpoint": {}, "request": {}}
        )
    except BaseException:
        writer.abort()
        raise


def _tensors(args: Any) -> list[tuple[str, Any]]:
    """Every tensor of a `TransformerArgs` by its dotted name."""
    import torch

    found = []
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if isinstance(value, torch.Tensor):
            found.append((field.name, value))
        elif isinstance(value, (tuple, list)):
            found += [(f"{field.name}.{i}", part) for i, part in enumerate(value)]
    return found


def _weights(request: Mapping[str, Any]) -> dict[str, Any]:
    from safetensors.torch import load_file

    prefix = str(request.get("prefix", ""))
    return {name.removeprefix(prefix): tensor for name, tensor in load_file(_file(request, "weights")).items()}


def _file(request: Mapping[str, Any], name: str) -> str:
    path = Path(request[name])
    safetensors_header(path, name)
    return str(path)


def config_of(path: Path) -> dict[str, Any]:
    """The official config, JSON as the checkpoint's metadata holds it. Raises `BadInput`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config["transformer"]["num_layers"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput("no configuration", "--config", path, "JSON with a `transformer` table", "Check the file.") from None
    return dict(config)
