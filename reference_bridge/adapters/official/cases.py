"""Run the transformer of a golden file, with the patches in force, on the file's own cases."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official import patches
from reference_bridge.adapters.official.checks import BadInput, safetensors_header
from reference_bridge.probe_trace import TorchBackend, write_safetensors

_WEIGHTS = "weights/"


def perturbations_of(case: str) -> Any:
    """The guidance perturbation that a case's name says."""
    from ltx_core.guidance.perturbations import (
        BatchedPerturbationConfig,
        Perturbation,
        PerturbationConfig,
        PerturbationType,
    )

    skipped: dict[str, list[tuple[Any, list[int] | None]]] = {
        "stg_block_1": [(PerturbationType.SKIP_VIDEO_SELF_ATTN, [1]), (PerturbationType.SKIP_AUDIO_SELF_ATTN, [1])],
        "modalities_isolated": [
            (PerturbationType.SKIP_A2V_CROSS_ATTN, None),
            (PerturbationType.SKIP_V2A_CROSS_ATTN, None),
        ],
    }
    if case not in skipped:
        return BatchedPerturbationConfig.empty(1)
    return BatchedPerturbationConfig([PerturbationConfig([Perturbation(t, b) for t, b in skipped[case]])])


def load_transformer(tensors: dict[str, Any], config: dict[str, Any], dtype: Any) -> Any:
    """The official transformer with exactly these weights; a missing or an extra one is an error."""
    from ltx_core.model.transformer import LTXV_MODEL_COMFY_RENAMING_MAP, LTXModelConfigurator

    named = {LTXV_MODEL_COMFY_RENAMING_MAP.apply_to_key(name): value for name, value in tensors.items()}
    model = LTXModelConfigurator.from_config(config)
    model.load_state_dict({name: value.to(dtype) for name, value in named.items() if name is not None}, strict=True)
    return model.to(dtype).eval()


def run(args: argparse.Namespace) -> int:
    header = safetensors_header(args.golden, "--golden")
    names = sorted({name.split("/")[1] for name in header if name.startswith("cases/")})
    if not names or "config" not in (header.get("__metadata__") or {}):
        raise BadInput("not a golden file", "--golden", args.golden, "cases and a config", "Give a transformer golden.")
    import torch
    from ltx_core.model.transformer import Modality
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    patches.av_cross_timestep()
    tensors = load_file(args.golden)
    config = json.loads(header["__metadata__"]["config"])
    weights = {name.removeprefix(_WEIGHTS): value for name, value in tensors.items() if name.startswith(_WEIGHTS)}
    model = load_transformer(weights, config, torch.float32)

    def modality(case: str, kind: str) -> Any:
        fields = {name: tensors[f"inputs/{kind}.{name}"] for name in ("latent", "context", "positions")}
        fields |= {name: tensors[f"cases/{case}/{kind}.{name}"] for name in ("timesteps", "sigma")}
        return Modality(**fields)

    results: dict[str, Any] = {}
    errors: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for case in names:
            velocities = model(modality(case, "video"), modality(case, "audio"), perturbations_of(case))
            errors[case] = {}
            for kind, velocity in zip(("video", "audio"), velocities, strict=True):
                key = f"cases/{case}/{kind}.velocity"
                expected = tensors[key].double()
                errors[case][kind] = float((velocity.double() - expected).norm() / expected.norm())
                results[key] = velocity
    if args.output is not None:
        _save(args.output, results)
    print(json.dumps({"rel_l2": errors, "worst": max(e for case in errors.values() for e in case.values())}))
    return 0


def _save(path: Path, results: dict[str, Any]) -> None:
    backend = TorchBackend()
    dumps = {name: backend.dump(value) for name, value in results.items()}
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        write_safetensors(file, {name: (d.stored, d.shape, bytes(d.data)) for name, d in dumps.items()})
    partial.replace(path)
