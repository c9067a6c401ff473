"""Whether the reference reproduces itself: what differs from run to run cannot prove anything about the port."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity.checks.exam import Array
from parity.gate import Judgement
from parity.metrics import measure
from parity.trace import Trace


@dataclass(frozen=True)
class Repeat:
    """rel_l2 between two runs of the reference, by end of the run."""

    differences: dict[str, float]

    def judgement(self, bound: float) -> Judgement:
        """`inconclusive` when the reference differs from itself by more than the limit it is to be a limit for."""
        moved = {name: value for name, value in self.differences.items() if not value <= bound}
        if not moved:
            return Judgement("pass")
        name, worst = max(moved.items(), key=lambda item: item[1])
        text = (
            f"the reference does not reproduce itself: {name} differs by rel_l2 {worst:.3g} from run to run (bound {bound:.3g})"
        )
        return Judgement("inconclusive", (text,))


def repeat(first: Trace, second: Trace) -> Repeat:
    """Compare the final latents of two captures of one case."""
    found = {}
    for site in ("latent.video", "latent.audio"):
        one, other = (_final(trace, site) for trace in (first, second))
        found[site] = measure(one, other).rel_l2
    return Repeat(found)


def _final(trace: Trace, site: str) -> Array:
    return trace.tensor(trace.site(site)[-1].outputs)


def jittered(trace: Trace, seed: int, amount: float = 0.055) -> dict[str, Array]:
    """The final latents with run-to-run jitter; 0.055 in each of two runs leaves a cosine of about .997 between them."""
    rng = np.random.default_rng(seed)
    found = {}
    for site in ("latent.video", "latent.audio"):
        latent = _final(trace, site)
        noise = rng.standard_normal(latent.shape).astype(latent.dtype)
        found[site] = latent + amount * float(np.sqrt(np.mean(latent**2))) * noise
    return found


def repeat_of(first: dict[str, Array], second: dict[str, Array]) -> Repeat:
    return Repeat({site: measure(first[site], second[site]).rel_l2 for site in first})
