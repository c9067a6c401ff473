"""The three published latent upsamplers, from official and converted files, against the official code in float32."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.convert import convert
from ltx_native.models import Models
from parity.capture.reference import reference_python
from parity.plugin import Parity
from parity.world.presets import UPSAMPLERS
from parity.world.random_checkpoint import write_checkpoint

WORKER = Path(__file__).with_name("upsampler_worker.py")
#: (B, C, F, H, W) of the latent; (F, H, W) that each upsampler makes of it.
SHAPE = (1, 128, 3, 4, 6)
LARGER = {
    "ltx-2.3-spatial-upscaler-x2": (3, 8, 12),
    "ltx-2.3-spatial-upscaler-x1.5": (3, 6, 9),
    "ltx-2.3-temporal-upscaler-x2": (5, 4, 6),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with all upsamplers, converted to float32, and what the official code makes of one latent."""
    folder = tmp_path_factory.mktemp("upsamplers")
    written = write_checkpoint(folder / "tiny", upsamplers=tuple(UPSAMPLERS), split=False)
    sources = [written["model"].with_name(f"{stem}.safetensors") for stem in UPSAMPLERS]
    convert(written["model"], folder / "split", dtype="float32", upsamplers=sources)
    latent = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    save_file({"latent": latent}, folder / "latents.safetensors")
    pairs = [str(path) for source in sources for path in (source, folder / f"{source.stem}.out")]
    command = [str(reference_python()), str(WORKER), str(folder / "latents.safetensors"), *pairs]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        pytest.fail(f"inconclusive: the official upsamplers could not run:\n{done.stderr[-2000:]}", pytrace=False)
    return folder


@pytest.mark.parametrize("layout", ["official", "split"])
@pytest.mark.parametrize("stem", UPSAMPLERS)
def test_upsampled_latents_agree(stem: str, layout: str, folder: Path, parity: Parity) -> None:
    home = folder / ("tiny" if layout == "official" else "split")
    checkpoint = NativeCheckpoint.open(home, folder / "tiny" / "gemma", home / f"{stem}.safetensors")
    assert checkpoint.layout == layout
    latent = load_file(folder / "latents.safetensors")["latent"].transpose(0, 2, 3, 4, 1)
    with Models(checkpoint, mx.float32).use("upsampler") as upsampler:
        native = np.array(upsampler(mx.array(np.ascontiguousarray(latent))))
    reference = load_file(folder / f"{stem}.out")["upsampled"].transpose(0, 2, 3, 4, 1)
    assert native.shape == (1, *LARGER[stem], 128)
    error = np.linalg.norm(native - reference) / np.linalg.norm(reference)
    print(f"{stem} ({layout}): rel_l2 {error:.3g}")
    parity.check(f"upsampler {stem}", native, reference)
