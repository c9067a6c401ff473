"""Scores of one video and of a pair of videos (NumPy only). No limits here: `fidelity_gate` judges, by `policy.toml`.

Units: `clip_score` in CLIP points (100 x cosine), everything else as its docstring says. Frames are uint8 (F, H, W, 3), sound
is float (channels, samples).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Protocol

import numpy as np

METRICS: Final = ("clip_score", "r_precision", "temporal_consistency", "motion")
CHUNK: Final = 16  # frames looked at together, so that a long clip is never copied to float whole


class Embedder(Protocol):
    """What the scores need of a CLIP; all rows have unit length. `parity.clip.Clip` is one."""

    @property
    def fingerprint(self) -> str: ...

    def embed_texts(self, captions: Sequence[str]) -> np.ndarray:
        """(n, D) float32."""
        ...

    def embed_frames(self, frames: np.ndarray) -> np.ndarray:
        """(views, D): the clip as the CLIP wants to see it, at least 8 frames of it."""
        ...

    def embed_stills(self, frames: np.ndarray) -> np.ndarray:
        """(F, D): every frame on its own."""
        ...


@dataclass(frozen=True)
class Scores:
    """One video, measured. NaN where a number could not be had."""

    clip_score: float  # CLIP points against its own prompt, mean over views
    control_score: float  # the same against another prompt of the suite
    first: bool  # its own prompt scores above every hard negative
    lost_to: str  # attribute of the best hard negative where it does not, else ""
    temporal_consistency: float  # mean cosine of neighbouring frames' embeddings
    motion: float  # mean absolute change between neighbouring frames, levels of 255
    brightest: float  # levels
    contrast: float  # standard deviation over all pixels and frames, levels
    frames: int
    finite: bool  # frames and sound
    audio_rms: float  # full scale = 1
    audio_peak: float
    embedding: tuple[float, ...]  # unit mean over views, for the CMMD

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """Inverse of `as_dict`; KeyError or TypeError when a field is missing or unknown."""
        if set(values) != {field.name for field in fields(cls)}:
            raise KeyError(f"scores with fields {sorted(values)}")
        return cls(**{**values, "embedding": tuple(values["embedding"])})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def clip_score(views: np.ndarray, text: np.ndarray) -> float:
    """100 x mean cosine of (views, D) with (D,), not clipped at 0, so that differences stay linear."""
    return float(100.0 * np.mean(views.astype(np.float64) @ text.astype(np.float64)))


def best_negative(views: np.ndarray, own: np.ndarray, negatives: np.ndarray) -> int | None:
    """None when the own caption (D,) scores strictly above all (K, D) negatives, else the best negative's index."""
    own_score = clip_score(views, own)
    scores = [clip_score(views, negative) for negative in negatives]
    best = int(np.argmax(scores))
    return None if own_score > scores[best] else best


def retrieval_rank(views: np.ndarray, captions: np.ndarray, own: int) -> int:
    """Rank (0 = first) of caption `own` among (K, D); ties count against it."""
    scores = np.mean(views.astype(np.float64) @ captions.astype(np.float64).T, axis=0)
    return int(np.sum(scores >= scores[own])) - 1


def temporal_consistency(stills: np.ndarray) -> float:
    """Mean cosine of neighbouring rows of (F, D); NaN for a single frame."""
    if len(stills) < 2:
        return math.nan
    stills = stills.astype(np.float64)
    return float(np.mean(np.sum(stills[1:] * stills[:-1], axis=-1)))


def motion(frames: np.ndarray) -> float:
    """Mean absolute change between neighbouring frames, levels of 255; NaN for a single frame."""
    if len(frames) < 2:
        return math.nan
    total = 0.0
    for start in range(0, len(frames) - 1, CHUNK):
        part = frames[start : start + CHUNK + 1].astype(np.float64)
        total += float(np.abs(np.diff(part, axis=0)).sum())
    return total / (len(frames) - 1) / frames[0].size


def contrast(frames: np.ndarray) -> float:
    """Standard deviation over all pixels, levels of 255."""
    total, squares = 0.0, 0.0
    for start in range(0, len(frames), CHUNK):
        part = frames[start : start + CHUNK].astype(np.float64)
        total, squares = total + float(part.sum()), squares + float((part**2).sum())
    mean = total / frames.size
    return math.sqrt(max(squares / frames.size - mean**2, 0.0))


def measure(
    frames: np.ndarray,
    waveform: np.ndarray,
    embedder: Embedder,
    prompt: str,
    control: str,
    negatives: Sequence[tuple[str, str]],
) -> Scores:
    """Score one video. `control` is another prompt; `negatives` are (attribute, caption) with one attribute swapped.

    Frames that are not uint8 are taken as [0, 1] and may hold NaN, which shows in `finite`.
    """
    finite = bool(np.isfinite(frames).all() and np.isfinite(waveform).all() and waveform.size)
    if frames.dtype != np.uint8:
        frames = np.rint(np.clip(np.nan_to_num(frames.astype(np.float64)), 0, 1) * 255).astype(np.uint8)
    texts = embedder.embed_texts([prompt, control, *(caption for _, caption in negatives)])
    views = embedder.embed_frames(frames)
    mean = views.astype(np.float64).mean(axis=0)
    beaten_by = best_negative(views, texts[0], texts[2:])
    sound = waveform.astype(np.float64)
    return Scores(
        clip_score=clip_score(views, texts[0]),
        control_score=clip_score(views, texts[1]),
        first=beaten_by is None,
        lost_to="" if beaten_by is None else negatives[beaten_by][0],
        temporal_consistency=temporal_consistency(embedder.embed_stills(frames)),
        motion=motion(frames),
        brightest=float(frames.max()),
        contrast=contrast(frames),
        frames=len(frames),
        finite=finite,
        audio_rms=float(np.sqrt(np.mean(sound**2))) if sound.size else 0.0,
        audio_peak=float(np.abs(sound).max()) if sound.size else 0.0,
        embedding=tuple(float(v) for v in mean / np.linalg.norm(mean)),
    )


def differences(native: Scores, reference: Scores, still: float) -> dict[str, float]:
    """native - reference for each of METRICS, more is better.

    `clip_score` in points; `r_precision` in {-1, 0, 1}; `temporal_consistency` and `motion` relative to the reference, `motion`
    0 where the reference moves by less than `still` levels. A frozen video is perfectly consistent; `motion` guards that.
    """
    consistency = native.temporal_consistency - reference.temporal_consistency
    moved = native.motion - reference.motion
    return {
        "clip_score": native.clip_score - reference.clip_score,
        "r_precision": float(native.first) - float(reference.first),
        "temporal_consistency": consistency / max(abs(reference.temporal_consistency), 0.1),
        "motion": 0.0 * moved if reference.motion < still else moved / reference.motion,  # a NaN stays one
    }
