"""What the official functions give on made inputs: the expectations of checks that are no replay of a run.

    python -m reference_bridge.adapters.official.facts --inputs I.safetensors --output F.safetensors --model M --gemma DIR
        --upsampler F [--variant STEM=FILE ...]

The inputs are drawn by the asking side and named in its file; every fact stands in the output under a name, plain values in
the metadata.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official import patches
from reference_bridge.adapters.official.checks import gemma_config
from reference_bridge.adapters.official.components import Components

COMPONENTS = (
    "gemma", "embeddings_processor", "transformer", "video_encoder", "video_decoder", "audio_encoder", "audio_decoder",
    "vocoder", "upsampler",
)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(1)
    patches.apply("float32", args.gemma, gemma_config(args.gemma))
    given = load_file(args.inputs)
    facts: dict[str, Any] = {}
    values: dict[str, Any] = {"constants": _constants(args.model)}
    with torch.inference_mode():
        facts |= _conditioned(given)
        facts |= _guided(given)
        facts |= _tokens(args)
        components = Components(args.model, args.gemma, args.upsampler, torch.float32)
        values["weights"], values["eps"] = _weights(components)
        facts["tiled.frames"] = _tiled(components.root("video_decoder"), given["tiled.latent"])
        for variant in args.variant:
            stem, _, path = variant.partition("=")
            model = Components(args.model, None, Path(path), torch.float32).root("upsampler")
            facts[f"upsampler.{stem}"] = model(given["upsampler.latent"])
    contiguous = {name: tensor.contiguous().clone() for name, tensor in facts.items()}
    partial = args.output.with_name(args.output.name + ".partial")
    save_file(contiguous, partial, {"values": json.dumps(values)})
    partial.replace(args.output)
    return 0


def _constants(model: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from ltx_core.model.video_vae import TilingConfig
    from ltx_pipelines.utils import constants as official

    params = asdict(official.detect_params(str(model)))
    return {
        "distilled_sigmas": official.DISTILLED_SIGMA_VALUES,
        "stage_2_sigmas": official.STAGE_2_DISTILLED_SIGMA_VALUES,
        "image_crf": official.DEFAULT_IMAGE_CRF,
        "steps": params["num_inference_steps"],
        "frame_rate": params["frame_rate"],
        "seed": params["seed"],
        "video_guider": params["video_guider_params"],
        "audio_guider": params["audio_guider_params"],
        "hq": asdict(official.LTX_2_3_HQ_PARAMS),
        "tiling": asdict(TilingConfig.default()),
    }


def _conditioned(given: dict[str, Any]) -> dict[str, Any]:
    """A state with a replaced frame and two keyframes of their own attention strengths, at 25 frames per second."""
    import torch
    from ltx_core.components.patchifiers import VideoLatentPatchifier
    from ltx_core.conditioning import (
        ConditioningItemAttentionStrengthWrapper,
        VideoConditionByKeyframeIndex,
        VideoConditionByLatentIndex,
    )
    from ltx_core.tools import VideoLatentTools
    from ltx_core.types import VideoLatentShape

    clip, image = given["conditioned.clip"], given["conditioned.image"]
    tools = VideoLatentTools(VideoLatentPatchifier(1), VideoLatentShape.from_torch_shape(clip.shape), 25.0)
    state = tools.create_initial_state("cpu", torch.float32, clip)
    for item in (
        VideoConditionByLatentIndex(image, 0.75, 0),
        ConditioningItemAttentionStrengthWrapper(VideoConditionByKeyframeIndex(image, 8, 0.5), 0.25),
        ConditioningItemAttentionStrengthWrapper(VideoConditionByKeyframeIndex(clip[:, :, :2], 16, 1.0), 0.5),
    ):
        state = item.apply_to(state, tools)
    names = ("latent", "denoise_mask", "positions", "clean_latent", "attention_mask")
    return {f"conditioned.{name}": getattr(state, name) for name in names}


def _guided(given: dict[str, Any]) -> dict[str, Any]:
    from ltx_core.components.guiders import MultiModalGuider, MultiModalGuiderParams

    estimates = [given[f"guided.{name}"] for name in ("cond", "uncond", "stg", "modality")]
    found = {}
    for row in given["guided.params"].tolist():
        cfg, stg, modality, rescale = row
        params = MultiModalGuiderParams(
            cfg_scale=cfg, stg_scale=stg, rescale_scale=rescale, modality_scale=modality, stg_blocks=[1]
        )
        found["guided." + "-".join(map(str, row))] = MultiModalGuider(params).calculate(*estimates)
    return found


def _tokens(args: argparse.Namespace) -> dict[str, Any]:
    import torch
    from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer

    tokenizer = LTXVGemmaTokenizer(str(args.gemma), max_length=1024)
    found = {}
    for index, text in enumerate(args.prompt):
        pairs = tokenizer.tokenize_with_weights(text)["gemma"]
        found[f"prompt.{index}.input_ids"] = torch.tensor([int(p[0]) for p in pairs])
        found[f"prompt.{index}.attention_mask"] = torch.tensor([int(p[1]) for p in pairs])
    return found


def _weights(components: Components) -> tuple[dict[str, dict[str, str]], dict[str, float]]:
    """SHA-256 of every parameter and buffer in float32, by component and name, and the eps of every norm by site."""
    import torch

    hashes: dict[str, dict[str, str]] = {}
    eps: dict[str, float] = {}
    for component in COMPONENTS:
        root = components.root(component)
        root = getattr(root, "language_model", root) if component == "gemma" else root
        hashes[component] = {
            name: hashlib.sha256(tensor.detach().to(torch.float32).contiguous().numpy().tobytes()).hexdigest()
            for name, tensor in root.state_dict().items()
        }
        for path, module in root.named_modules():
            if isinstance(getattr(module, "eps", None), float) and path:
                eps[f"{component}.{path}"] = module.eps
    return hashes, eps


def _tiled(decoder: Any, latent: Any) -> Any:
    import torch
    from ltx_core.model.video_vae import SpatialTilingConfig, TemporalTilingConfig, TilingConfig

    tiling = TilingConfig(SpatialTilingConfig(128, 32), TemporalTilingConfig(16, 8))
    return torch.cat(list(decoder.tiled_decode(latent, tiling)), dim=2)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("inputs", "output", "model", "gemma", "upsampler"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--variant", action="append", default=[], metavar="STEM=FILE")
    parser.add_argument("--prompt", action="append", default=[])
    return run(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
