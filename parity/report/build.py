"""Turn `results.json` and the media beside it into one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from parity.files import write_text
from parity.report import media
from parity.report.fidelity_view import fidelity_view
from parity.report.growth import growth
from parity.report.media_view import media_view
from parity.report.model_map import model_map
from parity.report.plots import number
from parity.report.rows import Rows, RowsError, script_json
from parity.report.site_pages import site_page
from parity.report.summary import cards, engine_in_force, headline, ledger_words, reproduce

MEDIA_BYTES = 7_500_000  # of all frames on the page
LISTED = 60  # rows in the table that needs no script


class ReportError(ValueError):
    """Results from which no page can be made."""


def build_report(results_path: Path, output: Path | None = None) -> Path:
    """Write `report.html` beside the results (or to ``output``) and return its path.

    Raises `ReportError` when the results cannot be read or lack what a page needs.
    """
    output = output or results_path.with_name("report.html")
    write_text(output, render(read_results(results_path), results_path.parent))
    return output


def read_results(path: Path) -> dict[str, Any]:
    """The content of results.json. Raises `ReportError` when it is not one."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(
            f"{path}: no readable results ({error}); expected a results.json; run the comparison again"
        ) from error
    missing = [
        name for name in ("verdict", "reasons", "cases", "environment") if not isinstance(results, dict) or name not in results
    ]
    if missing:
        raise ReportError(f"{path}: results without {', '.join(missing)}; expected a results.json of schema 1")
    return dict(results)


def render(results: Mapping[str, Any], media_folder: Path) -> str:
    """The page's HTML: every text is escaped, everything it shows is inside."""
    environment = template_environment()
    try:
        tables = [Rows.of(case) for case in results["cases"]]
        budget = MEDIA_BYTES // max(1, 3 * len(tables))
        cases = [
            _case(i, case, rows, media_folder, results, budget)
            for i, (case, rows) in enumerate(zip(results["cases"], tables, strict=True))
        ]
    except (RowsError, KeyError, TypeError, IndexError) as error:
        raise ReportError(f"results.json lacks what the page needs: {error!r}; run the comparison again") from error
    engine, reason = engine_in_force(results)
    fidelity = results.get("fidelity")
    return environment.get_template("report.html.j2").render(
        results=results,
        headline=headline(results),
        engine=engine,
        engine_reason=reason,
        cards=cards(results, tables),
        cases=cases,
        guilty=next((case for case in cases if case["guilty"]), None),
        fidelity=fidelity_view(fidelity, media_folder) if fidelity else None,
        certificate=results.get("certificate"),
        departures=results.get("departures"),
        abilities=results.get("abilities"),
        provenance=[(case["name"], flat(case["provenance"])) for case in results["cases"]],
        environment=flat(results["environment"]),
        policy=flat(results.get("policy", {})),
        script_data=Markup("[" + ",".join(rows.pack() for rows in tables) + "]"),
        script_cases=Markup(script_json([_script_case(case) for case in cases])),
        style=_asset("report.css"),
        script=_asset("report.js"),
    )


def template_environment() -> Environment:
    """Jinja2 with everything escaped and unknown names refused."""
    environment = Environment(
        loader=PackageLoader("parity.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment


def _asset(name: str) -> Markup:
    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))


def _case(
    index: int, case: Mapping[str, Any], rows: Rows, folder: Path, results: Mapping[str, Any], budget: int
) -> dict[str, Any]:
    name = f"c{index}"
    pages = [site_page(detail, rows, f"{name}-d{detail['row']}") for detail in case.get("details", ())]
    limit = (results.get("policy") or {}).get("latents")
    worst = [int(i) for i in rows.order[:LISTED]]
    return {
        "index": index,
        "case": case,
        "rows": rows,
        "count": len(rows),
        "failing": int(rows.failed.sum()),
        "request": flat({k: v for k, v in case["request"].items() if k not in ("name", "prompt", "negative_prompt")}),
        "guilty": _guilty(index, case, rows, {page.position for page in pages}),
        "map": model_map(rows, index) if len(rows) else None,
        "growth": growth(rows, case, name, limit if case["dtype"] == "float32" else None) if len(rows) else [],
        "pages": pages,
        "media": media_view(case["media"], folder, name, min(budget, media.SPRITE_BYTES)) if case["media"] else None,
        "worst": [{**rows.row(i), "name": rows.name(i), "where": rows.where(i), "position": i} for i in worst],
    }


def _script_case(case: Mapping[str, Any]) -> dict[str, Any]:
    guilty = case["guilty"]
    known = guilty is not None and guilty["position"] is not None
    return {
        "name": case["case"]["name"],
        "guilty": guilty["position"] if known else None,
        "kind": guilty["finding"]["kind"] if known else "",
        "sentence": guilty["finding"]["sentence"] if known else "",
    }


def _guilty(index: int, case: Mapping[str, Any], rows: Rows, kept: set[int]) -> dict[str, Any] | None:
    """The first guilty site with its row of the ledger."""
    finding = case.get("finding")
    if not finding:
        return None
    key = finding["key"]
    where = rows.find(key["site"], key["stage"], key["step"], key["guidance_pass"], key["call"], finding["output"])
    row = rows.row(where) if where is not None else None
    return {
        "finding": finding,
        "case": case["name"],
        "position": where,
        "row": row,
        "name": rows.name(where) if where is not None else key["site"],
        "where": rows.where(where) if where is not None else "",
        "words": ledger_words(row) if row else "",
        "target": f"detail-{index}-{where}" if where in kept else "guilty",
        "link": f"{index}:{where}",
        "hypotheses": finding.get("hypotheses") or case.get("hypotheses") or [],
        "reproduce": reproduce(case),
    }


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested data as (dotted name, text) pairs."""
    if isinstance(value, Mapping):
        return [pair for key, child in value.items() for pair in flat(child, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, (list, tuple)) and any(isinstance(child, (Mapping, list, tuple)) for child in value):
        return [pair for i, child in enumerate(value) for pair in flat(child, f"{prefix}.{i}")]
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "–" if value is None else str(value)
    return [(prefix, text)]
