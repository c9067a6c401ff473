"""The pixel oracle: right on what is rendered, robust to soft pictures, and never right about nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from parity.world.oracle import read
from parity.world.render import render, to_uint8
from parity.world.scene import ATTRIBUTES, Caption, Scene, all_captions, values

CAPTION = Caption("blue", "triangle", "moving up", "white")


def clip(caption, seed=0, frames=9, side=64):
    return render(Scene.sample(caption, np.random.default_rng(seed)), frames, side)


def test_every_caption_is_read_right():
    wrong = [c.text for i, c in enumerate(all_captions()[::3]) if not read(to_uint8(clip(c, i))).matches(c)]
    assert wrong == []


@pytest.mark.parametrize(("frames", "side", "blur"), [(9, 64, 1.5), (9, 64, 2.5), (17, 64, 1.5), (9, 128, 3.0)])
def test_soft_and_noisy_pictures_are_read_right(frames, side, blur):
    rng = np.random.default_rng(1)
    wrong = []
    for i, caption in enumerate(all_captions()[:: 11 if side == 64 else 31]):
        soft = gaussian_filter(clip(caption, i, frames, side), (0.5, blur, blur, 0.0))
        if not read(np.clip(soft + rng.normal(0.0, 0.02, soft.shape), 0.0, 1.0)).matches(caption):
            wrong.append(caption.text)
    assert wrong == []


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_one_wrong_attribute_is_seen_and_named(attribute):
    for value in values(attribute):
        if value == getattr(CAPTION, attribute):
            continue
        verdict = read(clip(CAPTION.swap(attribute, value))).correct(CAPTION)
        assert verdict == {name: name != attribute for name in ATTRIBUTES}


def test_an_empty_frame_shows_no_shape():
    reading = read(np.full((9, 64, 64, 3), 0.5, dtype=np.float32))
    assert (reading.colour, reading.shape, reading.motion) == (None, None, None)
    assert reading.background == "gray"


def test_noise_and_a_vanishing_shape_are_no_match():
    noise = np.random.default_rng(0).random((9, 64, 64, 3))
    assert not any(read(noise).matches(c) for c in all_captions())
    video = clip(CAPTION)
    video[5:] = video[0, 0, 0]
    assert read(video).shape is None
    assert not read(video).matches(CAPTION)


def test_a_frozen_clip_stands_still():
    video = np.repeat(clip(CAPTION)[:1], 9, axis=0)
    assert read(video).motion == "standing still"


def test_time_reversed_motion_is_the_opposite():
    assert read(clip(CAPTION)[::-1]).matches(replace(CAPTION, motion="moving down"))


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match=r"shape \(64, 64, 3\), expected \(F, H, W, 3\)"):
        read(clip(CAPTION)[0])
    broken = clip(CAPTION)
    broken[3, 3, 3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        read(broken)
