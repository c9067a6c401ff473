"""What is shipped: sizes, layout, provenance, and the recorded evidence that it follows prompts."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from safetensors import safe_open

import parity.world
from parity.world.filmstrip import DECLARED
from parity.world.train.recipe import recipe

WORLD = Path(parity.world.__file__).parent
CHECKPOINT = WORLD / "checkpoint"
MODEL = CHECKPOINT / "ltx-2.3-world.safetensors"
UPSAMPLER = CHECKPOINT / "ltx-2.3-world-spatial-upscaler-x2.safetensors"


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return file.metadata()


def test_everything_fits_in_25_megabytes():
    assert sum(p.stat().st_size for p in CHECKPOINT.rglob("*") if p.is_file()) <= 25_000_000
    assert sum(p.stat().st_size for p in (WORLD / "clip").rglob("*") if p.is_file()) <= 6_000_000


@pytest.mark.parametrize("path", [MODEL, UPSAMPLER], ids=lambda p: p.name)
def test_every_tensor_is_bfloat16_and_finite(path):
    tensors = mx.load(str(path))
    assert tensors
    for key, value in tensors.items():
        assert value.dtype == mx.bfloat16, key
        assert bool(mx.isfinite(value).all()), key


def test_all_switches_of_2_3_are_on_in_the_metadata():
    found = metadata(MODEL)
    assert found["model_version"] == "2.3.0"
    config = json.loads(found["config"])
    assert set(config) == {"transformer", "vae", "audio_vae", "vocoder"}
    transformer = config["transformer"]
    assert transformer["cross_attention_adaln"]
    assert transformer["apply_gated_attention"]
    assert transformer["connector_apply_gated_attention"]
    assert transformer["av_ca_timestep_scale_multiplier"] == 1000.0
    assert transformer["rope_type"] == "split"
    assert transformer["frequencies_precision"] == "float64"
    assert "bwe" in config["vocoder"]


def test_the_recipe_and_its_curves_are_recorded():
    record = json.loads((CHECKPOINT / "training.json").read_text(encoding="utf-8"))
    for path in (MODEL, UPSAMPLER):
        assert metadata(path)["recipe_sha256"] == record["recipe_sha256"]
    assert json.loads(metadata(MODEL)["config"])["vae"] == record["recipe"]["vae"]
    assert json.loads(json.dumps(recipe())) == record["recipe"], "the recipe of now is the one it was trained by"
    for name in ("video_vae", "transformer", "video_palette", "transformer_palette"):
        curve = record["stages"][name]["curve"]
        assert curve[-1]["loss"] < 0.8 * curve[0]["loss"], name


def test_the_official_pipeline_followed_held_out_captions():
    record = json.loads((CHECKPOINT / "evaluation.json").read_text(encoding="utf-8"))
    assert record["pipeline"].startswith("TI2VidOneStagePipeline")
    assert record["count"] == 100
    assert record["oracle"]["all"] >= 0.9
    assert record["clip_r_precision_16"] >= 0.9
    assert record["sound_rms_min"] > 0.001
    assert record["sound_peak_max"] <= 1.0


def test_the_clip_declares_its_filmstrip():
    config = json.loads((WORLD / "clip" / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert config["filmstrip"] == DECLARED
    assert config["crop_size"] == {"height": 96, "width": 96}
