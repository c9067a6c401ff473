"""Does a verdict still hold? What changed since it was given, file by file. Nothing is run or measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltx_native import verdict as verdicts
from parity import provenance

CODE = ("ltx_native",)


@dataclass(frozen=True)
class GateCheck:
    """``holds`` is true only for a whole, unaltered `pass` whose fingerprints are those of now.

    ``changed`` lists files of the native code that are not what they were; ``unknown`` says why the list may be short.
    """

    path: Path
    verdict: str
    holds: bool
    reasons: tuple[str, ...]
    changed: tuple[str, ...] = ()
    unknown: str = ""

    @property
    def exit_status(self) -> int:
        """0 holds, 1 does not, 3 when there is no verdict that could be judged or it was inconclusive itself."""
        if self.holds:
            return 0
        return 3 if self.verdict == "inconclusive" else 1

    @property
    def next_step(self) -> str:
        return "ltx-native generate" if self.holds else maker(self.reasons) or "parity compare"

    def lines(self) -> list[str]:
        """What to print, the next command last."""
        if self.holds:
            return [f"{self.path}: {self.verdict}, and nothing changed since", f"next: {self.next_step}"]
        found = [f"{self.path}: the verdict does not hold", *(f"  {reason}" for reason in self.reasons)]
        if self.changed:
            found += ["changed since the verdict:", *(f"  {name}" for name in self.changed)]
        if self.unknown:
            found.append(self.unknown)
        return [*found, f"next: {self.next_step}"]


def maker(reasons: Sequence[str]) -> str | None:
    """The command that makes the evidence which these reasons say is missing."""
    makers = ("make reference", "make certify", "parity fidelity")
    return next((command for command in makers if any(command in reason for reason in reasons)), None)


def code_files() -> dict[str, str]:
    """sha256 of every file behind the fingerprint of the native code; kept in a verdict's evidence as `files`."""
    return {
        path.relative_to(verdicts.ROOT).as_posix(): verdicts.file_sha256(path)
        for folder in CODE
        for path in sorted((verdicts.ROOT / folder).rglob("*.py"))
        if "__pycache__" not in path.parts
    }


def check(path: Path | None = None, checkpoint: str | None = None) -> GateCheck:
    """Compare a verdict with now. ``checkpoint`` is the fingerprint of the checkpoint at hand.

    Without a checkpoint its fingerprint cannot be compared, and the verdict is held to the one it was given for: a change of
    weights is then seen where they are loaded, by dispatch. Never raises on a bad verdict file: that is a reason.
    """
    found = verdicts.load_verdict(path)
    now = verdicts.current_fingerprints(checkpoint or str(found.fingerprints.get("checkpoint") or ""))
    holds, reasons = verdicts.judge(found, now)
    changed: tuple[str, ...] = ()
    unknown = ""
    if not found.problem and found.fingerprints.get("native_code") != now["native_code"]:
        changed, unknown = _changed(found)
    return GateCheck(found.path, found.verdict, holds, reasons, changed, unknown)


def _changed(found: verdicts.Verdict) -> tuple[tuple[str, ...], str]:
    then = found.evidence.get("files")
    if isinstance(then, Mapping):
        now = code_files()
        names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        return tuple(f"{name} ({_how(name, then, now)})" for name in names), ""
    commit = _commit(found.path)
    if commit is None:
        return (), "the verdict names neither its files nor its commit, so the changed files cannot be listed"
    names = [name for folder in CODE for name in provenance.changed_since(commit, folder) if name.endswith(".py")]
    if not names:
        return (), f"the verdict was given on uncommitted changes to {commit[:12]}, or that commit is not in this clone"
    return tuple(sorted(names)), ""


def _how(name: str, then: Mapping[str, str], now: Mapping[str, str]) -> str:
    return "new" if name not in then else "removed" if name not in now else "edited"


def _commit(path: Path) -> str | None:
    try:
        commit = json.loads(path.read_text(encoding="utf-8")).get("commit")
    except (OSError, ValueError):
        return None
    return str(commit) if commit else None
