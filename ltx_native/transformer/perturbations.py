"""Which attentions a guidance pass leaves out, per sample of the batch and per block."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import mlx.core as mx


class PerturbationType(Enum):
    SKIP_A2V_CROSS_ATTN = "skip_a2v_cross_attn"
    SKIP_V2A_CROSS_ATTN = "skip_v2a_cross_attn"
    SKIP_VIDEO_SELF_ATTN = "skip_video_self_attn"
    SKIP_AUDIO_SELF_ATTN = "skip_audio_self_attn"


@dataclass(frozen=True)
class Perturbation:
    """One attention type left out in the given blocks; ``blocks=None`` means in every block."""

    type: PerturbationType
    blocks: list[int] | None

    def is_perturbed(self, perturbation_type: PerturbationType, block: int) -> bool:
        return self.type == perturbation_type and (self.blocks is None or block in self.blocks)


@dataclass(frozen=True)
class PerturbationConfig:
    """The perturbations of one sample."""

    perturbations: list[Perturbation] | None

    def is_perturbed(self, perturbation_type: PerturbationType, block: int) -> bool:
        return any(p.is_perturbed(perturbation_type, block) for p in self.perturbations or ())

    @staticmethod
    def empty() -> PerturbationConfig:
        return PerturbationConfig([])


@dataclass(frozen=True)
class BatchedPerturbationConfig:
    """One ``PerturbationConfig`` per sample of the batch."""

    perturbations: list[PerturbationConfig]

    def any_in_batch(self, perturbation_type: PerturbationType, block: int) -> bool:
        return any(p.is_perturbed(perturbation_type, block) for p in self.perturbations)

    def all_in_batch(self, perturbation_type: PerturbationType, block: int) -> bool:
        return all(p.is_perturbed(perturbation_type, block) for p in self.perturbations)

    def mask_like(self, perturbation_type: PerturbationType, block: int, values: mx.array) -> mx.array | None:
        """(B, 1, ...) with 0 where a sample leaves the attention out; None when no sample does."""
        if not self.any_in_batch(perturbation_type, block):
            return None
        kept = [0.0 if p.is_perturbed(perturbation_type, block) else 1.0 for p in self.perturbations]
        return mx.array(kept, dtype=values.dtype).reshape(-1, *[1] * (values.ndim - 1))

    def first_difference(self, num_layers: int) -> int:
        """The first block in which any sample is perturbed; ``num_layers`` when none ever is."""
        for block in range(num_layers):
            if any(self.any_in_batch(kind, block) for kind in PerturbationType):
                return block
        return num_layers

    @staticmethod
    def empty(batch_size: int) -> BatchedPerturbationConfig:
        return BatchedPerturbationConfig([PerturbationConfig.empty() for _ in range(batch_size)])
