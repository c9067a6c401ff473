"""The box structure of an mp4 file, read without decoding: enough to tell a whole video from a piece of one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAX_MOOV = 256 << 20
_CONTAINERS = {b"trak", b"mdia", b"minf", b"stbl", b"mvex"}


class Mp4Error(ValueError):
    """The file is no complete mp4 with at least one video frame. The message says what is wrong."""


@dataclass(frozen=True)
class Track:
    """One track. `duration_s` is 0.0 when the file does not say; `width`, `height` in pixels, `rate` in Hz."""

    kind: str
    samples: int
    duration_s: float
    width: int = 0
    height: int = 0
    rate: int = 0
    channels: int = 0


@dataclass(frozen=True)
class Movie:
    tracks: tuple[Track, ...]

    @property
    def video(self) -> Track:
        return next(track for track in self.tracks if track.kind == "vide")

    @property
    def audio(self) -> Track | None:
        return next((track for track in self.tracks if track.kind == "soun"), None)


def read_movie(path: Path, *, need_video: bool = True) -> Movie:
    """Check the structure of an mp4 and return its tracks. Raises Mp4Error; OSError when the file cannot be read."""
    size = path.stat().st_size
    if size == 0:
        raise Mp4Error("the file is empty")
    moov, media, fragments = b"", [], 0
    with path.open("rb") as file:
        position, first = 0, True
        while position < size:
            file.seek(position)
            kind, start, end = _header(file.read(16), position, size)
            if first and kind != b"ftyp":
                raise Mp4Error(f"it does not begin with an ftyp box but with {kind!r}")
            if end > size:
                raise Mp4Error(f"box {_name(kind)} ends at byte {end} but the file at {size}: it is cut short")
            if kind == b"moov":
                if end - start > _MAX_MOOV:
                    raise Mp4Error(f"box moov has {end - start} bytes")
                file.seek(start)
                moov = file.read(end - start)
            elif kind == b"mdat":
                media.append((start, end))
            fragments += kind == b"moof"
            position, first = end, False
    if not moov:
        raise Mp4Error("it has no moov box: the writer did not finish")
    if not any(end > start for start, end in media):
        raise Mp4Error("it has no media data (mdat)")
    tracks = tuple(_track(body, media, bool(fragments)) for kind, body in _children(moov) if kind == b"trak")
    if need_video and not any(track.kind == "vide" and (track.samples or fragments) for track in tracks):
        raise Mp4Error("it has no video track with at least one frame")
    return Movie(tracks)


def _header(head: bytes, position: int, limit: int) -> tuple[bytes, int, int]:
    if len(head) < 8:
        raise Mp4Error(f"{len(head)} stray bytes at {position}: it is cut short")
    length, kind = struct.unpack(">I4s", head[:8])
    start = position + 8
    if length == 1:
        if len(head) < 16:
            raise Mp4Error(f"box {_name(kind)} at {position} is cut short")
        length, start = struct.unpack(">Q", head[8:16])[0], position + 16
    elif length == 0:
        length = limit - position
    if position + length < start:
        raise Mp4Error(f"box {_name(kind)} at {position} has the impossible length {length}")
    return kind, start, position + length


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position + 8 <= len(data):
        kind, start, end = _header(data[position : position + 16], position, len(data))
        if end > len(data):
            raise Mp4Error(f"box {_name(kind)} is longer than its parent")
        yield kind, data[start:end]
        position = end


def _flat(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for kind, body in _children(data):
        found.setdefault(kind, body)
        if kind in _CONTAINERS:
            found.update({name: inner for name, inner in _flat(body).items() if name not in found})
    return found


def _track(data: bytes, media: list[tuple[int, int]], fragmented: bool) -> Track:
    boxes = _flat(data)
    try:
        kind = boxes[b"hdlr"][8:12].decode("latin-1")
        scale, duration = _media_time(boxes[b"mdhd"])
        uniform, samples = struct.unpack(">II", boxes[b"stsz"][4:12])
        entry = boxes[b"stsd"][16:]  # past version, count, and the size and type of the first entry
        if samples and not fragmented:
            _check_chunks(boxes, media)
        width, height = struct.unpack(">HH", entry[24:28]) if kind == "vide" else (0, 0)
        channels, rate = struct.unpack(">H6xI", entry[16:28]) if kind == "soun" else (0, 0)
    except (KeyError, IndexError, struct.error) as error:
        raise Mp4Error(f"a track is incomplete ({error})") from error
    if uniform == 0 and len(boxes[b"stsz"]) < 12 + 4 * samples:
        raise Mp4Error(f"a track lists {samples} samples but not their sizes")
    return Track(kind, samples, duration / scale if scale else 0.0, width, height, rate >> 16, channels)


def _media_time(mdhd: bytes) -> tuple[int, int]:
    scale, duration = struct.unpack(">IQ", mdhd[20:32]) if mdhd[0] == 1 else struct.unpack(">II", mdhd[12:20])
    return scale, duration


def _check_chunks(boxes: dict[bytes, bytes], media: list[tuple[int, int]]) -> None:
    wide = b"co64" in boxes
    table = boxes[b"co64" if wide else b"stco"]
    (count,) = struct.unpack(">I", table[4:8])
    offsets = struct.unpack(f">{count}{'Q' if wide else 'I'}", table[8 : 8 + count * (8 if wide else 4)])
    if count == 0:
        raise Mp4Error("a track lists samples but no chunk")
    for offset in offsets:
        if not any(start <= offset < end for start, end in media):
            raise Mp4Error(f"a chunk begins at byte {offset}, outside the media data")


def _name(kind: bytes) -> str:
    return kind.decode("latin-1")
