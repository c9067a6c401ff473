"""Run BY THE REFERENCE'S interpreter: official latent upsamplers on given latents, in float32.

    python upsampler_worker.py LATENTS.safetensors UPSAMPLER.safetensors OUTPUT.safetensors [...]

`latent` (B, C, F, H, W) goes through each upsampler file's model; its output (`upsampled`) is written to the name after it.
"""

from __future__ import annotations

import importlib
import json
import sys


def main(argv: list[str]) -> None:
    torch = importlib.import_module("torch")
    files = importlib.import_module("safetensors.torch")
    configurator = importlib.import_module("ltx_core.model.upsampler.model_configurator").LatentUpsamplerConfigurator
    torch.set_num_threads(1)
    latent = files.load_file(argv[0])["latent"]
    for source, output in zip(argv[1::2], argv[2::2], strict=True):
        with importlib.import_module("safetensors").safe_open(source, "pt") as file:
            config = json.loads(file.metadata()["config"])
        model = configurator.from_config(config)
        model.load_state_dict(files.load_file(source), strict=True)
        with torch.inference_mode():
            files.save_file({"upsampled": model.eval()(latent).contiguous()}, output)


if __name__ == "__main__":
    main(sys.argv[1:])
