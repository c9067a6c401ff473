"""Requests: what they amount to, their defaults, and the message for each kind of bad input."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ltx_native.errors import RequestError
from ltx_native.request import MAX_SEED, Anchor, Lora, Request
from reference_bridge.command import NEGATIVE_PROMPT_SHA256


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    return str(path)


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, "t2v"),
        ({"image_path": "a"}, "i2v"),
        ({"images": (Anchor("a", 8),)}, "i2v"),
        ({"audio_path": "a"}, "audio_ref_video"),
        ({"audio_path": "a", "image_path": "b"}, "audio_ref_video"),
        ({"source_video_path": "a"}, "retake"),
        ({"source_video_path": "a", "extend_frames": 2}, "extend"),
        ({"image_path": "a", "mode": "t2v"}, "t2v"),
    ],
)
def test_the_mode_follows_from_what_is_given(fields: dict[str, Any], mode: str) -> None:
    assert Request("a cat", **fields).effective_mode == mode


def test_sound_conditions_unless_it_is_passed_through() -> None:
    assert Request("a", audio_path="x").audio_conditioning
    assert not Request("a", audio_path="x", audio_passthrough=True).audio_conditioning
    assert Request("a", audio_path="x").effective_pipeline == "two-stage"
    assert Request("a", audio_path="x", audio_passthrough=True).effective_pipeline == "one-stage"


@pytest.mark.parametrize(
    ("fields", "steer"),
    [
        ({}, True),
        ({"mode": "i2v"}, True),
        ({"mode": "t2v"}, False),
        ({"audio_path": "x"}, True),
        ({"audio_path": "x", "audio_passthrough": True}, False),
        ({"source_video_path": "x"}, False),
    ],
)
def test_images_steer_where_the_mode_takes_any(fields: dict[str, Any], steer: bool) -> None:
    assert bool(Request("a", image_path="i", **fields).steering_anchors) == steer


def test_the_default_negative_prompt_is_the_official_one() -> None:
    """By its hash, which the bridge knows: the external CLI always takes that text."""
    assert hashlib.sha256(Request("a").resolved().negative_prompt.encode()).hexdigest() == NEGATIVE_PROMPT_SHA256


def test_defaults_are_written_out_and_given_values_kept() -> None:
    request = Request("a cat", steps=5, stg_scale=0.0, audio_stg_blocks=()).resolved()
    assert (request.width, request.height, request.num_frames, request.frame_rate) == (704, 480, 97, 24.0)
    assert request.steps == 5
    assert request.video_guider().stg_scale == 0.0
    assert request.audio_guider().stg_blocks == ()
    assert request.audio_guider().cfg_scale == 7.0
    request.validate()
    hq = Request("a cat", pipeline="two-stages-hq").resolved()
    assert (hq.steps, hq.stg_scale, hq.rescale_scale, hq.audio_rescale_scale) == (15, 0.0, 0.45, 1.0)
    hq.validate()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "  "}, ["prompt", "empty"]),
        ({"prompt": "a\0b"}, ["NUL"]),
        ({"num_frames": 16}, ["num_frames", "16", "8k + 1", "Use 17"]),
        ({"num_frames": 0}, ["num_frames", "0"]),
        ({"width": 100}, ["width", "100", "multiple of 32", "Use 96"]),
        ({"height": -64}, ["height", "-64"]),
        ({"height": 96, "pipeline": "two-stage"}, ["height", "96", "multiple of 64"]),
        ({"steps": 0}, ["steps", "0", "1 or more"]),
        ({"steps": -3}, ["steps", "-3"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": MAX_SEED + 1}, ["seed", str(MAX_SEED)]),
        ({"frame_rate": 0.0}, ["frame_rate"]),
        ({"guidance": float("nan")}, ["guidance", "finite"]),
        ({"mode": "i2v"}, ["i2v", "image"]),
        ({"image_path": "/no/such/file.png"}, ["image_path", "/no/such/file.png"]),
        ({"mode": "audio_ref_video"}, ["sound", "audio_path"]),
        ({"mode": "retake"}, ["retake", "source_video_path"]),
        ({"mode": "extend"}, ["extend", "source_video_path"]),
        ({"mode": "dance"}, ["mode", "dance", "t2v"]),
        ({"pipeline": "three-stage"}, ["pipeline", "three-stage"]),
        ({"dtype": "int8"}, ["dtype", "int8"]),
        ({"stg_blocks": (-1,)}, ["stg_blocks", "-1"]),
        ({"loras": (Lora("/no/lora"),)}, ["lora", "/no/lora"]),
        ({"pipeline": "keyframes"}, ["keyframes", "image"]),
    ],
)
def test_bad_input_says_what_where_and_what_next(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        Request(**{"prompt": "a cat", **fields}).validate()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"images": (Anchor("FILE", 97),)}, ["image frame", "97", "0 to 96"]),
        ({"images": (Anchor("FILE", 0, 1.5),)}, ["strength", "1.5"]),
        ({"images": (Anchor("FILE", 0, 1.0, 60),)}, ["CRF", "60"]),
        ({"source_video_path": "FILE", "retake_start": 2.0, "retake_end": 1.0}, ["range", "2.0"]),
        ({"source_video_path": "FILE", "mode": "retake"}, ["range"]),
        ({"source_video_path": "FILE", "extend_frames": 0}, ["extend_frames", "0"]),
        ({"extend_direction": "sideways"}, ["extend_direction", "sideways"]),
    ],
)
def test_bad_values_about_files(file: str, fields: dict[str, Any], words: list[str]) -> None:
    def put(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(Anchor(file, a.frame, a.strength, a.crf) for a in value)
        return file if value == "FILE" else value

    with pytest.raises(RequestError) as caught:
        Request("a cat", **{name: put(value) for name, value in fields.items()}).validate()
    for word in words:
        assert word in str(caught.value)


def test_a_prompt_may_begin_with_dashes() -> None:
    Request("--a cat").validate()
