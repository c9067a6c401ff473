"""Tokens, positions and conditionings, against values worked out by hand from the official rules."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ltx_native.conditioning import (
    AudioTarget,
    ConditioningItemAttentionStrengthWrapper,
    TemporalRegionMask,
    VideoConditionByKeyframeIndex,
    VideoConditionByLatentIndex,
    VideoConditionByReferenceLatent,
    VideoTarget,
    clear_conditioning,
    post_process_latent,
    with_conditionings,
)
from ltx_native.patchify import (
    VideoLatentShape,
    audio_latent_frames,
    audio_positions,
    patchify_audio,
    patchify_video,
    unpatchify_audio,
    unpatchify_video,
    video_positions,
)

SHAPE = VideoLatentShape(3, 2, 3)
TARGET = VideoTarget(SHAPE, 25.0)


def test_latent_shapes() -> None:
    assert VideoLatentShape.from_pixels(17, 64, 96) == SHAPE
    assert SHAPE.tokens == 18
    assert SHAPE.pixel_frames == 17
    assert [audio_latent_frames(n, rate) for n, rate in ((9, 24.0), (17, 25.0), (97, 24.0), (121, 30.0))] == [9, 17, 101, 101]


def test_audio_length_rounds_half_to_even() -> None:
    assert audio_latent_frames(1, 10.0) == 2
    assert audio_latent_frames(3, 10.0) == 8


def test_tokens_and_back() -> None:
    video, audio = mx.random.normal((2, 3, 2, 3, 128)), mx.random.normal((2, 5, 16, 8))
    assert mx.array_equal(unpatchify_video(patchify_video(video), SHAPE), video)
    assert mx.array_equal(unpatchify_audio(patchify_audio(audio)), audio)
    # An audio token has its channels first, then the mel bins of each.
    assert mx.array_equal(patchify_audio(audio)[0, 1, 16:32], audio[0, 1, :, 1])
    # Video tokens run through columns, then rows, then frames.
    assert mx.array_equal(patchify_video(video)[0, 6 + 3 + 2], video[0, 1, 1, 2])


def test_video_positions_are_seconds_and_pixels() -> None:
    positions = np.array(video_positions(SHAPE, 25.0))[0]
    assert positions.shape == (3, 18, 2)
    frames = positions[0, ::6] * 25
    assert frames.tolist() == [[0, 1], [1, 9], [9, 17]]  # the first latent frame holds one frame, the others eight
    assert positions[1, :6].tolist() == [[0, 32]] * 3 + [[32, 64]] * 3
    assert positions[2, :3].tolist() == [[0, 32], [32, 64], [64, 96]]


def test_audio_positions_are_causal() -> None:
    seconds = np.array(audio_positions(3))[0, 0]
    assert seconds.tolist() == pytest.approx(np.array([[0, 0.01], [0.01, 0.05], [0.05, 0.09]]))


def test_an_image_for_the_first_frame_takes_its_place() -> None:
    image = mx.random.normal((1, 1, 2, 3, 128))
    before = TARGET.initial_state(mx.float32)
    after = VideoConditionByLatentIndex(image, 0.8, 0).apply_to(before, TARGET)
    assert mx.array_equal(after.latent[:, :6], patchify_video(image))
    assert after.denoise_mask[0, :6, 0].tolist() == pytest.approx([0.2] * 6)
    assert after.denoise_mask[0, 6:, 0].tolist() == [1.0] * 12
    assert before.latent.abs().max() == 0, "the state before must not change"
    with pytest.raises(ValueError, match="cannot replace"):
        VideoConditionByLatentIndex(mx.zeros((1, 1, 1, 1, 128)), 1.0, 0).apply_to(before, TARGET)


def test_a_keyframe_is_appended_at_its_frame() -> None:
    image = mx.random.normal((1, 1, 2, 3, 128))
    state = VideoConditionByKeyframeIndex(image, 9, 0.6).apply_to(TARGET.initial_state(mx.float32), TARGET)
    assert state.latent.shape == (1, 24, 128)
    assert mx.array_equal(state.clean_latent[:, 18:], patchify_video(image))
    assert (np.array(state.positions)[0, 0, 18] * 25).tolist() == pytest.approx([9, 17])
    first = VideoConditionByKeyframeIndex(image, 0, 0.6).apply_to(TARGET.initial_state(mx.float32), TARGET)
    assert (np.array(first.positions)[0, 0, 18] * 25).tolist() == pytest.approx([0, 1])
    assert clear_conditioning(state, TARGET).latent.shape == (1, 18, 128)


def test_a_small_reference_is_spread_over_the_target() -> None:
    reference = mx.random.normal((1, 3, 1, 1, 128))
    state = VideoConditionByReferenceLatent(reference, 2, 1.0).apply_to(TARGET.initial_state(mx.float32), TARGET)
    assert np.array(state.positions)[0, 1:, 18].tolist() == [[0, 64], [0, 64]]
    assert state.denoise_mask[0, 18:, 0].tolist() == [0.0] * 3


def test_attention_between_references() -> None:
    items = [
        ConditioningItemAttentionStrengthWrapper(VideoConditionByReferenceLatent(mx.zeros((1, 1, 1, 1, 128))), 0.4),
        ConditioningItemAttentionStrengthWrapper(
            VideoConditionByReferenceLatent(mx.zeros((1, 1, 1, 2, 128))), mx.array([0.1, 0.2])
        ),
    ]
    mask = np.array(with_conditionings(TARGET.initial_state(mx.float32), items, TARGET).attention_mask)[0]
    assert mask.shape == (21, 21)
    assert (mask[:18, :18] == 1).all()
    assert mask[0, 18] == mask[18, 0] == pytest.approx(0.4)
    assert mask[3, 19:].tolist() == pytest.approx([0.1, 0.2])
    assert mask[19:, 3].tolist() == pytest.approx([0.1, 0.2])
    assert mask[18, 19:].tolist() == [0, 0], "references do not see each other"
    assert mask[19:, 19:].tolist() == [[1, 1], [1, 1]]


def test_a_region_of_time_is_denoised() -> None:
    region = TemporalRegionMask(0.1, 0.3)  # frames 2.5 to 7.5: the second latent frame
    video = region.apply_to(TARGET.initial_state(mx.float32), TARGET)
    assert video.denoise_mask[0, :, 0].tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 6
    target = AudioTarget(17)
    audio = np.array(region.apply_to(target.initial_state(mx.float32), target).denoise_mask)[0, :, 0]
    assert np.flatnonzero(audio).tolist() == [3, 4, 5, 6, 7, 8]


def test_what_is_conditioned_is_put_back() -> None:
    denoised, clean = mx.full((1, 3, 2), 4.0), mx.full((1, 3, 2), 2.0)
    mask = mx.array([0.0, 0.5, 1.0]).reshape(1, 3, 1)
    assert post_process_latent(denoised, mask, clean)[0, :, 0].tolist() == [2.0, 3.0, 4.0]
    assert post_process_latent(denoised.astype(mx.bfloat16), mask, clean).dtype == mx.bfloat16


def test_an_initial_latent_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="12 tokens"):
        replace(TARGET, shape=SHAPE).initial_state(mx.float32, mx.zeros((1, 2, 2, 3, 128)))
