"""The state of a denoising run, and the conditionings that change it before noise is added.

Conditionings that add tokens add them at the end, so that cutting the tail away undoes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import mlx.core as mx
import numpy as np

from ltx_native.patchify import (
    VideoLatentShape,
    audio_positions,
    patchify_audio,
    patchify_video,
    video_pixel_bounds,
    video_positions,
)


@dataclass(frozen=True)
class LatentState:
    """Tokens of one modality on their way from noise to clean."""

    latent: mx.array  # (B, T, C)
    denoise_mask: mx.array  # (B, T, 1) float32; 1 = denoise, 0 = keep clean
    positions: mx.array  # (B, axes, T, 2) float32
    clean_latent: mx.array  # (B, T, C)
    attention_mask: mx.array | None = None  # (B, T, T) in [0, 1]
    frozen: bool = False  # the whole modality is given: its sigma is 0


@dataclass(frozen=True)
class VideoTarget:
    """The video to be made: its latent shape and frame rate (the official ``VideoLatentTools``)."""

    shape: VideoLatentShape
    frame_rate: float

    @property
    def tokens(self) -> int:
        return self.shape.tokens

    def seconds(self) -> np.ndarray:
        """(T, 2): start and end of every token."""
        return np.asarray(video_pixel_bounds(self.shape)[0].astype(np.float32) / np.float32(self.frame_rate))

    def initial_state(self, dtype: mx.Dtype, latent: mx.array | None = None) -> LatentState:
        tokens = patchify_video(latent).astype(dtype) if latent is not None else None
        return _initial_state(tokens, self.tokens, video_positions(self.shape, self.frame_rate), dtype)


@dataclass(frozen=True)
class AudioTarget:
    """The sound to be made (the official ``AudioLatentTools``)."""

    frames: int

    @property
    def tokens(self) -> int:
        return self.frames

    def seconds(self) -> np.ndarray:
        return np.array(audio_positions(self.frames))[0, 0]

    def initial_state(self, dtype: mx.Dtype, latent: mx.array | None = None) -> LatentState:
        tokens = patchify_audio(latent).astype(dtype) if latent is not None else None
        return _initial_state(tokens, self.frames, audio_positions(self.frames), dtype)


Target = VideoTarget | AudioTarget


def _initial_state(tokens: mx.array | None, count: int, positions: mx.array, dtype: mx.Dtype) -> LatentState:
    tokens = mx.zeros((1, count, 128), dtype=dtype) if tokens is None else tokens
    if tokens.shape[1] != count:
        raise ValueError(f"the initial latent has {tokens.shape[1]} tokens, the target {count}")
    mask = mx.ones((1, count, 1), dtype=mx.float32)
    return LatentState(latent=tokens, denoise_mask=mask, positions=positions, clean_latent=tokens)


class ConditioningItem(Protocol):
    def apply_to(self, latent_state: LatentState, target: Target) -> LatentState: ...


@dataclass(frozen=True)
class VideoConditionByLatentIndex:
    """Replace the tokens of whole latent frames, from frame ``latent_idx`` on."""

    latent: mx.array  # (B, F, H, W, C)
    strength: float
    latent_idx: int

    def apply_to(self, latent_state: LatentState, target: Target) -> LatentState:
        assert isinstance(target, VideoTarget)
        shape = VideoLatentShape.of(self.latent)
        if (shape.height, shape.width) != (target.shape.height, target.shape.width):
            raise ValueError(f"an image latent of {shape} cannot replace frames of {target.shape}")
        tokens = patchify_video(self.latent).astype(latent_state.latent.dtype)
        start = self.latent_idx * target.shape.height * target.shape.width
        part = slice(start, start + tokens.shape[1])
        return replace(
            latent_state,
            latent=_with_slice(latent_state.latent, part, tokens),
            clean_latent=_with_slice(latent_state.clean_latent, part, tokens),
            denoise_mask=_with_slice(latent_state.denoise_mask, part, 1.0 - self.strength),
        )


@dataclass(frozen=True)
class VideoConditionByKeyframeIndex:
    """Append an image's (or clip's) tokens, placed at pixel frame ``frame_idx``."""

    keyframes: mx.array  # (B, F, H, W, C)
    frame_idx: int
    strength: float

    def apply_to(self, latent_state: LatentState, target: Target) -> LatentState:
        assert isinstance(target, VideoTarget)
        positions = video_positions(
            VideoLatentShape.of(self.keyframes),
            target.frame_rate,
            causal_fix=self.frame_idx == 0,
            first_frame=self.frame_idx,
        )
        return _append(latent_state, target, patchify_video(self.keyframes), positions, self.strength)


@dataclass(frozen=True)
class VideoConditionByReferenceLatent:
    """Append a reference video's tokens (IC-LoRA), its pixels spread over the target by ``downscale_factor``."""

    latent: mx.array  # (B, F, H, W, C)
    downscale_factor: int = 1
    strength: float = 1.0

    def apply_to(self, latent_state: LatentState, target: Target) -> LatentState:
        assert isinstance(target, VideoTarget)
        positions = video_positions(VideoLatentShape.of(self.latent), target.frame_rate, space_factor=self.downscale_factor)
        return _append(latent_state, target, patchify_video(self.latent), positions, self.strength)


@dataclass(frozen=True)
class ConditioningItemAttentionStrengthWrapper:
    """Let the tokens that ``conditioning`` appends and the noisy ones see each other by ``attention_mask`` only."""

    conditioning: ConditioningItem
    attention_mask: float | mx.array  # scalar, (M,) or (B, M) in [0, 1]

    def apply_to(self, latent_state: LatentState, target: Target) -> LatentState:
        state = self.conditioning.apply_to(latent_state, target)
        added = state.latent.shape[1] - latent_state.latent.shape[1]
        if added == 0:
            return state
        return replace(state, attention_mask=_grown_mask(latent_state, target.tokens, added, self.attention_mask))


@dataclass(frozen=True)
class TemporalRegionMask:
    """Denoise only tokens that overlap [start_time, end_time) seconds; everything else stays as it is."""

    start_time: float
    end_time: float

    def apply_to(self, latent_state: LatentState, target: Target) -> LatentState:
        start, end = target.seconds().T
        inside = (end > self.start_time) & (start < self.end_time)
        mask = mx.array(inside.astype(np.float32))[None, :, None]
        return replace(latent_state, denoise_mask=mx.broadcast_to(mask, latent_state.denoise_mask.shape))


def with_conditionings(state: LatentState, items: list[ConditioningItem], target: Target) -> LatentState:
    for item in items:
        state = item.apply_to(state, target)
    return state


def clear_conditioning(state: LatentState, target: Target) -> LatentState:
    """Cut appended tokens away."""
    count = target.tokens
    return LatentState(
        latent=state.latent[:, :count],
        denoise_mask=mx.ones_like(state.denoise_mask[:, :count]),
        positions=state.positions[:, :, :count],
        clean_latent=state.clean_latent[:, :count],
        frozen=state.frozen,
    )


def post_process_latent(denoised: mx.array, denoise_mask: mx.array, clean: mx.array) -> mx.array:
    """Keep what is conditioned: denoised * mask + clean * (1 - mask), in float32."""
    return (denoised * denoise_mask + clean.astype(mx.float32) * (1 - denoise_mask)).astype(denoised.dtype)


def _with_slice(x: mx.array, part: slice, value: mx.array | float) -> mx.array:
    x = mx.array(x)  # a copy: indexed assignment works in place
    x[:, part] = value
    return x


def _append(state: LatentState, target: VideoTarget, tokens: mx.array, positions: mx.array, strength: float) -> LatentState:
    tokens = tokens.astype(state.latent.dtype)
    added = tokens.shape[1]
    mask = mx.full((tokens.shape[0], added, 1), 1.0 - strength, dtype=mx.float32)
    # A mask that is there already grows with full attention; without one there is nothing to say.
    grown = None if state.attention_mask is None else _grown_mask(state, target.tokens, added, 1.0)
    return replace(
        state,
        latent=mx.concatenate([state.latent, tokens], axis=1),
        denoise_mask=mx.concatenate([state.denoise_mask, mask], axis=1),
        positions=mx.concatenate([state.positions, positions], axis=2),
        clean_latent=mx.concatenate([state.clean_latent, tokens], axis=1),
        attention_mask=grown,
    )


def _grown_mask(state: LatentState, noisy: int, added: int, attention_mask: float | mx.array) -> mx.array:
    """(B, N+M, N+M): new tokens see themselves fully, noisy ones by ``attention_mask``, older references not at all."""
    batch, count = state.latent.shape[0], state.latent.shape[1]
    cross = np.broadcast_to(np.asarray(attention_mask, dtype=np.float32), (batch, added))
    mask = np.zeros((batch, count + added, count + added), dtype=np.float32)
    mask[:, :count, :count] = 1.0 if state.attention_mask is None else np.array(state.attention_mask)
    mask[:, count:, count:] = 1.0
    mask[:, :noisy, count:] = cross[:, None]
    mask[:, count:, :noisy] = cross[:, :, None]
    return mx.array(mask)
