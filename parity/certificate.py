"""The committed sensitivity certificate: may a verdict rest on it? Nothing is run here; `parity.certify` makes it."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.folders import ROOT

CERTIFICATE = ROOT / "parity" / "certificate.json"
SCHEMA = 1
RENEW = "run `make certify`"
CAUGHT = 0.95  # of the museum's mistakes, for a verdict to rest on the harness
FAULTS = ROOT / "parity" / "faults" / "faults.toml"

# What decides whether a mistake is seen. Pages, verbs, worlds, the fidelity gate and the explanations of findings do not.
HARNESS: tuple[str, ...] = (
    "parity/align.py", "parity/bounds.py", "parity/cases.py", "parity/certify.py", "parity/compare.py", "parity/gate.py",
    "parity/localise.py", "parity/matrix.py", "parity/measure_case.py", "parity/metrics.py", "parity/precision.py",
    "parity/sites.py", "parity/taps.py", "parity/trace.py", "parity/floors.toml", "parity/checks/*.py", "parity/faults/*.py",
    "parity/faults/*.toml", "parity/capture/functions.py", "parity/capture/native.py", "parity/capture/reference.py",
    "parity/capture/replay.py", "parity/capture/tree.py",
)  # fmt: skip


def named_certificate() -> Path:
    """`LTX_PARITY_CERTIFICATE`, else the committed one; wherever it lies, it must hold for this harness."""
    return Path(os.environ.get("LTX_PARITY_CERTIFICATE") or CERTIFICATE)


def harness_code(root: Path = ROOT) -> str:
    """SHA-256 over the files of `HARNESS` and the limits in `policy.toml` that tensors are judged by."""
    return hashlib.sha256(json.dumps(harness_files(root), sort_keys=True).encode()).hexdigest()


def harness_files(root: Path = ROOT) -> dict[str, str]:
    """SHA-256 by file; the tensor limits are one entry, because the rest of the policy judges something else."""
    paths = {path for pattern in HARNESS for path in root.glob(pattern) if path.is_file()}
    found = {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}
    limits = tomllib.loads((root / "parity" / "policy.toml").read_text(encoding="utf-8")).get("tensors", {})
    found["parity/policy.toml [tensors]"] = hashlib.sha256(json.dumps(limits, sort_keys=True).encode()).hexdigest()
    return found


def museum() -> set[str]:
    """The faults that a certificate has to answer for."""
    return set(tomllib.loads(FAULTS.read_text(encoding="utf-8")))


def certificate_problem(path: Path | None = None) -> str:
    """Why a verdict may not rest on this certificate; empty when it may."""
    path = path or named_certificate()
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
        rows: dict[str, Mapping[str, Any]] = {str(row["id"]): row for row in certificate["faults"]}
        blamed = sorted(id for id, row in rows.items() if row["effect"] == "none" and row["verdict"] == "fail")
    except OSError:
        return f"there is no sensitivity certificate at {shown}; {RENEW}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{shown} is no certificate ({error!r}); {RENEW}"
    if certificate.get("schema") != SCHEMA or certificate.get("code") != harness_code():
        return f"the sensitivity certificate is older than the harness ({_changed(certificate)}); {RENEW}"
    missing = sorted(museum() - set(rows))
    if missing:
        return f"the sensitivity certificate lacks {len(missing)} faults, first {missing[0]}; {RENEW}"
    mistakes = [row for row in rows.values() if row["effect"] != "none"]
    caught = sum(row["verdict"] != "pass" for row in mistakes)
    if caught < CAUGHT * len(mistakes):
        return (
            f"the sensitivity certificate shows a harness that sees {caught} of {len(mistakes)} mistakes, expected {CAUGHT:.0%}"
        )
    if blamed:
        return f"the sensitivity certificate shows harmless differences flagged: {', '.join(blamed)}"
    return ""


def _changed(certificate: Mapping[str, Any]) -> str:
    then, now = certificate.get("files"), harness_files()
    if not isinstance(then, Mapping):
        return "it does not say of which files"
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    return f"{len(names)} files changed, first {names[0]}" if names else "another schema"


def certificate_summary(path: Path | None = None) -> dict[str, Any] | None:
    """The counts and rows of a certificate that holds, as the page takes them; None when it does not."""
    path = path or named_certificate()
    if certificate_problem(path):
        return None
    certificate = json.loads(path.read_text(encoding="utf-8"))
    titles = {id: str(fault.get("title", "")) for id, fault in tomllib.loads(FAULTS.read_text(encoding="utf-8")).items()}
    rows = [{**row, "caught": row["verdict"] != "pass"} for row in certificate["faults"] if row["effect"] != "none"]
    controls = [row for row in certificate["faults"] if row["effect"] == "none" and row["id"] != "healthy"]
    return {
        "faults": len(rows),
        "caught": sum(row["caught"] for row in rows),
        "controls": len(controls),
        "false_alarms": sum(row["verdict"] == "fail" for row in controls),
        "rows": [
            {"title": titles.get(row["id"], "")}
            | {name: row.get(name) for name in ("id", "component", "caught", "site", "margin", "hypothesis")}
            for row in rows
        ],
    }
