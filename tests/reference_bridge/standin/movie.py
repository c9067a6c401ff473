"""A small real mp4 from the standard library alone: PNG pictures and PCM sound in ISO boxes, which ffmpeg decodes."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from pathlib import Path


def write_movie(path: Path, *, width: int, height: int, frames: int, rate: float, seed: int, sound: bool = True) -> None:
    """Flat pictures whose colour depends on the seed and the frame, and a 48 kHz stereo tone as long as them."""
    pictures = [_png(width, height, hashlib.sha256(f"{seed}/{index}".encode()).digest()[:3]) for index in range(frames)]
    count = round(frames / rate * 48000) if sound else 0
    tone = b"".join(struct.pack("<hh", *[round(3000 * math.sin(t * 0.0576))] * 2) for t in range(count))
    media = b"".join(pictures) + tone
    ftyp = _box(b"ftyp", b"isom" + struct.pack(">I", 512) + b"isomiso2mp41")
    start = len(ftyp) + 8
    scale = round(rate * 1000)
    seconds_ms = round(frames / rate * 1000)
    tracks = _track(1, b"vide", scale, frames * 1000, seconds_ms, _picture_entry(width, height), _tables(pictures, start, 1000))
    if tone:
        sound_start = start + sum(map(len, pictures))
        entry = _box(b"sowt", b"\0" * 6 + struct.pack(">HHHIHHHHI", 1, 0, 0, 0, 2, 16, 0, 0, 48000 << 16))
        times = _full(b"stts", struct.pack(">III", 1, count, 1)) + _full(b"stsc", struct.pack(">IIII", 1, 1, count, 1))
        tables = times + _full(b"stsz", struct.pack(">II", 4, count)) + _full(b"stco", struct.pack(">II", 1, sound_start))
        tracks += _track(2, b"soun", 48000, count, seconds_ms, entry, tables)
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    mvhd = struct.pack(">IIIIIH10x", 0, 0, 1000, seconds_ms, 0x10000, 0x100) + matrix + b"\0" * 24 + struct.pack(">I", 3)
    moov = _box(b"moov", _full(b"mvhd", mvhd) + tracks)
    path.write_bytes(ftyp + _box(b"mdat", media) + moov)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


def _full(kind: bytes, body: bytes) -> bytes:
    return _box(kind, b"\0\0\0\0" + body)


def _track(number: int, kind: bytes, scale: int, length: int, ms: int, entry: bytes, tables: bytes) -> bytes:
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    size = entry[32:36] if kind == b"vide" else b"\0\0\0\0"
    tkhd = struct.pack(">IIIII8xHHHH", 0, 0, number, 0, ms, 0, 0, 0, 0) + matrix + size[:2] + b"\0\0" + size[2:] + b"\0\0"
    header = _box(b"vmhd", b"\0\0\0\1" + b"\0" * 8) if kind == b"vide" else _full(b"smhd", b"\0" * 4)
    data = _box(b"dinf", _full(b"dref", struct.pack(">I", 1) + _box(b"url ", b"\0\0\0\1")))
    stbl = _box(b"stbl", _full(b"stsd", struct.pack(">I", 1) + entry) + tables)
    mdhd = _full(b"mdhd", struct.pack(">IIIIHH", 0, 0, scale, length, 0x55C4, 0))
    hdlr = _full(b"hdlr", b"\0" * 4 + kind + b"\0" * 12 + b"h\0")
    return _box(b"trak", _box(b"tkhd", b"\0\0\0\3" + tkhd) + _box(b"mdia", mdhd + hdlr + _box(b"minf", header + data + stbl)))


def _tables(samples: list[bytes], start: int, step: int) -> bytes:
    count = len(samples)
    sizes = struct.pack(f">II{count}I", 0, count, *map(len, samples))
    times = _full(b"stts", struct.pack(">III", 1, count, step)) + _full(b"stsc", struct.pack(">IIII", 1, 1, count, 1))
    return times + _full(b"stsz", sizes) + _full(b"stco", struct.pack(">II", 1, start))


def _picture_entry(width: int, height: int) -> bytes:
    config = b"\x04" + bytes([13]) + b"\x6d\x11" + b"\0" * 11  # decoder config: PNG, visual stream
    es = b"\x03" + bytes([3 + len(config) + 3]) + b"\0\1\0" + config + b"\x06\x01\x02"
    head = b"\0" * 6 + struct.pack(">H16xHHIIIH32xHh", 1, width, height, 0x480000, 0x480000, 0, 1, 24, -1)
    return _box(b"mp4v", head + _full(b"esds", es))


def _png(width: int, height: int, colour: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + colour * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
