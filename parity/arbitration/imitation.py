"""Native, made to depart from the official code as the external CLI does: one patch for each departure, on demand.

The counterpart of the CLI's corrections. Native follows the official code; with an imitation on, the sites where that
departure begins agree with the CLI instead, which shows that the listed reason is the whole reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_native import rope, schedule
from ltx_native.pipelines import denoise, one_stage, two_stage
from ltx_native.text_encoder import connector
from ltx_native.text_encoder.connector import Embeddings1DConnector
from ltx_native.text_encoder.gemma3 import ScaledWordEmbedding
from ltx_native.transformer import model as transformer
from ltx_native.transformer import passes
from ltx_native.transformer_config import TransformerConfig
from parity.arbitration.departures import read_departures
from parity.cases import Case
from parity.faults.registry import everywhere, fault, patched

_MLX_EPS = 1e-5  # nn.RMSNorm's default


def _rounded(x: mx.array) -> mx.array:
    return x.astype(mx.bfloat16).astype(x.dtype)


@contextmanager
def gemma_embed_scale(case: Case) -> Iterator[None]:
    def call(self: ScaledWordEmbedding, input_ids: mx.array) -> mx.array:
        return nn.Embedding.__call__(self, input_ids) * _rounded(mx.array(self.weight.shape[1] ** 0.5))

    with patched(ScaledWordEmbedding, __call__=call):
        yield


def gemma_final_norm(case: Case) -> AbstractContextManager[Any]:
    return fault("GEM-14")  # a mistake of other ports, too


@contextmanager
def connector_qk_norm_eps(case: Case) -> Iterator[None]:
    original = Embeddings1DConnector.__init__

    def init(self: Embeddings1DConnector, *args: Any) -> None:
        original(self, *args)
        for block in self.transformer_1d_blocks:
            block.attn1.q_norm.eps = block.attn1.k_norm.eps = _MLX_EPS

    with patched(Embeddings1DConnector, __init__=init):
        yield


def rope_float32(case: Case) -> AbstractContextManager[Any]:
    return everywhere("generate_freq_grid_np", rope.generate_freq_grid_float32, connector, transformer)


@contextmanager
def schedule_token_shift(case: Case) -> Iterator[None]:
    original = schedule.ltx2_sigmas
    tokens = ((case.num_frames + 7) // 8) * (case.height // 32) * (case.width // 32)
    with everywhere("ltx2_sigmas", lambda steps: original(steps, tokens=tokens), one_stage, two_stage):
        yield


@contextmanager
def context_bfloat16(case: Case) -> Iterator[None]:
    original = passes.run_one

    def run_one(model: Any, video: Any, audio: Any, one: Any) -> Any:
        contexts = {name: _rounded(getattr(one, name)) for name in ("video_context", "audio_context")}
        return original(model, video, audio, replace(one, **contexts))

    with patched(denoise, run_one=run_one):
        yield


@contextmanager
def av_ca_gate_scale(case: Case) -> Iterator[None]:
    original = transformer.LTXModel.__init__

    def init(self: transformer.LTXModel, config: TransformerConfig, *args: Any) -> None:
        original(self, replace(config, av_ca_timestep_scale_multiplier=1.0), *args)

    with patched(transformer.LTXModel, __init__=init):
        yield


@contextmanager
def timestep_bfloat16(case: Case) -> Iterator[None]:
    modality, timesteps = denoise.Denoiser._modality, denoise._timesteps

    def low(sigma: float) -> float:
        return float(_rounded(mx.array(sigma)))

    def scaled(sigma: float) -> float:
        # The transformer multiplies by 1000 in bfloat16, too; between 512 and 1024 that leaves multiples of 4.
        return low(low(sigma) * 1000.0) / 1000.0

    with (
        patched(denoise.Denoiser, _modality=lambda self, state, sigma: modality(self, state, scaled(sigma))),
        patched(denoise, _timesteps=lambda state, sigma: timesteps(state, low(sigma))),
    ):
        yield


@contextmanager
def latents_bfloat16(case: Case) -> Iterator[None]:
    def low(real: Callable[..., mx.array]) -> Callable[..., mx.array]:
        return lambda *args: real(*args).astype(mx.bfloat16)

    names = ("to_denoised", "post_process_latent", "euler_step")
    with patched(denoise, **{name: low(getattr(denoise, name)) for name in names}):
        yield


IMITATIONS: dict[str, Callable[[Case], AbstractContextManager[Any]]] = {
    "gemma-embed-scale": gemma_embed_scale,
    "gemma-final-norm": gemma_final_norm,
    "connector-qk-norm-eps": connector_qk_norm_eps,
    "rope-float32": rope_float32,
    "schedule-token-shift": schedule_token_shift,
    "context-bfloat16": context_bfloat16,
    "av-ca-gate-scale": av_ca_gate_scale,
    "timestep-bfloat16": timestep_bfloat16,
    "latents-bfloat16": latents_bfloat16,
}


def imitations_for(version: str | None) -> tuple[str, ...]:
    """Names of all imitations whose departure this version of the CLI has."""
    return tuple(d.name for d in read_departures() if d.imitation and d.holds_for(version))


@contextmanager
def imitating(names: Sequence[str], case: Case) -> Iterator[None]:
    """Native with these departures of the CLI, for the length of the block. Raises ValueError naming what there is."""
    check_names(names)
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(IMITATIONS[name](case))
        yield


def check_names(names: Sequence[str]) -> None:
    listed = {departure.name for departure in read_departures()}
    for name in names:
        if name not in IMITATIONS:
            what = "native has no imitation of" if name in listed else "there is no departure"
            raise ValueError(f"{what} {name!r}; expected one of {', '.join(IMITATIONS)}")
