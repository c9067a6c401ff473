"""The run as a few lines of Markdown, for the summary of a CI job or a comment on a commit."""

from __future__ import annotations

import re
from pathlib import Path

from parity.report.build import read_results
from parity.report.plots import number
from parity.report.rows import Rows
from parity.report.summary import Results, cards, engine_in_force, headline, reproduce

_MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "none": "–"}
LISTED = 10


def markdown_summary(results: Results) -> str:
    """Verdict, engine, cards, findings with the command that looks closer, and the rows that fail, worst first."""
    tables = [Rows.of(case) for case in results["cases"]]
    engine, reason = engine_in_force(results)
    verdict = str(results["verdict"])
    lines = [
        f"## {_MARKS.get(verdict, '')} Parity: {_plain(verdict)}. {headline(results)}",
        "",
        f"In force: **{_plain(engine)}** ({_plain(reason)})",
        "",
        "| | | |",
        "|---|---|---|",
        *(
            f"| {card.title} | {' '.join(dict.fromkeys((_MARKS[card.state], _plain(card.figure))))} | {_plain(card.label)} |"
            for card in cards(results, tables)
        ),
    ]
    if results["reasons"]:
        lines += ["", *(f"- {_plain(reason)}" for reason in results["reasons"][:LISTED])]
    for case in results["cases"]:
        if case.get("finding"):
            lines += ["", f"Look closer at {_plain(case['name'])}:", "", "```sh", reproduce(case).replace("```", ""), "```"]
    failing = [
        (case, rows, int(i)) for case, rows in zip(results["cases"], tables, strict=True) for i in rows.order if rows.failed[i]
    ]
    if failing:
        lines += ["", "| case | site | where | local | bound | total |", "|---|---|---|--:|--:|--:|"]
        for case, rows, i in failing[:LISTED]:
            row = rows.row(i)
            numbers = " | ".join(number(row[name]) for name in ("local", "bound", "total"))
            lines.append(f"| {_plain(case['name'])} | {_plain(rows.name(i))} | {_plain(rows.where(i))} | {numbers} |")
        if len(failing) > LISTED:
            lines += ["", f"and {len(failing) - LISTED} more in the report."]
    return "\n".join(lines) + "\n"


def summarise_file(results: Path) -> str:
    """The summary of a results.json. Raises `ReportError` when it cannot be read."""
    return markdown_summary(read_results(results))


def _plain(text: object) -> str:
    """Text that Markdown and HTML show as it is."""
    single = re.sub(r"\s+", " ", str(text))
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", single)
