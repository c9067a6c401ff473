"""Videos out: H.264 and AAC in an mp4, frame by frame, complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ltx_native.errors import UserError
from ltx_native.media.pixels import Float, UInt8

CHANNELS = 2


def write_video(
    path: str | PathLike[str],
    frames: Iterable[UInt8],
    frame_rate: float,
    audio: Float | None = None,
    sample_rate: int | None = None,
) -> int:
    """Write chunks of frames (n, H, W, 3) uint8 and sound (channels, samples) float32; returns the number of frames.

    libx264 and AAC with FFmpeg's defaults, yuv420p, as the official code writes. Only one chunk is in memory at a time.
    The file appears under its name when it is whole. Raises UserError.
    """
    with VideoWriter(path, frame_rate, None if audio is None else sample_rate) as writer:
        for chunk in frames:
            writer.add_frames(chunk)
        if audio is not None:
            writer.add_audio(audio)
    return writer.num_frames


class VideoWriter:
    """For callers that get frames and sound one after the other; a context manager.

    `sample_rate` None makes a silent video. Leaving the block by an exception, or without a frame, leaves no file.
    """

    def __init__(self, path: str | PathLike[str], frame_rate: float, sample_rate: int | None = None) -> None:
        self.path = Path(path)
        self.rate = exact_rate(frame_rate)
        self.sample_rate = sample_rate
        self.num_frames = 0
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial{self.path.suffix}")
        self._size: tuple[int, int] | None = None
        self._container: Any = None
        self._video: Any = None
        self._audio: Any = None

    def __enter__(self) -> VideoWriter:
        if not self.path.parent.is_dir():
            raise self._error("The folder does not exist", str(self.path.parent), "an existing folder")
        if self.path.is_dir():
            raise self._error("The output is a folder", str(self.path), "the path of a file")
        try:
            self._container = av.open(str(self._partial), mode="w")
            self._video = self._container.add_stream("libx264", rate=self.rate)
            self._video.pix_fmt = "yuv420p"
            if self.sample_rate is not None:
                self._audio = self._container.add_stream("aac", rate=self.sample_rate, layout="stereo")
        except (av.FFmpegError, OSError, ValueError) as error:
            self._discard()
            raise self._error("The video cannot be written", f"{type(error).__name__}: {error}", "a writable .mp4") from error
        return self

    def add_frames(self, frames: UInt8) -> None:
        """(n, H, W, 3) uint8; H and W even and the same for all."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise self._error("These are not frames", f"{frames.dtype} {frames.shape}", "uint8 (n, H, W, 3)")
        size = (frames.shape[1], frames.shape[2])
        if self._size is None:
            if size[0] % 2 or size[1] % 2 or 0 in size:
                raise self._error("The frame size does not suit yuv420p", size, "an even height and width")
            self._size = size
            self._video.height, self._video.width = size
        if size != self._size:
            raise self._error("The frames change their size", size, self._size)
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = self.num_frames, 1 / self.rate
            self._encode(self._video, frame)
            self.num_frames += 1

    def add_audio(self, audio: Float) -> None:
        """(channels, samples) float32 in [-1, 1]; one channel is doubled."""
        if self._audio is None:
            raise self._error("The video was begun without sound", audio.shape, "no sound")
        if audio.ndim != 2 or audio.shape[0] not in (1, CHANNELS):
            raise self._error("This is not stereo sound", audio.shape, "(2, samples)")
        if not np.isfinite(audio).all():
            raise self._error("The sound is not finite", "NaN or infinity", "finite samples")
        frame = av.AudioFrame.from_ndarray(_interleaved(audio), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = self.sample_rate, 0, Fraction(1, self.sample_rate or 1)
        self._encode(self._audio, frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            if self.num_frames == 0:
                raise self._error("There is nothing to write", "0 frames", "1 or more")
            for stream in (self._video, self._audio):
                if stream is not None:
                    self._encode(stream, None)
            self._container.close()
            os.replace(self._partial, self.path)
        except (av.FFmpegError, OSError) as failure:
            self._discard()
            raise self._error(
                "The video cannot be finished", f"{type(failure).__name__}: {failure}", "a whole file"
            ) from failure
        except UserError:
            self._discard()
            raise

    def _encode(self, stream: Any, frame: Any) -> None:
        try:
            self._container.mux(stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise self._error("The video cannot be encoded", f"{type(error).__name__}: {error}", "success") from error

    def _discard(self) -> None:
        try:
            if self._container is not None:
                self._container.close()
        except (av.FFmpegError, OSError):
            pass  # what is thrown away need not be whole
        finally:
            self._partial.unlink(missing_ok=True)

    def _error(self, what: str, value: object, expected: object) -> UserError:
        return UserError(what, str(self.path), value, expected, "Check the output path, its disk and the clip")


def exact_rate(frame_rate: float) -> Fraction:
    """23.976 is 24000/1001, 25 is 25: the rate that is meant. Raises UserError for what is no rate."""
    if not (0 < frame_rate < 1000):
        raise UserError("The frame rate is out of range", "frame_rate", frame_rate, "more than 0, less than 1000", "Use 24")
    whole = round(frame_rate)
    if whole != frame_rate and abs(whole * 1000 / 1001 - frame_rate) < 1e-3 * 1.001:
        return Fraction(whole * 1000, 1001)
    return Fraction(frame_rate).limit_denominator(1001)


def _interleaved(audio: Float) -> NDArray[np.int16]:
    """(1 | 2, samples) float to (1, 2 * samples) int16, by the official scale: clipped, times 32767, cut."""
    stereo = np.repeat(audio, CHANNELS, axis=0) if audio.shape[0] == 1 else audio
    samples = (np.clip(stereo, -1.0, 1.0).astype(np.float32) * np.float32(32767.0)).astype(np.int16)
    return np.ascontiguousarray(samples.T).reshape(1, -1)
