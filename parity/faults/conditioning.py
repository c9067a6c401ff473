"""Mistakes in what a run starts from: noise, positions, conditionings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_native import conditioning, patchify
from ltx_native.conditioning import VideoConditionByKeyframeIndex, VideoConditionByLatentIndex, VideoTarget
from ltx_native.media import image
from ltx_native.noise import Draws
from ltx_native.patchify import VideoLatentShape, patchify_video, video_positions
from ltx_native.pipelines import diffuse, refine, source, stages
from parity.faults.registry import everywhere, patched, register


@register("NOI-01")
def noise_before_conditioning() -> Iterator[None]:
    original = stages.noised_state

    def noised(run: Any, target: Any, conditionings: Any = (), *args: Any, **kwargs: Any) -> Any:
        plain = [item for item in conditionings if isinstance(item, VideoConditionByLatentIndex)]
        rest = [item for item in conditionings if item not in plain]
        state = original(run, target, rest, *args, **kwargs)
        for item in plain:
            applied = item.apply_to(state, target)
            state = replace(applied, latent=mx.array(applied.latent) * 1.0)
        return state

    with everywhere("noised_state", noised, stages, diffuse):
        yield


def _initial(change: Any) -> Any:
    original = Draws.initial

    def initial(self: Draws, shape: tuple[int, ...], dtype: mx.Dtype, seed_offset: int) -> mx.array:
        return change(original(self, shape, dtype, seed_offset), self.seed + seed_offset, seed_offset)

    return patched(Draws, initial=initial)


@register("NOI-04")
def audio_noise_whitened() -> Iterator[None]:
    def whitened(noise: mx.array, seed: int, offset: int) -> mx.array:
        centred = noise - noise.mean(axis=1, keepdims=True)
        return centred / mx.sqrt(mx.mean(mx.square(centred), axis=1, keepdims=True)) if offset == 1 else noise

    with _initial(whitened):
        yield


@register("NOI-06")
def drawn_for_padded_length() -> Iterator[None]:
    def padded(noise: mx.array, seed: int, offset: int) -> mx.array:
        b, t, c = noise.shape
        return mx.random.normal((b, -(-t // 32) * 32, c), key=mx.random.key(seed))[:, :t]

    with _initial(padded):
        yield


@register("NOI-07")
def own_generator() -> Iterator[None]:
    with _initial(lambda noise, seed, offset: mx.random.normal(noise.shape, key=mx.random.key(seed))):
        yield


@register("POS-06")
def drawn_before_patchifying() -> Iterator[None]:
    def channels_first(noise: mx.array, seed: int, offset: int) -> mx.array:
        return noise.reshape(noise.shape[0], noise.shape[2], noise.shape[1]).swapaxes(1, 2)

    with _initial(channels_first):
        yield


def _audio_positions(change: Any) -> Any:
    def positions(frames: int) -> mx.array:
        edges = change(np.arange(frames + 1, dtype=np.float32)) * np.float32(0.01)
        return mx.array(np.stack([edges[:-1], edges[1:]], axis=-1)[None, None].astype(np.float32))

    return everywhere("audio_positions", positions, patchify, conditioning)


@register("POS-01")
def offset_in_latent_frames() -> Iterator[None]:
    with _audio_positions(lambda index: np.maximum((index + 1 - 4) * 4, 0)):
        yield


@register("POS-02")
def first_end_not_clamped() -> Iterator[None]:
    original = patchify.audio_positions

    def positions(frames: int) -> mx.array:
        found = np.array(original(frames))
        found[0, 0, 0, 0] = -0.03
        return mx.array(found)

    with everywhere("audio_positions", positions, patchify, conditioning):
        yield


def _keyframe(change: Any) -> Any:
    """Where a keyframe's tokens lie: ``change(positions, item, target)``."""

    def apply_to(self: VideoConditionByKeyframeIndex, latent_state: Any, target: VideoTarget) -> Any:
        shape = VideoLatentShape.of(self.keyframes)
        positions = video_positions(shape, target.frame_rate, self.frame_idx == 0, self.frame_idx)
        changed = change(positions, self, target)
        return conditioning._append(latent_state, target, patchify_video(self.keyframes), changed, self.strength)

    return patched(VideoConditionByKeyframeIndex, apply_to=apply_to)


@register("POS-05")
def causal_keyframe() -> Iterator[None]:
    def causal(positions: mx.array, item: VideoConditionByKeyframeIndex, target: VideoTarget) -> mx.array:
        return video_positions(VideoLatentShape.of(item.keyframes), target.frame_rate, True, item.frame_idx)

    with _keyframe(causal):
        yield


@register("CND-01")
def other_interval() -> Iterator[None]:
    # In ltx-core 1.0.0 a keyframe's interval is a latent frame's eight frames; the mistake is to give it another one.
    def single(positions: mx.array, item: VideoConditionByKeyframeIndex, target: VideoTarget) -> mx.array:
        changed = np.array(positions)
        changed[:, 0, :, 1] = changed[:, 0, :, 0] + 1 / target.frame_rate
        return mx.array(changed)

    with _keyframe(single):
        yield


@register("CND-02")
def keyframe_overwrites() -> Iterator[None]:
    def apply_to(self: VideoConditionByKeyframeIndex, latent_state: Any, target: VideoTarget) -> Any:
        index = (self.frame_idx + 7) // 8
        return VideoConditionByLatentIndex(self.keyframes, self.strength, index).apply_to(latent_state, target)

    with patched(VideoConditionByKeyframeIndex, apply_to=apply_to):
        yield


@register("CND-04")
def appended_tokens_counted_as_noisy() -> Iterator[None]:
    original = conditioning._grown_mask

    def grown(state: Any, noisy: int, added: int, attention_mask: Any) -> mx.array:
        return original(state, state.latent.shape[1], added, attention_mask)

    with patched(conditioning, _grown_mask=grown):
        yield


@register("CND-06")
def image_upside_down() -> Iterator[None]:
    original = image.read_image
    with patched(image, read_image=lambda path: np.ascontiguousarray(original(path)[::-1])):
        yield


@register("CND-08")
def second_stage_without_mask() -> Iterator[None]:
    original = stages.noised_state

    def noised(run: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        state = original(run, target, *args, **kwargs)
        offset = kwargs.get("seed_offset", args[3] if len(args) > 3 else 0)
        return replace(state, denoise_mask=mx.ones_like(state.denoise_mask)) if offset == 2 else state

    with everywhere("noised_state", noised, stages, diffuse):
        yield


@register("CND-09")
def frames_rounded_up() -> Iterator[None]:
    original = source.sized_by_source

    def sized(request: Any) -> Any:
        from ltx_native.media import video_metadata

        count = video_metadata(request.source_video_path).num_frames
        return replace(original(request), num_frames=-(-(count - 1) // 8) * 8 + 1)

    from ltx_native.pipelines import extend, retake

    with everywhere("sized_by_source", sized, source, retake, extend):
        yield


@register("CND-10")
def second_stage_at_default_rate() -> Iterator[None]:
    original = vars(refine)["diffuse"]

    def diffused(run: Any, part: str, targets: Any, *args: Any, **kwargs: Any) -> Any:
        at_default = replace(targets[0], frame_rate=24.0)
        items = [_At(item, at_default) for item in kwargs["video"].items]
        start = replace(kwargs["video"], items=items)
        return (yield from original(run, part, targets, *args, **{**kwargs, "video": start}))

    with patched(refine, diffuse=diffused):
        yield


class _At:
    """A conditioning item applied as if to another target."""

    def __init__(self, item: Any, target: VideoTarget) -> None:
        self.item, self.target = item, target

    def apply_to(self, latent_state: Any, target: Any) -> Any:
        return self.item.apply_to(latent_state, self.target)
