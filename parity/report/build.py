"""Turn `results.json` and the videos beside it into one self-contained HTML file."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


class ReportError(ValueError):
    """Results from which no page can be made."""


def build_report(results_path: Path, output: Path | None = None) -> Path:
    """Write `report.html` beside the results (or to ``output``) and return its path.

    Raises `ReportError` when the results cannot be read.
    """
    try:
        results = json.loads(results_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{results_path}: no readable results ({error})") from error
    output = output or results_path.with_name("report.html")
    html = render(results, results_path.parent)
    handle, temporary = tempfile.mkstemp(dir=output.parent, prefix=output.name, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(html)
    Path(temporary).replace(output)
    return output


def render(results: Mapping[str, Any], media_folder: Path) -> str:
    """The page's HTML; every text is escaped, media are embedded."""
    environment = Environment(
        loader=PackageLoader("parity.report"), autoescape=select_autoescape(default=True), undefined=StrictUndefined
    )
    environment.filters["number"] = number
    cases = [_view(case, media_folder) for case in results["cases"]]
    return environment.get_template("report.html.j2").render(results=results, cases=cases)


def number(value: Any) -> str:
    """A number as people read it in a table; `–` for nothing."""
    if value is None:
        return "–"
    value = float(value)
    return "0" if value == 0 else f"{value:.2e}" if abs(value) < 1e-2 or abs(value) >= 1e4 else f"{value:.4g}"


def _view(case: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    rows = [dict(zip(case["columns"], row, strict=True)) for row in case["rows"]]

    def own(row: Mapping[str, Any]) -> float:
        value = row["local"] if row["local"] is not None else row["total"]
        return float("inf") if row["problem"] else float(value or 0.0)

    media = {name: _embed(folder / path) for name, path in case["media"].items() if (folder / path).is_file()}
    return {**case, "rows": sorted(rows, key=lambda row: (not row["failed"], -own(row))), "media": media}


def _embed(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
