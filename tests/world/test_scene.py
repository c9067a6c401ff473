"""The world's captions, scenes, frames and sound."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from parity.world.filmstrip import chosen, filmstrip
from parity.world.render import render, to_uint8
from parity.world.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    Caption,
    Scene,
    all_captions,
    parse,
    split,
    values,
)
from parity.world.sound import PITCH, render_sound
from parity.world.suite import NEGATIVES, SUITE_PATH, build_suite, load_suite, write_suite

RED_CIRCLE = Caption("red", "circle", "moving right", "gray")


def test_captions_are_all_combinations_and_read_back():
    captions = all_captions()
    assert len(captions) == len(set(captions)) == 4 * 6 * 5 * 3
    assert RED_CIRCLE.text == "a red circle moving right on a gray background"
    assert [parse(caption.text) for caption in captions] == captions


def test_an_unknown_attribute_is_refused_by_name():
    with pytest.raises(ValueError, match=r"colour is 'pink', expected one of red, green"):
        replace(RED_CIRCLE, colour="pink")
    with pytest.raises(ValueError, match="cannot read 'a cat'"):
        parse("a cat")


def test_split_is_disjoint_and_every_value_is_on_both_sides():
    train, held_out = split()
    assert len(held_out) == HELD_OUT
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(all_captions())
    for attribute in ATTRIBUTES:
        for side in (train, held_out):
            assert set(Counter(getattr(c, attribute) for c in side)) == set(values(attribute))


@pytest.mark.parametrize(("frames", "side"), [(9, 64), (17, 64), (9, 128)])
def test_frames_have_their_shape_their_colours_and_soft_edges(frames, side):
    video = render(Scene(RED_CIRCLE, 0.5, 0.5, 0.19), frames, side)
    assert video.shape == (frames, side, side, 3)
    assert video.dtype == np.float32
    np.testing.assert_allclose(video[frames // 2, side // 2, side // 2], COLOURS["red"], atol=1e-6)
    np.testing.assert_allclose(video[0, 0, 0], BACKGROUNDS["gray"], atol=1e-6)
    distinct = np.unique(video[0].reshape(-1, 3), axis=0)
    assert len(distinct) > 10  # anti-aliased: more than two colours


def test_the_area_of_a_disc_is_that_of_its_pixels():
    from parity.world.render import coverage

    area = coverage(Scene(replace(RED_CIRCLE, motion="standing still"), 0.5, 0.5, 0.19), 1, 128).sum() / 128**2
    assert area == pytest.approx(np.pi * 0.19**2, rel=0.005)


@pytest.mark.parametrize("caption", all_captions()[::7], ids=lambda c: c.text)
def test_the_shape_stays_inside_and_moves_as_told(caption):
    from parity.world.render import coverage

    for corner in (-1.0, 1.0):
        alpha = coverage(Scene(caption, 0.5 + 0.04 * corner, 0.5 + 0.04 * corner, 0.19 * 1.05), 9, 64)
        assert alpha[:, 0].max() == alpha[:, -1].max() == alpha[:, :, 0].max() == alpha[:, :, -1].max() == 0.0
    start, end = Scene(caption, 0.5, 0.5, 0.19).centres(9)[[0, -1]]
    words = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up", (0, 0): "still"}
    shift = tuple(int(s) for s in np.sign(np.round(end - start, 6)))
    assert caption.motion.endswith(words[shift])


def test_a_clip_length_that_the_model_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="10 frames of 64 px; expected 8k"):
        render(Scene(RED_CIRCLE, 0.5, 0.5, 0.19), 10, 64)


@pytest.mark.parametrize("shape", PITCH)
def test_pitch_says_the_shape(shape):
    rate = 16_000
    sound = render_sound(Scene(replace(RED_CIRCLE, shape=shape), 0.5, 0.5, 0.19), 1.0, rate)
    assert sound.shape == (2, rate)
    assert np.abs(sound).max() < 1.0
    spectrum = np.abs(np.fft.rfft(sound.sum(0)))
    assert abs(int(spectrum.argmax()) - PITCH[shape]) <= 2


@pytest.mark.parametrize(("motion", "sign"), [("moving right", 1), ("moving left", -1), ("standing still", 0)])
def test_pan_follows_the_shape(motion, sign):
    left, right = render_sound(Scene(replace(RED_CIRCLE, motion=motion), 0.5, 0.5, 0.19), 0.375) ** 2
    third = len(left) // 3
    early = (right[:third].sum() - left[:third].sum()) / (right[:third].sum() + left[:third].sum())
    late = (right[-third:].sum() - left[-third:].sum()) / (right[-third:].sum() + left[-third:].sum())
    assert np.sign(np.round(late - early, 3)) == sign


def test_the_committed_suite_is_what_the_function_makes(tmp_path):
    write_suite(tmp_path / "suite.json")
    assert (tmp_path / "suite.json").read_bytes() == SUITE_PATH.read_bytes()


def test_the_suite_is_the_held_out_half_in_a_fixed_order_with_hard_negatives():
    prompts = load_suite()
    _, held_out = split()
    assert [p.index for p in prompts] == list(range(100))
    assert {p.caption for p in prompts} == set(held_out)
    assert [p.caption for p in prompts] != held_out
    assert len({p.seed for p in prompts}) == 100
    for prompt in prompts:
        assert len(set(prompt.negatives)) == NEGATIVES == 15
        swaps = [sum(getattr(n, a) != getattr(prompt.caption, a) for a in ATTRIBUTES) for n in prompt.negatives]
        assert sorted(swaps)[:14] == [1] * 14
        assert min(swaps) >= 1
    assert build_suite() == build_suite()


def test_a_filmstrip_is_nine_frames_row_by_row():
    video = to_uint8(render(Scene(RED_CIRCLE, 0.5, 0.5, 0.19), 9, 64))
    strip = filmstrip(video)
    assert strip.shape == (96, 96, 3)
    small = video.reshape(9, 32, 2, 32, 2, 3).mean((2, 4))
    np.testing.assert_allclose(strip[32:64, 0:32], small[3], atol=0.5)
    assert chosen(17) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    with pytest.raises(ValueError, match="expected uint8"):
        filmstrip(video.astype(np.float32))
