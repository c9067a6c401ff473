"""What a run's results say beside what was measured: which engine serves now, and which case brings which ability."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx_native import verdict as verdicts
from parity.gate import Judgement


def engine_now(verdict: Path, judgement: Judgement, fingerprints: Mapping[str, str]) -> dict[str, str]:
    """The engine that dispatch uses once this run's verdict stands at ``verdict``, and why.

    A run that does not write the verdict which dispatch reads puts nothing in force, whatever it found.
    """
    last = verdicts.ROOT / "reports" / "verdict.json"
    ours = verdict.resolve() == last.resolve() and not os.environ.get("LTX_PARITY_VERDICT")
    if ours or verdict.resolve() == verdicts.default_path().resolve():
        if judgement.verdict == "pass":
            return {"engine": "native", "reason": "this run's verdict is the one dispatch reads, and it is pass"}
        return {"engine": "bridge", "reason": f"this run's verdict is the one dispatch reads, and it is {judgement.verdict}"}
    read = verdicts.load_verdict()
    usable, reasons = verdicts.judge(read, fingerprints)
    name = read.path.relative_to(verdicts.ROOT) if read.path.is_relative_to(verdicts.ROOT) else read.path.name
    if usable:
        return {"engine": "native", "reason": f"dispatch reads {name}, which is pass; promoting this run replaces it"}
    if not read.path.is_file():
        return {
            "engine": "bridge",
            "reason": f"dispatch reads {name}, and there is none; `parity gate --promote` makes this one it",
        }
    reason = reasons[0].replace(str(read.path), str(name))
    return {"engine": "bridge", "reason": f"dispatch reads {name}, which does not hold: {reason}"}


def abilities() -> list[dict[str, Any]]:
    """One row for each ability of the harness, with the cases and checks of the matrix that exercise it."""
    from parity.matrix import ABILITIES, covered

    return [{"code": code, "ability": ABILITIES[code], "by": names} for code, names in covered().items()]
