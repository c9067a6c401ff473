"""Causes that the evidence itself states: a setting, a missing key, a call that is not made, an error in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Said:
    """A cause read off the evidence; nothing had to be executed."""

    cause: str
    sentence: str


def of_values(name: str, ours: Any, theirs: Any) -> Said:
    """Two settings that should be one: which entry differs and how the numbers are related."""
    ours, theirs, path = _innermost(ours, theirs)
    where = ".".join(p for p in (name, path) if p)
    relation = _relation(ours, theirs)
    constant = name.startswith("constants.")
    cause = "constant.value" if constant and not isinstance(ours, Mapping) and "guidance" not in name else "config.value"
    if "sigmas" in name:
        cause = "schedule.table"
    source = "the official pipelines have" if constant else "the checkpoint says"
    return Said(cause, f"native has {where} = {ours!r}, {source} {theirs!r}{relation}")


def _innermost(ours: Any, theirs: Any, path: str = "") -> tuple[Any, Any, str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        different = [k for k in sorted({*ours, *theirs}, key=str) if ours.get(k) != theirs.get(k)]
        if len(different) == 1:
            k = different[0]
            return _innermost(ours.get(k), theirs.get(k), f"{path}.{k}".lstrip("."))
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)) and len(ours) == len(theirs):
        different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        if len(different) == 1:
            return _innermost(ours[different[0]], theirs[different[0]], f"{path}.{different[0]}".lstrip("."))
    return ours, theirs, path


def _relation(ours: Any, theirs: Any) -> str:
    if ours is None:
        return ": it was lost on the way"
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ": the flag is turned"
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)) and ours and theirs:
        ratio = ours / theirs
        return f" (a factor of {ratio:.6g})" if ratio not in (0.0, 1.0) else ""
    return ""


# What an error or a failed requirement says, by the words in it.
_WORDS: tuple[tuple[str, str, str], ...] = (
    (r"truncated or damaged", "file.truncated", "the weight file is not whole: {0}"),
    (r"eps is ([^,]+), the official module has (.+)", "norm.eps", "native = reference with eps {1} instead of {2}"),
    (r"\bmissing: ", "weights.missing", "the loader leaves parameters out: {0}"),
    (r"\bmisshapen: ", "weights.transposed", "parameters arrive with their axes in another order: {0}"),
    (r"given noise does not fit .*found \((\d+), (\d+), .*expected \((\d+), (\d+),", "conditioning.tokens-missing",
     "native starts with {4} tokens where the reference has {2}: conditionings that append tokens do not"),
    (r"group|Expected shape .* for parameter .*\.scales", "quantisation.group-size",
     "a quantised layer is built with another group size or number of bits than it was stored with: {0}"),
    (r"outside the blocks, (\d+) layers would be quantised, first (.*)", "quantisation.scope",
     "the conversion quantises {1} layers outside the blocks, first {2}"),
    (r"\[matmul\] Last dimension .* in(?:to)? .*quantis|\[matmul\] Last dimension", "layout.mismatch",
     "a product of tensors whose inner sizes do not fit: {0}"),
    (r"\[addmm\] Last dimension of first input with shape \((\d+),(\d+),(\d+)\)", "mask.rank",
     "a mask of another rank broadcast its tensor to ({1}, {2}, {3})"),
    (r"\[broadcast_shapes\] Shapes (\([\d,]+\)) and (\([\d,]+\)) cannot", "mask.rank",
     "a mask of another rank has given its tensor axes that do not fit: {1} meets {2}"),
    (r"is handed or gives (float\d+) where the model is in (\w+)", "dtype.promoted",
     "native is handed or gives {1} where the whole stage should be in {2}"),
    (r"runs without (.+)", "lora.not-applied", "{0}: the adapter never reaches the loader"),
    (r"attention mask of the state does not reach the model", "wiring.dropped", "the state's attention mask is not handed on"),
    (r"(\d+) frames of a source became (\d+), expected (\d+)", "frames.rounding",
     "{1} frames counted as {2}: rounded up to 8k + 1 instead of down to {3}"),
    (r"foreign keys was accepted", "lora.keys", "an adapter whose keys fit no layer is taken without a word"),
    (r"was handed (\S+) = (.+), the reference's (.+)", "wiring.value", "native hands {1} = {2}, the reference {3}"),
    (r"stands on one side only", "weights.missing", "{0}"),
    (r"rates ([\d.]+), (\d+)", "export.rate", "the exported file has other rates: {1} frames and {2} samples a second"),
)  # fmt: skip


def of_words(sentence: str, component: str = "") -> Iterator[Said]:
    """Causes that a problem's sentence states."""
    for pattern, cause, text in _WORDS:
        match = re.search(pattern, sentence)
        sizes_only = match is not None and "broadcast_shapes" in match[0] and match[1].count(",") == match[2].count(",")
        if match and not sizes_only:
            if cause == "layout.mismatch" and "quantised" in component:
                cause, text = "quantisation.packed", "packed words of a quantised weight are used as its values: {0}"
            yield Said(cause, text.format(sentence, *match.groups()))


def of_tone(found: tuple[float, float], expected: tuple[float, float]) -> Iterator[Said]:
    """(level, Hz) of an exported tone: planar samples read as interleaved ones double the pitch."""
    level, hertz = (f / e if e else 0.0 for f, e in zip(found, expected, strict=True))
    if abs(hertz - 2) < 0.02:
        yield Said(
            "export.interleaving", "the exported sound runs at twice its pitch: planar channels taken for interleaved ones"
        )
    elif abs(hertz - 0.5) < 0.01:
        yield Said(
            "export.interleaving", "the exported sound runs at half its pitch: interleaved channels taken for planar ones"
        )
    elif abs(hertz - 4) < 0.05 or abs(hertz - 0.25) < 0.01:
        yield Said("export.channels", "left and right of the exported sound are swapped: each has the other's tone")
    elif abs(hertz - 1) < 0.01:
        yield Said("export.level", f"the exported sound has {level:.3g} times its level")


def of_colours(pairs: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> Iterator[Said]:
    """(found, expected) colours of an exported file: limited range, swapped channels, another matrix."""
    import numpy as np

    ours, theirs = (np.array([pair[i] for pair in pairs], dtype=np.float64) for i in (0, 1))
    tries = {
        "export.range": ("limited range applied twice", 16 + theirs * 219 / 255),
        "export.range-lost": ("limited range read as full", np.clip((theirs - 16) * 255 / 219, 0, 255)),
        "export.channels": ("red and blue swapped", theirs[:, ::-1]),
        "export.inverted": ("colours inverted", 255 - theirs),
    }
    before = float(np.abs(ours - theirs).mean())
    cause, (words, predicted) = min(tries.items(), key=lambda item: float(np.abs(ours - item[1][1]).mean()))
    after = float(np.abs(ours - predicted).mean())
    if before and after < 0.35 * before:
        share = f"{100 * (1 - after / before):.1f}"
        yield Said(cause, f"the exported picture = the frames with {words} (removes {share} % of the error)")
