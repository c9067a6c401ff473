"""How strongly each modality is guided, and which passes that takes. No MLX here: requests carry these."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: In the order in which the passes run.
PASSES = ("cond", "uncond", "stg", "modality")


@dataclass(frozen=True)
class GuiderParams:
    """Strengths for one modality. cfg 1, stg 0, modality 1 and rescale 0 switch each part off."""

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] | None = ()
    rescale_scale: float = 0.0
    modality_scale: float = 1.0
    skip_step: int = 0

    @property
    def wants_uncond(self) -> bool:
        return not math.isclose(self.cfg_scale, 1.0)

    @property
    def wants_stg(self) -> bool:
        return not math.isclose(self.stg_scale, 0.0)

    @property
    def wants_modality(self) -> bool:
        return not math.isclose(self.modality_scale, 1.0)

    def skips(self, step: int) -> bool:
        """With ``skip_step`` n, only every (n+1)-th step is computed; the others repeat the last estimate."""
        return self.skip_step != 0 and step % (self.skip_step + 1) != 0


def passes(video: GuiderParams, audio: GuiderParams) -> tuple[str, ...]:
    """The passes a step needs: both modalities go through every pass that either of them wants."""
    wanted = {
        "cond": True,
        "uncond": video.wants_uncond or audio.wants_uncond,
        "stg": video.wants_stg or audio.wants_stg,
        "modality": video.wants_modality or audio.wants_modality,
    }
    return tuple(name for name in PASSES if wanted[name])
