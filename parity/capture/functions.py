"""Native functions between the modules, on the reference's recorded inputs: tokenizer, schedule, guidance, steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_native import conditioning, guidance, sampler, schedule
from ltx_native.config import AudioVAEConfig
from ltx_native.media import Audio, log_mel
from parity.trace import Record, Trace

# Fields of the official guider parameters that ours bear under the same name.
_GUIDER_FIELDS = ("cfg_scale", "stg_scale", "rescale_scale", "modality_scale", "skip_step")


@dataclass(frozen=True)
class Functions:
    """Native functions by site. ``tokenizer`` is the loaded native tokenizer (text → ids and mask)."""

    tokenizer: Callable[..., Any]
    audio_vae: AudioVAEConfig

    def has(self, site: str) -> bool:
        return site.split(".")[0] in _SITES

    def run(self, record: Record, trace: Trace) -> Any:
        """What the native function gives for a record's inputs: an array or arrays by name."""
        return _SITES[record.key.site.split(".")[0]](self, record, trace)

    def tokens(self, record: Record, trace: Trace) -> Mapping[str, Any]:
        tokens = self.tokenizer(record.inputs["text"]["value"], allow_empty=True)
        return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}

    def sigmas(self, record: Record, trace: Trace) -> Any:
        steps, latent = int(record.inputs["steps"]["value"]), record.inputs["latent"]
        if "items" not in latent:
            return np.asarray(schedule.ltx2_sigmas(steps))
        # The high-quality mode shifts for the tokens of its own latent, whose shape (B, C, F, H, W) it hands over.
        return np.asarray(schedule.ltx2_sigmas(steps, math.prod(int(size["value"]) for size in latent["items"][2:])))

    def mel(self, record: Record, trace: Trace) -> Any:
        given = record.inputs["audio"]["fields"]
        waveform = trace.tensor(given["waveform"])
        return log_mel(Audio(waveform[0], int(given["sampling_rate"]["value"])), self.audio_vae)

    def denoised(self, record: Record, trace: Trace) -> Mapping[str, Any]:
        """x0 of each modality from the reference's own velocity."""
        found = {}
        for name, tree in record.inputs.items():
            given = tree["fields"]
            found[name] = sampler.to_denoised(*(_array(given[part], trace) for part in ("sample", "velocity", "sigma")))
        return found

    def guided(self, record: Record, trace: Trace) -> Any:
        given = record.inputs["params"]["fields"]
        params = guidance.GuiderParams(**{name: given[name]["value"] for name in _GUIDER_FIELDS})
        names = ("cond", "uncond_text", "uncond_perturbed", "uncond_modality")
        return guidance.guide(params, *(_number_or_array(record.inputs[name], trace) for name in names))

    def post_processed(self, record: Record, trace: Trace) -> Any:
        names = ("denoised", "denoise_mask", "clean")
        return conditioning.post_process_latent(*(_array(record.inputs[name], trace) for name in names))

    def stepped(self, record: Record, trace: Trace) -> Any:
        if record.type == "Res2sDiffusionStep":
            return self.stepped_with_noise(record, trace)
        sample, denoised = (_array(record.inputs[name], trace) for name in ("sample", "denoised_sample"))
        sigmas = trace.tensor(record.inputs["sigmas"])
        return sampler.euler_step(sample, denoised, sigmas, int(record.inputs["step_index"]["value"]))

    def stepped_with_noise(self, record: Record, trace: Trace) -> Any:
        """Double precision, on the host, as the native sampler does it."""
        sample, denoised, noise = (trace.tensor(record.inputs[name]) for name in ("sample", "denoised_sample", "noise"))
        step = int(record.inputs["step_index"]["value"])
        sigma, sigma_next = trace.tensor(record.inputs["sigmas"])[step : step + 2]
        return sampler.sde_step(sample, denoised, sigma, sigma_next, noise)


_SITES: dict[str, Callable[[Functions, Record, Trace], Any]] = {
    "tokenizer": Functions.tokens,
    "schedule": Functions.sigmas,
    "audio_processor": Functions.mel,
    "denoised": Functions.denoised,
    "guidance": Functions.guided,
    "post_process": Functions.post_processed,
    "sampler": Functions.stepped,
}


def _array(tree: Mapping[str, Any], trace: Trace) -> mx.array:
    return mx.array(trace.tensor(tree))


def _number_or_array(tree: Mapping[str, Any], trace: Trace) -> Any:
    return _array(tree, trace) if "tensor" in tree else float(tree["value"])
