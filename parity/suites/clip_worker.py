"""Run BY THE REFERENCE'S interpreter: builds a Hugging Face CLIP or SigLIP folder with random weights and runs it.

    python clip_worker.py JOBS.json

Each job names a folder, a config, a tokenizer, inputs (safetensors: `frames.<name>` uint8 (F, H, W, 3)), captions and an
output file. Imports nothing of this project.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def randomise(model: Any, seed: int) -> None:
    """Every parameter away from its initial value, so that a missing bias or scale shows."""
    torch = importlib.import_module("torch")
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        with torch.no_grad():
            if name.endswith(("logit_scale", "logit_bias")):
                continue
            if value.ndim == 1 and "norm" in name and name.endswith("weight"):
                value.copy_(1 + 0.2 * noise)
            elif value.ndim == 1:
                value.copy_(0.1 * noise)
            elif "embedding.weight" in name and value.ndim == 2:
                value.copy_(0.5 * noise)
            else:
                value.copy_(1.2 * noise / value[0].numel() ** 0.5)


def build(job: dict[str, Any], folder: Path) -> None:
    """Write the folder as transformers writes it (config, weights, tokenizer, preprocessor)."""
    transformers = importlib.import_module("transformers")
    kind = "Siglip" if job["config"]["model_type"] == "siglip" else "CLIP"
    config = getattr(transformers, f"{kind}Config").from_dict(job["config"])
    model = getattr(transformers, f"{kind}Model")(config).eval()
    randomise(model, job["seed"])
    model.save_pretrained(folder)
    if kind == "CLIP":
        vocab = json.loads(Path(job["vocab"]).read_text())
        merges = [tuple(pair) for pair in json.loads(Path(job["merges"]).read_text())]
        limit = job["config"]["text_config"]["max_position_embeddings"]
        transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=limit).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(job["preprocessor"]))


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Outputs of tokenizer, processor and model, all from the folder."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    load = importlib.import_module("safetensors.torch").load_file
    siglip = job["config"]["model_type"] == "siglip"
    kind = "Siglip" if siglip else "CLIP"
    model = getattr(transformers, f"{kind}Model").from_pretrained(folder, attn_implementation="eager").eval()
    processor = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(folder)
    if siglip:
        tokenizer = transformers.SiglipTokenizer(vocab_file=str(folder / "spiece.model"))
        padding: dict[str, Any] = {"padding": "max_length", "max_length": tokenizer.model_max_length}
    else:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        padding = {"padding": True, "max_length": job["config"]["text_config"]["max_position_embeddings"]}
    out: dict[str, Any] = {}
    with torch.inference_mode():
        ids = tokenizer(job["captions"], truncation=True, return_tensors="pt", **padding)["input_ids"]
        out["input_ids"] = ids.to(torch.int32)
        out["text_features"] = pooled(model.get_text_features(input_ids=ids))
        for key, frames in load(job["inputs"]).items():
            images = [frame.numpy() for frame in frames]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            out[f"pixel_values.{key}"] = pixels.permute(0, 2, 3, 1)
            out[f"image_features.{key}"] = pooled(model.get_image_features(pixel_values=pixels))
    return {key: value.contiguous() for key, value in out.items()}


def pooled(output: Any) -> Any:
    """The features: the tensor itself, or the pooled field of an output object."""
    return output if not hasattr(output, "pooler_output") else output.pooler_output


def main() -> None:
    versions = {name: importlib.import_module(name).__version__ for name in ("transformers", "torch")}
    for job in json.loads(Path(sys.argv[1]).read_text()):
        folder = Path(job["folder"])
        build(job, folder)
        outputs = run(job, folder)
        importlib.import_module("safetensors.torch").save_file(outputs, job["output"], metadata=versions)


if __name__ == "__main__":
    main()
