"""The transformer against what the official code (git, ltx-core 1.2.0) computed: ``shared/goldens``, seven cases.

A checkout without the golden fails here and says where the file is looked for; nothing is skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from ltx_native.config import TransformerConfig
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.model import LTXModel
from ltx_native.transformer.perturbations import (
    BatchedPerturbationConfig,
    Perturbation,
    PerturbationConfig,
    PerturbationType,
)

FILE = "transformer_git_1.2.0.safetensors"
CASES = (
    "uniform",
    "first_frame_clean",
    "two_sigmas",
    "audio_frozen",
    "per_token",
    "stg_block_1",
    "modalities_isolated",
)
PERTURBATIONS = {
    "stg_block_1": [
        Perturbation(PerturbationType.SKIP_VIDEO_SELF_ATTN, [1]),
        Perturbation(PerturbationType.SKIP_AUDIO_SELF_ATTN, [1]),
    ],
    "modalities_isolated": [
        Perturbation(PerturbationType.SKIP_A2V_CROSS_ATTN, None),
        Perturbation(PerturbationType.SKIP_V2A_CROSS_ATTN, None),
    ],
}
BOUND = 1e-5


def golden_path() -> Path:
    folder = os.environ.get("LTX_PARITY_GOLDENS") or Path(__file__).parents[3] / "shared" / "goldens"
    return Path(folder) / FILE


class Golden:
    def __init__(self, path: Path):
        self.path = path
        with safe_open(str(path), "numpy") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            self.config = TransformerConfig.from_official(json.loads(file.metadata()["config"]))
        prefix = "weights/model.diffusion_model."
        weights = {k.removeprefix(prefix): mx.array(v) for k, v in self.tensors.items() if k.startswith(prefix)}
        self.model = LTXModel(self.config)
        self.model.load_weights(list(weights.items()), strict=True)
        mx.eval(self.model.parameters())

    def modality(self, case: str, name: str) -> Modality:
        def tensor(kind: str) -> mx.array:
            return mx.array(self.tensors[kind])

        return Modality(
            latent=tensor(f"inputs/{name}.latent"),
            positions=tensor(f"inputs/{name}.positions"),
            context=tensor(f"inputs/{name}.context"),
            sigma=tensor(f"cases/{case}/{name}.sigma"),
            timesteps=tensor(f"cases/{case}/{name}.timesteps"),
        )

    def velocities(self, case: str) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self.tensors[f"cases/{case}/{name}.velocity"] for name in ("video", "audio"))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def golden() -> Golden:
    path = golden_path()
    if not path.is_file():
        pytest.fail(f"no golden at {path}: put shared/goldens beside the checkout or set LTX_PARITY_GOLDENS to its folder")
    return Golden(path)


def rel_l2(native: mx.array, expected: np.ndarray) -> float:
    difference = np.array(native, dtype=np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


def test_the_file_has_exactly_the_cases_tested(golden: Golden) -> None:
    assert {name.split("/")[1] for name in golden.tensors if name.startswith("cases/")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_velocity(golden: Golden, case: str) -> None:
    perturbations = BatchedPerturbationConfig([PerturbationConfig(PERTURBATIONS[case])]) if case in PERTURBATIONS else None
    video, audio = golden.model(golden.modality(case, "video"), golden.modality(case, "audio"), perturbations)
    expected_video, expected_audio = golden.velocities(case)
    errors = rel_l2(video, expected_video), rel_l2(audio, expected_audio)
    print(f"{case}: video {errors[0]:.2e}, audio {errors[1]:.2e}")
    assert max(errors) <= BOUND
