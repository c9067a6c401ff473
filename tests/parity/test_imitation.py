"""Native's imitations of the CLI: each changes what its departure says, only while it is on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_native import rope, schedule
from ltx_native.conditioning import LatentState
from ltx_native.pipelines import denoise, one_stage
from ltx_native.pipelines.stages import Context
from ltx_native.text_encoder import connector
from ltx_native.text_encoder.gemma3 import ScaledWordEmbedding
from ltx_native.transformer import model as transformer
from ltx_native.transformer import passes
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.passes import Pass
from ltx_native.transformer_config import ConnectorConfig
from parity.arbitration.departures import read_departures
from parity.arbitration.imitation import IMITATIONS, imitating, imitations_for
from parity.cases import Case

CASE = Case("imitation")
EVERY_LISTED = [departure.name for departure in read_departures()]
CONNECTOR = ConnectorConfig(
    num_attention_heads=2, attention_head_dim=4, num_layers=2, positional_embedding_max_pos=(16,), norm_eps=1e-6,
    positional_embedding_theta=1e4, num_learnable_registers=4, rope_type="split", frequencies_precision="float64",
    apply_gated_attention=True,
)  # fmt: skip


def test_every_departure_that_says_so_has_an_imitation() -> None:
    assert {departure.name for departure in read_departures() if departure.imitation} == set(IMITATIONS)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with (
        pytest.raises(ValueError, match=r"there is no departure 'typo'; expected one of gemma-embed-scale"),
        imitating(["typo"], CASE),
    ):
        pass
    with pytest.raises(ValueError, match=r"native has no imitation of 'image-colour'"), imitating(["image-colour"], CASE):
        pass


def embedded() -> Any:
    module = ScaledWordEmbedding(4, 32)
    module.weight = mx.ones((4, 32))
    return float(module(mx.array([0]))[0, 0])


def test_the_scale_of_embeddings_is_rounded() -> None:
    assert embedded() == pytest.approx(32**0.5, rel=1e-7)
    with imitating(["gemma-embed-scale"], CASE):
        assert embedded() == 5.65625
    assert embedded() == pytest.approx(32**0.5, rel=1e-7)


def test_the_schedule_is_shifted_for_the_tokens_of_the_request() -> None:
    for case, tokens in ((CASE, 8), (Case("wide", width=96, num_frames=17), 18)):
        with imitating(["schedule-token-shift"], case):
            assert np.array_equal(one_stage.ltx2_sigmas(4), schedule.ltx2_sigmas(4, tokens=tokens))
    assert one_stage.ltx2_sigmas is schedule.ltx2_sigmas


def test_rotary_grids_are_float32_everywhere() -> None:
    with imitating(["rope-float32"], CASE):
        assert connector.generate_freq_grid_np is transformer.generate_freq_grid_np is rope.generate_freq_grid_float32
    assert connector.generate_freq_grid_np is transformer.generate_freq_grid_np is rope.generate_freq_grid_np


def test_norms_of_the_connectors_have_the_default_eps_of_mlx() -> None:
    def eps() -> set[float]:
        blocks = connector.Embeddings1DConnector(CONNECTOR).transformer_1d_blocks
        return {norm.eps for block in blocks for norm in (block.attn1.q_norm, block.attn1.k_norm)}

    with imitating(["connector-qk-norm-eps"], CASE):
        assert eps() == {1e-5}
    assert eps() == {1e-6}


@dataclass(frozen=True)
class Scales:
    """What of a configuration the imitation changes."""

    av_ca_timestep_scale_multiplier: float


def test_the_gates_of_the_cross_attention_ignore_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(
        transformer.LTXModel, "__init__", lambda self, config: given.append(config.av_ca_timestep_scale_multiplier)
    )
    config = Scales(1000.0)
    with imitating(["av-ca-gate-scale"], CASE):
        transformer.LTXModel(config)  # type: ignore[arg-type]
    transformer.LTXModel(config)  # type: ignore[arg-type]
    assert given == [1.0, 1000.0]


def test_imitations_follow_the_version() -> None:
    assert set(IMITATIONS) - set(imitations_for("0.14.19")) == {"av-ca-gate-scale"}
    assert imitations_for("0.13.1") == tuple(name for name in EVERY_LISTED if name in IMITATIONS)
    assert imitations_for("9.0") == imitations_for(None) == ()


def test_texts_are_rounded_on_entering_the_transformer() -> None:
    text = mx.array([[[1.001, 2.0]]])
    modality = Modality(
        latent=text, sigma=mx.ones(1), timesteps=mx.ones((1, 1, 1)), timestep_rows=None, positions=text, context=text,
        attention_mask=None,
    )  # fmt: skip

    def seen() -> set[float]:
        given: list[float] = []

        def model(video: Modality, audio: Modality, perturbations: Any) -> tuple[mx.array, mx.array]:
            given.extend(float(m.context[0, 0, 0]) for m in (video, audio))
            return video.latent, audio.latent

        denoise.run_one(model, modality, modality, Pass("cond", text, text))
        return set(given)

    with imitating(["context-bfloat16"], CASE):
        assert seen() == {1.0}
    assert seen() == {float(text[0, 0, 0])}
    assert denoise.run_one is passes.run_one


def test_estimates_and_latents_become_bfloat16() -> None:
    x = mx.array([1.0, 2.0])
    with imitating(["latents-bfloat16"], CASE):
        assert denoise.to_denoised(x, x, 0.3).dtype == mx.bfloat16
        assert denoise.euler_step(x, x * 0.5, np.array([1.0, 0.5], np.float32), 0).dtype == mx.bfloat16
    assert denoise.to_denoised(x, x, 0.3).dtype == mx.float32


def test_the_sigma_handed_to_the_model_is_rounded_and_so_is_its_thousandfold() -> None:
    zeros = mx.zeros((1, 2, 4))
    state = LatentState(latent=zeros, denoise_mask=mx.ones((1, 2, 1)), positions=mx.zeros((1, 3, 2, 2)), clean_latent=zeros)
    denoiser = denoise.Denoiser(model=None, positive=Context(zeros, zeros, zeros), batch=False)  # type: ignore[arg-type]

    def seen() -> tuple[float, float]:
        given = denoiser._modality(state, 0.8670831)
        assert float(given.sigma[0]) == float(given.timesteps[0, 0, 0])
        return float(given.sigma[0]) * 1000, float(denoise._timesteps(state, 0.8670831)[0, 0, 0])

    with imitating(["timestep-bfloat16"], CASE):
        assert seen() == (pytest.approx(868.0, rel=1e-7), 0.8671875)
    assert seen() == (pytest.approx(867.0831, rel=1e-7), pytest.approx(0.8670831, rel=1e-7))
