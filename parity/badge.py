"""A badge that says the verdict: one SVG, no network."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from parity.files import write_text

# Okabe-Ito colours, dark enough for white text.
_COLOURS = {"pass": "#0b63a8", "fail": "#b23a00", "inconclusive": "#765a00"}
_MARKS = {"pass": "✓", "fail": "✕", "inconclusive": "?"}
_ADVANCE = 6.6  # mean width of a letter at 11 px
_GAP = 9


def badge_svg(verdict: str, label: str = "parity") -> str:
    """The badge as SVG text; an unknown verdict is shown as it is, in grey."""
    words = f"{_MARKS.get(verdict, '·')} {verdict}"
    left, right = (round(len(text) * _ADVANCE) + 2 * _GAP for text in (label, words))
    colour = _COLOURS.get(verdict, "#565d66")
    title = escape(f"{label}: {verdict}")
    quoted = escape(f"{label}: {verdict}", {'"': "&quot;"})

    def text(words: str, x: float) -> str:
        return f'<text x="{x:g}" y="14" text-anchor="middle">{escape(words)}</text>'

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{quoted}">'
        f'<title>{title}</title><clipPath id="r"><rect width="{left + right}" height="20" rx="3"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#3d444d"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/></g>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f"{text(label, left / 2)}{text(words, left + right / 2)}</g></svg>\n"
    )


def write_badge(path: Path, verdict: str, label: str = "parity") -> Path:
    """Write the badge and return its path."""
    write_text(path, badge_svg(verdict, label))
    return path
