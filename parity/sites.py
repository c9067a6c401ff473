"""The ordered table of sites: what both sides expose, in which layout, and by which rule a record is not compared.

A site is `component` or `component.module.path`; paths are the official modules' own. The table is data about the two sides
and knows neither of them: NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.trace import Key, Record

Array = npt.NDArray[Any]

# Order of execution in a text-to-video run; a report and the model map list components in this order.
COMPONENTS: tuple[str, ...] = (
    "tokenizer",
    "gemma",
    "embeddings_processor",
    "video_encoder",
    "audio_processor",
    "audio_encoder",
    "schedule",
    "noise",
    "state",
    "transformer",
    "denoised",
    "guidance",
    "post_process",
    "sampler",
    "upsampler",
    "latent",
    "video_decoder",
    "frames",
    "audio_decoder",
    "vocoder",
    "waveform",
)

# Axis moves from the reference's layout (torch: channels first) to the native one (MLX: channels last), by component and rank.
_CHANNELS_LAST: dict[int, tuple[int, ...]] = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
AXIS_MOVES: dict[str, dict[int, tuple[int, ...]]] = {
    "video_encoder": {5: _CHANNELS_LAST[5]},
    "video_decoder": {5: _CHANNELS_LAST[5]},
    "upsampler": {4: _CHANNELS_LAST[4], 5: _CHANNELS_LAST[5]},
    "audio_encoder": {4: _CHANNELS_LAST[4]},
    "audio_decoder": {4: _CHANNELS_LAST[4]},
    "vocoder": {3: _CHANNELS_LAST[3], 4: _CHANNELS_LAST[4]},
    "audio_processor": {4: _CHANNELS_LAST[4]},
    "latent": {4: _CHANNELS_LAST[4], 5: _CHANNELS_LAST[5]},
}


@dataclass(frozen=True)
class SkipRule:
    """A kind of reference record that has no native twin, and why that hides nothing."""

    name: str
    site: str
    type: str
    reason: str

    def covers(self, record: Record) -> bool:
        return fnmatchcase(record.key.site, self.site) and fnmatchcase(record.type, self.type)


SKIP_RULES: tuple[SkipRule, ...] = (
    SkipRule("R1", "*", "Identity", "passes its input through; the parent's output is compared"),
    SkipRule("R2", "*", "Dropout*", "inactive in inference; the parent's output is compared"),
    SkipRule("R3", "*", "Sequential", "a container; its members and its parent are compared"),
    SkipRule("R4", "*", "SiLU", "an activation without parameters, computed inside the parent"),
    SkipRule("R6", "noise.*", "*", "drawn by the reference and injected into native; `state` compares what arrived"),
    SkipRule("R7", "frames", "Tensor", "compared as an end-to-end number"),
    SkipRule("R8", "waveform", "Audio", "compared as an end-to-end number"),
    SkipRule("R5", "*", "GELUTanh", "an activation without parameters, computed inside the parent"),
)

# Native modules that only group calls; the official side holds the same members in a container without a forward.
NATIVE_ONLY: tuple[str, ...] = ("audio_decoder.mid", "audio_decoder.up.?", "audio_encoder.mid", "audio_encoder.down.?")

# Functions compared on the reference's inputs only: what they give reaches the next site's input, which is compared.
REPLAY_ONLY: tuple[str, ...] = ("audio_processor",)

# Sites whose tensors must agree bit for bit in every dtype: integers, tables and coordinates, not results of matrix products.
EXACT: tuple[str, ...] = ("tokenizer", "schedule", "state.*:positions", "state.*:denoise_mask")

# Values that only the run produces but that must be right on their own: judged by the run's difference. Later stages start
# from what the first one made and carry its error on; the end of the run judges that.
JUDGED_IN_RUN: tuple[str, ...] = ("state.*:latent", "state.*:clean_latent")
FIRST_STAGE = "stage_1"

# Outputs that are a module's own work, by the reference's leaf path, and where native has them. The rest passes through
# (TransformerArgs of a block) or is a child's output handed on (the STFT inside MelSTFT).
_OWN_OUTPUTS: dict[str, dict[str, str]] = {
    "BasicAVTransformerBlock": {"0.x": "0.x", "1.x": "1.x"},
    "MelSTFT": {"0": ""},
}


def component_of(site: str) -> str:
    return site.split(".", 1)[0]


def order_of(component: str) -> int:
    return COMPONENTS.index(component) if component in COMPONENTS else len(COMPONENTS)


# What the reference does not make in a mode: audio to video hands the given sound on and never makes an audio latent.
ABSENT_IN_MODE: dict[str, tuple[str, ...]] = {"a2v": ("latent.audio",)}


def native_only(site: str, mode: str = "") -> bool:
    """Whether a native record needs no partner (in this mode)."""
    return any(fnmatchcase(site, pattern) for pattern in (*NATIVE_ONLY, *ABSENT_IN_MODE.get(mode, ())))


def recorded(records: Iterable[Record], sites: Sequence[str]) -> list[Record]:
    """The records that a capture restricted to these sites (globs; all when empty) would hold."""
    return [r for r in records if not sites or any(fnmatchcase(r.key.site, pattern) for pattern in sites)]


def skip_rule(record: Record) -> SkipRule | None:
    """The rule that takes a reference record out of the comparison, if one does."""
    return next((rule for rule in SKIP_RULES if rule.covers(record)), None)


def compared_outputs(record: Record, paths: list[str]) -> dict[str, str]:
    """Which output leaves of a reference record are compared, and the native leaf of each."""
    own = _OWN_OUTPUTS.get(record.type)
    return {path: path for path in paths} if own is None else {p: n for p, n in own.items() if p in paths}


def is_exact(site: str, output: str = "") -> bool:
    """Whether this tensor has to agree bit for bit."""
    return _matches(site, output, EXACT)


def judged_in_run(key: Key, output: str = "") -> bool:
    """Whether a tensor without a replay answers for its difference in the run."""
    first = key.stage == FIRST_STAGE
    return _matches(key.site, output, EXACT) or (first and _matches(key.site, output, JUDGED_IN_RUN))


def _matches(site: str, output: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(f"{site}:{output}" if ":" in pattern else site, pattern) for pattern in patterns)


def to_native_layout(site: str, array: Array) -> Array:
    """Move a reference tensor's axes to where the native side has them."""
    moves = AXIS_MOVES.get(component_of(site), {}).get(array.ndim)
    return array if moves is None else np.transpose(array, moves)


def to_reference_layout(site: str, array: Array) -> Array:
    """Move a native tensor's axes to where the reference has them."""
    moves = AXIS_MOVES.get(component_of(site), {}).get(array.ndim)
    return array if moves is None else np.transpose(array, np.argsort(moves))


def has_padding(site: str) -> bool:
    """Whether a site computes padding tokens, too, whose values are nobody's result."""
    return component_of(site) == "gemma"
