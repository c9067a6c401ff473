"""How long an audio file is, from its header. WAV, FLAC, Ogg, MP4/M4A and MP3 are read here; anything else asks ffprobe."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from reference_bridge.boxes import Mp4Error, read_movie

_MP3_KBPS = {
    (3, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def duration_s(path: Path, env: Mapping[str, str]) -> float | None:
    """Length in seconds, or None when neither the header nor ffprobe tells. OSError when the file cannot be read."""
    with path.open("rb") as file:
        head = file.read(64)
    found: float | None = None
    with contextlib.suppress(struct.error, ValueError, IndexError, ZeroDivisionError):
        if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
            found = _wav(path)
        elif head[:4] == b"fLaC":
            packed = int.from_bytes(head[18:26], "big")  # 20 bits rate, 3 channels, 5 depth, 36 samples
            found = (packed & (1 << 36) - 1) / (packed >> 44) or None
        elif head[:4] == b"OggS":
            found = _ogg(path)
        elif head[4:8] == b"ftyp":
            with contextlib.suppress(Mp4Error):
                audio = read_movie(path, need_video=False).audio
                found = audio.duration_s if audio else None
        elif head[:3] == b"ID3" or (head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
            found = _mp3(path)
    return found if found is not None else _ffprobe(path, env)


def _wav(path: Path) -> float | None:
    size, per_second = path.stat().st_size, 0
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            kind, length = struct.unpack("<4sI", head)
            if kind == b"fmt ":
                (per_second,) = struct.unpack("<8xI", file.read(12))
                file.seek(length - 12 + length % 2, 1)
            elif kind == b"data":
                # A stream of unknown length says 0 or 2^32 - 1; what is in the file counts.
                left = size - file.tell()
                return (left if length in (0, 0xFFFFFFFF) else min(length, left)) / per_second
            else:
                file.seek(length + length % 2, 1)
    return None


def _ogg(path: Path) -> float | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(4096)
        file.seek(max(0, size - 65536))
        last = file.read()
    page = last.rfind(b"OggS")
    (granule,) = struct.unpack("<q", last[page + 6 : page + 14])
    if (at := first.find(b"OpusHead")) >= 0:
        (skip,) = struct.unpack("<H", first[at + 10 : at + 12])
        return (granule - skip) / 48000
    if (at := first.find(b"\x01vorbis")) >= 0:
        (rate,) = struct.unpack("<I", first[at + 12 : at + 16])
        return float(granule / rate)
    return None


def _mp3(path: Path) -> float | None:
    data = path.read_bytes()
    start = 0
    if data[:3] == b"ID3":
        size = data[6:10]
        start = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    seconds, frames = 0.0, 0
    while start + 4 <= len(data):
        header = int.from_bytes(data[start : start + 4], "big")
        version, layer = header >> 19 & 3, 4 - (header >> 17 & 3)
        rate_index = header >> 10 & 3
        if header >> 21 != 0x7FF or layer == 4 or version == 1 or rate_index == 3:
            break
        kbps = _MP3_KBPS[(3 if version == 3 else 2, layer if version == 3 else min(layer, 2))][header >> 12 & 15]
        rate = (44100, 48000, 32000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
        samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
        padding = (header >> 9 & 1) * (4 if layer == 1 else 1)
        start += samples // 8 * kbps * 1000 // rate + padding if layer != 1 else (12 * kbps * 1000 // rate) * 4 + padding
        seconds, frames = seconds + samples / rate, frames + 1
        if kbps == 0:
            return None
    return seconds if frames > 1 else None


def _ffprobe(path: Path, env: Mapping[str, str]) -> float | None:
    probe = shutil.which("ffprobe", path=env.get("PATH"))
    if probe is None:
        return None
    # The `file:` prefix keeps a name such as `-x.wav` or `concat:…` a file name.
    command = [probe, "-v", "error", "-select_streams", "a:0", "-show_entries", "stream=duration:format=duration"]
    command += ["-of", "default=noprint_wrappers=1:nokey=1", f"file:{path}"]
    try:
        done = subprocess.run(command, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
        lengths = [float(word) for word in done.stdout.split() if word != b"N/A"]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return lengths[0] if lengths else None
