"""Known departures of the external CLI from the official code: data that excuses a site, for the versions it was seen on."""

from __future__ import annotations

import fnmatch
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reference_bridge.surface import parse_version

DEPARTURES = Path(__file__).with_name("departures.toml")
UNLISTED = "UNLISTED"
EXPIRED = "EXPIRED"


@dataclass(frozen=True)
class Departure:
    """A known departure of the CLI: where it begins, since and up to which version it was seen, why, and the proof.

    `correction` takes it away from the CLI, `imitation` gives it to native; both in memory and on demand. A `benign` one is
    the same number in another place.
    """

    name: str
    site: str
    since: str
    expires: str
    what: str
    official: str
    evidence: str
    correction: str = ""
    imitation: bool = False
    benign: bool = False

    def holds_for(self, version: str | None) -> bool:
        """Whether it was seen on this version of the CLI. One that does not say its version is excused nothing."""
        asked, since, expires = (parse_version(text or "") for text in (version, self.since, self.expires))
        return asked is not None and since is not None and expires is not None and since <= asked <= expires


def read_departures(path: Path = DEPARTURES) -> tuple[Departure, ...]:
    with path.open("rb") as file:
        return tuple(Departure(**entry) for entry in tomllib.load(file)["departure"])


def known(departures: Sequence[Departure], site: str, leaf: str, version: str | None) -> Departure | None:
    """The listed departure that begins at this site, or at this leaf of it (`site:leaf`); one that holds comes first."""
    names = (f"{site}:{leaf}", site)
    found = [d for d in departures if any(fnmatch.fnmatchcase(name, p) for p in d.site.split("|") for name in names)]
    return next((d for d in found if d.holds_for(version)), found[0] if found else None)


def excuse(found: Departure | None, version: str | None) -> str:
    """The name of a departure that holds for this version; otherwise a word that excuses nothing."""
    if found is None:
        return UNLISTED
    return found.name if found.holds_for(version) else f"{EXPIRED} {found.name}"


def is_excuse(departure: str) -> bool:
    return not departure.startswith((UNLISTED, EXPIRED))


def for_report(measured: Path | None = None) -> dict[str, Any]:
    """What the report says of the CLI: every listed departure, and what the last arbitration found of it, if there is one.

    `measured` is the `arbitration.json` of a run. `cli` is the version that was arbitrated, `at` the largest distance of the
    CLI from the official code where the departure begins (None: not measured, or it did not begin anywhere).
    """
    listed = [asdict(departure) for departure in read_departures()]
    found: Mapping[str, Any] = {}
    if measured is not None and measured.is_file():
        found = json.loads(measured.read_text(encoding="utf-8"))
    version, largest = found.get("cli"), _largest(found.get("rows", ()))
    rows = [
        {**entry, "at": largest.pop(entry["name"], None), "holds": Departure(**entry).holds_for(version) if version else None}
        for entry in listed
    ]
    return {"cli": version, "rows": rows, "not_excused": sorted(largest)}


def _largest(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """By what each onset was called, the largest `cli_official` there; None when shapes did not meet."""
    largest: dict[str, float | None] = {}
    for row in rows:
        if row["onset"]:
            name, value = row["departure"], row["cli_official"]
            before = largest.get(name)
            largest[name] = value if before is None or (value is not None and value > before) else before
    return largest
