"""The section with both videos and both sounds of a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from parity.report import media
from parity.report.plots import Plot, colour, drawing, label, number, to_svg


@dataclass(frozen=True)
class Pane:
    """One side of the viewer."""

    side: str
    sprite: media.Sprite


@dataclass(frozen=True)
class MediaView:
    """Everything the page shows of what the run made; ``problems`` say what could not be shown."""

    panes: tuple[Pane, ...] = ()
    frames: int = 0
    frame_rate: float = 24.0
    width: int = 0
    height: int = 0
    gain: int = 1
    words: str = ""
    strip: str = ""
    strip_frames: tuple[int, ...] = ()
    strip_sides: tuple[str, ...] = ()
    sounds: tuple[tuple[str, str], ...] = ()  # side, data URI
    waveform: Plot | None = None
    spectrogram: str = ""
    spectrogram_words: str = ""
    files: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()


def media_view(files: Mapping[str, str], folder: Path, name: str, budget: int = media.SPRITE_BYTES) -> MediaView:
    """Decode the sides' videos below ``folder``; a file that is missing or broken is named, not left out."""
    clips: dict[str, media.Clip] = {}
    problems = []
    for side in ("native", "reference"):
        if side not in files:
            continue
        path = folder / files[side]
        try:
            if not path.is_file():
                raise media.MediaError(f"{files[side]} is not beside the results")
            clips[side] = media.read_clip(path)
        except media.MediaError as error:
            problems.append(f"{side}: {error}")
    if not clips:
        return MediaView(files=tuple(files.items()), problems=tuple(problems))
    sides = {side: clip.frames for side, clip in clips.items()}
    gain, words = 1, ""
    if len(clips) == 2:
        native, reference = sides["native"], sides["reference"]
        if native.shape[1:] == reference.shape[1:]:
            sides["difference"], gain = media.difference_frames(native, reference)
            words = _frame_words(native, reference)
        else:
            problems.append(f"native frames are {native.shape[1:3]} pixels, the reference's {reference.shape[1:3]}")
        if len(native) != len(reference):
            problems.append(f"native has {len(native)} frames, the reference {len(reference)}")
    first = next(iter(sides.values()))
    strip, chosen = media.strip(list(sides.values()))
    return MediaView(
        panes=tuple(Pane(side, media.sprite(frames, budget)) for side, frames in sides.items()),
        frames=min(len(frames) for frames in sides.values()),
        frame_rate=next(iter(clips.values())).frame_rate,
        width=int(first.shape[2]),
        height=int(first.shape[1]),
        gain=gain,
        words=words,
        strip=strip,
        strip_frames=tuple(chosen),
        strip_sides=tuple(sides),
        sounds=tuple((side, uri) for side, clip in clips.items() if (uri := media.sound_uri(clip))),
        files=tuple(files.items()),
        problems=tuple(problems),
        **_sound(clips, name),
    )


def _frame_words(native: np.ndarray, reference: np.ndarray) -> str:
    count = min(len(native), len(reference))
    gaps = np.abs(native[:count].astype(np.int16) - reference[:count].astype(np.int16)).reshape(count, -1).max(axis=1)
    worst = int(gaps.argmax())
    if gaps[worst] == 0:
        return f"All {count} decoded frames are equal."
    return (
        f"Decoded from the exported files, the largest difference is {gaps[worst]} of 255 levels, in frame {worst}; "
        f"{int((gaps == 0).sum())} of {count} frames are equal."
    )


def _sound(clips: Mapping[str, media.Clip], name: str) -> dict[str, Any]:
    heard = {side: clip for side, clip in clips.items() if clip.waveform is not None and clip.waveform.shape[-1]}
    if not heard:
        return {}
    words = []
    with drawing(10.6, 1.35 * len(heard), rows=len(heard)) as (figure, axes):
        for (side, clip), plot in zip(heard.items(), axes, strict=True):
            assert clip.waveform is not None
            low, high = media.envelope(clip.waveform)
            seconds = clip.waveform.shape[-1] / clip.sample_rate
            x = np.linspace(0, seconds, len(low))
            plot.fill_between(x, low, high, color=colour(side), linewidth=0.3)
            rms, peak = float(np.sqrt(np.mean(clip.waveform**2))), float(np.abs(clip.waveform).max())
            plot.set_xlim(0, seconds)
            label(plot, side)
            words.append(f"{side}: {seconds:.2f} s at {clip.sample_rate} Hz, RMS {number(rms)}, peak {number(peak)}")
        label(axes[-1], "", "seconds")
        waveform = to_svg(figure, f"{name}-waveform", f"Waveforms, lowest and highest sample. {'; '.join(words)}.")
    levels = {
        side: media.spectrogram_db(clip.waveform, clip.sample_rate) for side, clip in heard.items() if clip.waveform is not None
    }
    top = max(float(level.max()) for level, _ in levels.values())
    pictures = []
    for level, _ in levels.values():
        scaled = np.clip((_logarithmic(level)[::-1] - (top - 80)) / 80, 0, 1)
        pictures.append((matplotlib.colormaps["inferno"](scaled)[..., :3] * 255).astype(np.uint8))
    width = min(picture.shape[1] for picture in pictures)
    gap = np.full((pictures[0].shape[0], 6, 3), 128, np.uint8)
    joined = pictures[0][:, :width]
    for picture in pictures[1:]:
        joined = np.concatenate([joined, gap, picture[:, :width]], axis=1)
    sides = " and right ".join(levels)
    text = f"Spectrograms, left {sides}: time across, frequency up (logarithmic), 80 dB from dark to bright."
    return {"waveform": waveform, "spectrogram": media.png(joined), "spectrogram_words": text}


def _logarithmic(level: np.ndarray, rows: int = 128) -> np.ndarray:
    """Frequency bins on a logarithmic axis, lowest first; the constant is left out."""
    at = np.geomspace(1, level.shape[0] - 1, rows).round().astype(int)
    return np.asarray(level[at])
