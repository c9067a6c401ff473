"""Cases: what is asked of both sides. A case is data; nothing here runs anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

PROMPT = "A red fox runs through fresh snow while a bell rings in the distance"
NEGATIVE = "blurry, low quality, still picture"


@dataclass(frozen=True)
class Guidance:
    """Guidance of one modality, in the official pipeline's terms."""

    cfg: float
    stg: float
    modality: float
    rescale: float
    stg_blocks: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Image:
    """An image that pixel frame ``frame`` shall show; ``crf`` 0 leaves it uncompressed."""

    path: str
    frame: int = 0
    strength: float = 1.0
    crf: int = 0


@dataclass(frozen=True)
class Case:
    """One request for both sides: sizes in pixels, rate in frames per second, noise from ``seed``.

    ``mode`` is the official adapter's: one-stage, distilled, two-stage, two-stage-hq, a2v, keyframe, retake, ic-lora.
    ``source_path`` is the clip to retake (from ``start`` to ``end`` seconds) or to follow (ic-lora). The official packages
    have no ``extend`` (``extend_frames`` latent frames ``direction`` a clip): the suite that compares it makes one of retake.
    """

    name: str
    prompt: str = PROMPT
    negative_prompt: str = NEGATIVE
    width: int = 64
    height: int = 64
    num_frames: int = 9
    frame_rate: float = 24.0
    steps: int = 4
    seed: int = 42
    mode: str = "one-stage"
    video: Guidance = Guidance(cfg=3.0, stg=1.0, modality=3.0, rescale=0.7)
    audio: Guidance = Guidance(cfg=7.0, stg=1.0, modality=3.0, rescale=0.7)
    images: tuple[Image, ...] = ()
    audio_path: str | None = None
    source_path: str | None = None
    start: float | None = None
    end: float | None = None
    loras: tuple[tuple[str, float], ...] = ()
    distilled_loras: tuple[tuple[str, float], ...] = ()
    keep_audio: bool = False
    extend_frames: int | None = None
    direction: str = "after"

    def request(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Case:
        """The case that `request()` told, also after a way through JSON."""
        guidance = {name: Guidance(**_tuples(request[name])) for name in ("video", "audio")}
        return cls(**{**_tuples(request), **guidance, "images": tuple(Image(**image) for image in request["images"])})

    def digest(self) -> str:
        """Content hash of everything that decides the reference's output, the name left out.

        Fields that came later count where they say something, so that what was captured before them keeps its hash.
        """
        silent = {"name"} | {key for key, default in _LATER.items() if getattr(self, key) == default}
        content = _by_content({key: value for key, value in self.request().items() if key not in silent})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def with_seed(self, seed: int) -> Case:
        return replace(self, seed=seed)


_LATER = {"keep_audio": False, "extend_frames": None, "direction": "after"}


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return tuple(plain(item) for item in value) if isinstance(value, (list, tuple)) else value

    return {name: plain(value) for name, value in values.items()}


def _by_content(value: Any) -> Any:
    """The same value with every existing file named by its content instead of its path."""
    if isinstance(value, dict):
        return {key: _by_content(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_by_content(child) for child in value]
    if isinstance(value, str) and value.startswith("/") and Path(value).is_file():
        return hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return value


T2V_SQUARE = Case("t2v-64x64x9")
T2V_WIDE = Case("t2v-96x64x17-25fps", width=96, height=64, num_frames=17, frame_rate=25.0)
T2V_CASES = (T2V_SQUARE, T2V_WIDE)

# Command-line names of a case's fields.
_OPTIONS = {"frames": "num_frames"}


def case_from(options: Mapping[str, Any], base: Case = T2V_SQUARE) -> Case:
    """The base case with the options that were given; a case changed in any way is named by its content."""
    names = {item.name for item in fields(Case)}
    given = {_OPTIONS.get(name, name): value for name, value in options.items() if value is not None}
    changed = replace(base, **{name: value for name, value in given.items() if name in names})
    if changed == base:
        return base
    size = f"{changed.width}x{changed.height}x{changed.num_frames}"
    return replace(changed, name=f"{changed.mode}-{size}-{changed.digest()[:8]}")
