"""Latents to tokens and back, and where each token lies in pixels and seconds (patch size 1, as the pipelines use it).

Latents are channels-last: video (B, F, H, W, 128), audio (B, T, 16 mel bins, 8 channels). Token tensors are the official
ones: (B, F*H*W, 128) frame-major, and (B, T, 128) with an audio token's channels before its mel bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

VIDEO_CHANNELS = 128
AUDIO_CHANNELS = 8
AUDIO_MEL_BINS = 16
TIME_SCALE = 8  # pixel frames per latent frame, except that the first latent frame holds one
SPACE_SCALE = 32
AUDIO_SAMPLE_RATE = 16000
AUDIO_HOP_LENGTH = 160
AUDIO_DOWNSAMPLE = 4  # mel frames per latent frame
AUDIO_LATENTS_PER_SECOND = AUDIO_SAMPLE_RATE / AUDIO_HOP_LENGTH / AUDIO_DOWNSAMPLE


@dataclass(frozen=True)
class VideoLatentShape:
    frames: int
    height: int
    width: int

    @classmethod
    def from_pixels(cls, num_frames: int, height: int, width: int) -> VideoLatentShape:
        return cls((num_frames - 1) // TIME_SCALE + 1, height // SPACE_SCALE, width // SPACE_SCALE)

    @classmethod
    def of(cls, latent: mx.array) -> VideoLatentShape:
        return cls(*latent.shape[1:4])

    @property
    def tokens(self) -> int:
        return self.frames * self.height * self.width

    @property
    def pixel_frames(self) -> int:
        return (self.frames - 1) * TIME_SCALE + 1


def audio_latent_frames(num_frames: int, frame_rate: float) -> int:
    """Audio latent frames that last as long as ``num_frames`` of video (25 per second, rounded half to even)."""
    return round(float(num_frames) / float(frame_rate) * AUDIO_LATENTS_PER_SECOND)


def patchify_video(latent: mx.array) -> mx.array:
    return latent.reshape(latent.shape[0], -1, latent.shape[-1])  # (B, F*H*W, C)


def unpatchify_video(tokens: mx.array, shape: VideoLatentShape) -> mx.array:
    return tokens.reshape(tokens.shape[0], shape.frames, shape.height, shape.width, -1)  # (B, F, H, W, C)


def patchify_audio(latent: mx.array) -> mx.array:
    return latent.swapaxes(2, 3).reshape(*latent.shape[:2], -1)  # (B, T, C*M)


def unpatchify_audio(tokens: mx.array) -> mx.array:
    return tokens.reshape(*tokens.shape[:2], AUDIO_CHANNELS, AUDIO_MEL_BINS).swapaxes(2, 3)  # (B, T, M, C)


def video_pixel_bounds(shape: VideoLatentShape, causal_fix: bool = True) -> np.ndarray:
    """(3, T, 2) int64: start and end of every token in pixel frames, rows and columns.

    The causal encoder keeps the first frame alone: with ``causal_fix`` frame bounds move back by 7 and stop at 0.
    """
    grid = np.meshgrid(*(np.arange(n) for n in (shape.frames, shape.height, shape.width)), indexing="ij")
    starts = np.stack([axis.reshape(-1) for axis in grid])  # (3, T)
    bounds = np.stack([starts, starts + 1], axis=-1) * np.array([TIME_SCALE, SPACE_SCALE, SPACE_SCALE])[:, None, None]
    if causal_fix:
        bounds[0] = np.maximum(bounds[0] + 1 - TIME_SCALE, 0)
    return bounds


def video_positions(
    shape: VideoLatentShape,
    frame_rate: float,
    causal_fix: bool = True,
    first_frame: int = 0,
    space_factor: int = 1,
) -> mx.array:
    """(1, 3, T, 2) float32: start and end of every token in seconds and pixels.

    ``first_frame`` shifts all tokens by pixel frames; ``space_factor`` spreads a smaller reference over the target.
    """
    bounds = video_pixel_bounds(shape, causal_fix)
    bounds[0] += first_frame
    positions = bounds.astype(np.float32)
    positions[0] /= np.float32(frame_rate)
    positions[1:] *= space_factor
    return mx.array(positions[None])


def audio_positions(frames: int) -> mx.array:
    """(1, 1, T, 2) float32: start and end of every audio token in seconds, causal like the encoder."""
    mel = np.arange(frames + 1, dtype=np.float32) * AUDIO_DOWNSAMPLE
    seconds = np.maximum(mel + 1 - AUDIO_DOWNSAMPLE, 0) * np.float32(AUDIO_HOP_LENGTH) / np.float32(AUDIO_SAMPLE_RATE)
    return mx.array(np.stack([seconds[:-1], seconds[1:]], axis=-1)[None, None].astype(np.float32))
