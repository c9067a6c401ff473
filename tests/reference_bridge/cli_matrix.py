"""Versions of the CLI, modes of a request, and which of them go together: what is not refused here must give a video."""

from __future__ import annotations

from typing import Any

from reference_bridge.job import MODES

VERSIONS = ("0.2.0", "0.7.1", "0.8.2", "0.13.1", "0.14.0", "0.14.19")
SAVE, DECODE = "crashes when it saves", "crashes when it decodes"
REFUSED = {
    **{(mode, version): SAVE for mode in ("retake", "extend") for version in ("0.14.0", "0.14.19")},
    **{(mode, "0.14.0"): DECODE for mode in ("t2v", "audio_video", "i2v")},
}
EVERY = [(mode, version) for version in VERSIONS for mode in MODES]
_OF_SOURCE = {"width": None, "height": None, "num_frames": None}
_FIELDS: dict[str, dict[str, Any]] = {
    "retake": {"retake_start": 1 / 24, "retake_end": 9 / 24, **_OF_SOURCE},
    "extend": {"extend_frames": 1, **_OF_SOURCE},
}
_USES = {
    "i2v": "image_path",
    "audio_ref_video": "audio_path",
    "retake": "source_video_path",
    "extend": "source_video_path",
}


def fields_of(mode: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What a request of this mode holds beside prompt, size and seed; `inputs` has a file for every kind of input."""
    used = {_USES[mode]: inputs[_USES[mode]]} if mode in _USES else {}
    return {"mode": mode, **_FIELDS.get(mode, {}), **used}
