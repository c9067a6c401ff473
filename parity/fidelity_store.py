"""Videos and scores of a fidelity run on disk: written whole or not at all, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from parity.fidelity import Embedder, Scores, measure
from parity.fidelity_suite import Item
from parity.files import write_whole as write_whole

Generate = Callable[[str, int], tuple[np.ndarray, np.ndarray]]

SCORES_VERSION: Final = 1  # raise when a score's definition changes: stored scores are then measured anew
KEEP_BYTES: Final = 64 * 2**20  # larger videos are scored and let go


@dataclass(frozen=True)
class Side:
    """One of the two engines. `generate(prompt, seed)` gives uint8 frames (F, H, W, 3) and float sound (C, N).

    `fingerprint` names everything that decides a video but prompt and seed: code, weights, settings, degradation.
    """

    name: str
    fingerprint: str
    generate: Generate


@dataclass(frozen=True)
class Video:
    frames: np.ndarray
    waveform: np.ndarray


class Store:
    """Folder `<side>-<fingerprint>/<id>-<key>.{safetensors,json}` per side."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        for left_over in root.glob("*/*.partial*"):
            left_over.unlink(missing_ok=True)

    def video(self, side: Side, item: Item, prompt: str | None = None) -> Video:
        """From disk, or generated and put there. `prompt` is what the engine is told, where that is not the item's own."""
        told = item.prompt if prompt is None else prompt
        path = self._path(side, item, told, ".safetensors")
        video = _read_video(path)
        if video is None:
            frames, waveform = side.generate(told, item.seed)
            video = Video(np.ascontiguousarray(frames), np.ascontiguousarray(waveform, dtype=np.float32))
            if video.frames.ndim != 4 or video.frames.shape[-1] != 3 or video.waveform.ndim != 2:
                shapes = f"frames {video.frames.shape}, sound {video.waveform.shape}"
                raise ValueError(f"{side.name} gave {shapes}; expected (F, H, W, 3) and (channels, samples)")
            if video.frames.nbytes + video.waveform.nbytes <= KEEP_BYTES:
                tensors = {"frames": video.frames, "waveform": video.waveform}
                notes = {"prompt": told, "seed": str(item.seed), "side": side.name, "fingerprint": side.fingerprint}
                write_whole(path, lambda partial: save_file(tensors, partial, metadata=notes))
        return video

    def scores(self, side: Side, item: Item, control: str, embedder: Embedder, prompt: str | None = None) -> Scores:
        """From disk, or measured (on the stored or a new video) and put there. Scored against the item's own prompt."""
        told = item.prompt if prompt is None else prompt
        asked = [SCORES_VERSION, embedder.fingerprint, item.prompt, control, item.hard_negatives]
        judge = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        path = self._path(side, item, told, ".json")
        stored = _read_json(path)
        if stored is not None and stored.get("judge") == judge:
            return Scores.from_dict(stored["scores"])
        video = self.video(side, item, prompt)
        scores = measure(video.frames, video.waveform, embedder, item.prompt, control, item.hard_negatives)
        text = json.dumps({"judge": judge, "scores": scores.as_dict()}, indent=1)
        write_whole(path, lambda partial: Path(partial).write_text(text))
        return scores

    def has(self, side: Side, item: Item, prompt: str | None = None) -> bool:
        """Whether generating would be wasted: scores or video are there."""
        told = item.prompt if prompt is None else prompt
        return any(self._path(side, item, told, suffix).is_file() for suffix in (".json", ".safetensors"))

    def read_note(self, name: str) -> dict[str, Any] | None:
        return _read_json(self.root / name)

    def write_note(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1)
        write_whole(self.root / name, lambda partial: Path(partial).write_text(text))

    def _path(self, side: Side, item: Item, told: str, suffix: str) -> Path:
        key = hashlib.sha256(json.dumps([told, item.seed]).encode()).hexdigest()[:12]
        fingerprint = hashlib.sha256(side.fingerprint.encode()).hexdigest()[:12]
        return self.root / f"{side.name}-{fingerprint}" / f"{item.id}-{key}{suffix}"


def _read_video(path: Path) -> Video | None:
    """None where there is no whole video: it is then made again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            return Video(file.get_tensor("frames"), file.get_tensor("waveform"))
    except (SafetensorError, OSError):
        path.unlink(missing_ok=True)
        return None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
