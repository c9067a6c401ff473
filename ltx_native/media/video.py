"""Videos in: what a file holds, its frames one by one, and a clip at a wanted size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

import av
import numpy as np

from ltx_native.errors import UserError
from ltx_native.media.pixels import Float, UInt8, normalize, resize_and_center_crop


@dataclass(frozen=True)
class VideoMetadata:
    frame_rate: float  # frames a second
    num_frames: int
    width: int
    height: int


def video_metadata(path: str | PathLike[str]) -> VideoMetadata:
    """Rate, frame count and size of the first video stream. Raises UserError."""
    with _open_video(path) as (container, stream):
        frames = stream.frames or sum(1 for _ in container.decode(stream))
        if not frames or not stream.average_rate:
            raise _unreadable(path, "a video stream without frames")
        size = stream.codec_context
        return VideoMetadata(float(stream.average_rate), int(frames), int(size.width), int(size.height))


def read_frames(path: str | PathLike[str], start: int = 0, count: int | None = None) -> Iterator[UInt8]:
    """Frames `start` to `start + count` (to the end without `count`) as (H, W, 3) RGB, one at a time. Raises UserError."""
    if count is not None and count <= 0:
        return
    with _open_video(path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if index >= start:
                yield frame.to_rgb().to_ndarray()
            if count is not None and index + 1 == start + count:
                return


def load_video(path: str | PathLike[str], height: int, width: int, count: int | None = None, start: int = 0) -> Float:
    """A clip as the encoder wants it: (1, n, height, width, 3) float32 in [-1, 1], at most `count` frames from `start`.

    Raises UserError when the file cannot be read or has no frame there.
    """
    frames = [normalize(resize_and_center_crop(f[None], height, width)) for f in read_frames(path, start, count)]
    if not frames:
        raise UserError(
            "The video has no frames in this range",
            str(path),
            f"frames from {start} on: 0",
            f"frames {start} to {'the end' if count is None else start + count - 1}",
            "Choose a range inside the video",
        )
    return np.concatenate(frames)[None]


@contextmanager
def _open_video(path: str | PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; what FFmpeg says of a bad file becomes a UserError."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _unreadable(path, "no video stream")
            yield container, container.streams.video[0]
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error


def _unreadable(path: str | PathLike[str], found: str) -> UserError:
    return UserError("The video cannot be read", str(path), found, "a video that FFmpeg decodes", "Check the path and the file")
