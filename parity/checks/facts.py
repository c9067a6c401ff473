"""Made inputs and what the official functions give on them, kept by content beside the captures."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ltx_native.verdict import reference_fingerprint
from parity.capture.reference import Checkpoint, ReferenceUnavailable, reference_python
from parity.folders import ROOT, cache_folder

Array = npt.NDArray[Any]
VARIANTS = ("ltx-2.3-spatial-upscaler-x1.5", "ltx-2.3-temporal-upscaler-x2")
# cfg, stg, modality, rescale; a modality scale of 0 counts as on.
GUIDED = ((3.0, 1.0, 3.0, 0.7), (1.0, 0.0, 1.0, 0.0), (7.0, 0.0, 1.0, 1.0), (4.0, 2.0, 0.0, 0.0), (1.0, 0.5, 3.0, 0.5))
PROMPTS = (
    "short",
    "  surrounded by spaces,\nover two lines — with a dash  ",
    " ".join(f"word{i} runs over number {i * 7}" for i in range(700)),
)


@dataclass(frozen=True)
class Facts:
    """Tensors by name in the official layout, values beside them, and the inputs they belong to."""

    tensors: Mapping[str, Array]
    values: Mapping[str, Any]
    given: Mapping[str, Array]
    variants: Mapping[str, Path]


def made_inputs() -> dict[str, Array]:
    """Seeded inputs of the official functions, in the official layout."""
    rng = np.random.default_rng(20261)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "conditioned.clip": normal(1, 128, 4, 2, 3),
        "conditioned.image": normal(1, 128, 1, 2, 3),
        "tiled.latent": normal(1, 128, 4, 3, 6),
        "upsampler.latent": normal(1, 128, 3, 2, 4),
        "guided.params": np.array(GUIDED),
        **{f"guided.{name}": normal(1, 12, 128) + 0.3 for name in ("cond", "uncond", "stg", "modality")},
    }


def variant_files(folder: Path) -> dict[str, Path]:
    """Upsamplers of the other kinds with drawn weights, as official files."""
    from parity.world import layout
    from parity.world.presets import UPSAMPLERS
    from parity.world.random_checkpoint import write_file

    found = {}
    for stem in VARIANTS:
        found[stem] = folder / f"{stem}.safetensors"
        if not found[stem].is_file():
            metadata = {"config": json.dumps(UPSAMPLERS[stem])}
            write_file(found[stem], layout.upsampler(UPSAMPLERS[stem]), 5, metadata)
    return found


@cache
def official_facts(checkpoint: Checkpoint) -> Facts:
    """The facts of a checkpoint, from the cache or from the reference now. Raises `ReferenceUnavailable`."""
    given = made_inputs()
    content = [reference_fingerprint(), checkpoint.digest(), PROMPTS]
    content += [hashlib.sha256(value.tobytes()).hexdigest() for value in given.values()]
    source = ROOT / "reference_bridge" / "adapters" / "official" / "facts.py"
    content.append(hashlib.sha256(source.read_bytes()).hexdigest())
    folder = cache_folder() / "facts" / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "facts.safetensors"
    variants = variant_files(folder)
    if not output.is_file():
        save_file(given, folder / "inputs.safetensors")
        _ask(checkpoint, folder, output, variants)
    with safe_open(output, framework="np") as file:
        values = json.loads(file.metadata()["values"])
    return Facts(load_file(output), values, given, variants)


def _ask(checkpoint: Checkpoint, folder: Path, output: Path, variants: Mapping[str, Path]) -> None:
    command = [
        str(reference_python()),
        "-m",
        "reference_bridge.adapters.official.facts",
        f"--inputs={folder / 'inputs.safetensors'}",
        f"--output={output}",
        f"--model={checkpoint.model}",
        f"--gemma={checkpoint.gemma}",
        f"--upsampler={checkpoint.upsampler}",
        *(f"--variant={stem}={path}" for stem, path in variants.items()),
        *(f"--prompt={prompt}" for prompt in PROMPTS),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise ReferenceUnavailable(f"the official facts could not be had: {done.stderr.strip()[-600:]}")
