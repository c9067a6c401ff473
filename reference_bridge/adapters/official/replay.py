"""Run every recorded module again on its recorded inputs in another dtype: the reference's own floor, module by module."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official import arguments, patches, provenance
from reference_bridge.adapters.official.checks import BadInput, gemma_config, safetensors_header
from reference_bridge.adapters.official.components import Components
from reference_bridge.probe import Recorder
from reference_bridge.probe_trace import TorchBackend, TraceWriter, Tree, file_sha256

# Noise levels and coordinates stay in the recorded precision: a timestep of 723.4 rounded to bfloat16 would be another
# timestep, and rotary angles reach 15,000 radians, so that one rounding of a coordinate moves them by a thousandth.
KEPT = {
    ("Modality", "timesteps"),
    ("Modality", "sigma"),
    ("Modality", "positions"),
    ("AdaLayerNormSingle", "timestep"),
    ("PixArtAlphaCombinedTimestepSizeEmbeddings", "timestep"),
    ("Timesteps", "timesteps"),
}


def run(args: argparse.Namespace) -> int:
    """Write a trace of outputs with the same site, stage, step, pass, call and input-less records as the source."""
    started = time.perf_counter()
    arguments.check_weights(args)
    manifest, records = _source(args.trace)
    if args.output.exists():
        raise BadInput("the trace exists", "--output", args.output, "a new folder", "Remove it or rename.")
    import torch

    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    applied = patches.apply("float32", args.gemma, gemma_config(args.gemma))
    components = Components(args.model, args.gemma, args.upsampler, dtype)
    tensors = Tensors(args.trace, manifest, dtype)
    writer = TraceWriter(args.output, TorchBackend())
    recorder = Recorder(writer, tuple(args.sites))
    replayed = 0
    try:
        with torch.inference_mode():
            for record in _chosen(records, recorder, args.steps):
                named = {name: tensors.value(tree, (record["type"], name)) for name, tree in record["inputs"].items()}
                recorder.stage, recorder.step = record["stage"], record["step"]
                recorder.guidance_pass = record["pass"]
                outputs = components.call(record["site"], named)
                writer.append({**record, "inputs": {}, "outputs": writer.tree(outputs), "source_index": record["index"]})
                replayed += 1
        if not replayed:
            raise BadInput("nothing to replay", "--trace", args.trace, "module records with inputs", "Record inputs.")
        writer.close(
            {
                **{name: manifest[name] for name in ("side", "engine", "device", "commit", "request")},
                "dtype": args.dtype,
                "versions": provenance.versions(),
                "code": provenance.code_sha256(),
                "checkpoint": manifest["checkpoint"],
                "patches": applied,
                "replay_of": file_sha256(args.trace / "manifest.json"),
            }
        )
    except BaseException:
        writer.abort()
        raise
    seconds = round(time.perf_counter() - started, 3)
    if not args.quiet:
        print(json.dumps({"output": str(args.output), "records": replayed, "dtype": args.dtype, "total_s": seconds}))
    return 0


def _source(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        if not manifest["complete"] or manifest["engine"] != "official" or len(records) != manifest["records"]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            "not a whole trace of the official code", "--trace", folder, "a folder `generate --trace` wrote", "Record one."
        ) from None
    return manifest, records


def _chosen(records: list[dict[str, Any]], recorder: Recorder, steps: list[int] | None) -> Iterator[dict[str, Any]]:
    """Module records by component, so that each component is built once, in the order of the run within it."""
    by_component: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        in_steps = steps is None or record["step"] is None or record["step"] in steps
        if record["kind"] == "module" and record["inputs"] and in_steps and recorder.wants(record["site"]):
            by_component.setdefault(record["site"].partition(".")[0], []).append(record)
    for chosen in by_component.values():
        yield from chosen


class Tensors:
    """Turns recorded trees back into what a module takes, floating tensors cast to `dtype`."""

    def __init__(self, folder: Path, manifest: dict[str, Any], dtype: Any) -> None:
        from safetensors import safe_open

        self.dtype = dtype
        self._files: dict[str, Any] = {}
        for name in manifest["files"]:
            if name.endswith(".safetensors"):
                safetensors_header(folder / name, "--trace")
                file = safe_open(folder / name, framework="pt")
                self._files.update(dict.fromkeys(file.keys(), file))
        self._types = _types()

    def value(self, tree: Tree, owner: tuple[str, str]) -> Any:
        if "tensor" in tree:
            return self._cast(self._files[tree["tensor"]].get_tensor(tree["tensor"]), owner in KEPT)
        if "items" in tree:
            # A tuple as recorded: rotary tables and hidden states are unpacked, never changed.
            return tuple(self.value(child, owner) for child in tree["items"])
        if "fields" in tree:
            name = tree.get("type", "dict")
            fields = {key: self.value(child, (name, key)) for key, child in tree["fields"].items()}
            return self._types[name](**fields)
        if tree.get("type") == "dtype":
            return self.dtype
        return tree["value"]

    def _cast(self, tensor: Any, kept: bool) -> Any:
        import torch

        if kept or not tensor.is_floating_point():
            return tensor
        # A mask's "minus infinity" is the type's own least number, so it must not overflow on the way down.
        limits = torch.finfo(self.dtype)
        narrower = limits.max < torch.finfo(tensor.dtype).max
        return (tensor.clamp(limits.min, limits.max) if narrower else tensor).to(self.dtype)


def _types() -> dict[str, Any]:
    from ltx_core.guidance.perturbations import (
        BatchedPerturbationConfig,
        Perturbation,
        PerturbationConfig,
        PerturbationType,
    )
    from ltx_core.model.transformer import Modality
    from ltx_core.model.transformer.transformer_args import TransformerArgs

    def perturbation(type: str, blocks: tuple[int, ...] | None) -> Any:
        return Perturbation(PerturbationType(type), None if blocks is None else list(blocks))

    return {
        "dict": dict,
        "Modality": Modality,
        "TransformerArgs": TransformerArgs,
        "BatchedPerturbationConfig": BatchedPerturbationConfig,
        "PerturbationConfig": PerturbationConfig,
        "Perturbation": perturbation,
    }
