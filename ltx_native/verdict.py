"""Whether the native engine may serve: reads ``verdict.json`` and believes it only when all of it holds.

Anything missing, unreadable, altered, stale or short of `pass` makes the bridge serve, and every reason is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = 1
VERDICTS = ("pass", "fail", "inconclusive")
#: What must be unchanged since the evidence was taken.
FINGERPRINTS = ("native_code", "checkpoint", "reference", "mlx", "policy")
ABSENT = "absent"

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent


@dataclass(frozen=True)
class Verdict:
    """What ``verdict.json`` says. ``problem`` is set when it cannot be read or is not what was written."""

    path: Path
    problem: str = ""
    verdict: str = "inconclusive"
    reasons: tuple[str, ...] = ()
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)


def default_path() -> Path:
    """``LTX_PARITY_VERDICT``, else the project's last verdict, else the promoted one."""
    named = os.environ.get("LTX_PARITY_VERDICT")
    if named:
        return Path(named)
    last, promoted = ROOT / "reports" / "verdict.json", ROOT / "reports" / "promoted" / "verdict.json"
    return promoted if promoted.is_file() and not last.is_file() else last


def load_verdict(path: Path | None = None) -> Verdict:
    """Read a verdict; never raises: what is wrong with it becomes ``problem``."""
    path = Path(path) if path is not None else default_path()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Verdict(path, f"there is no verdict at {path}")
    except (OSError, ValueError) as error:
        return Verdict(path, f"the verdict at {path} cannot be read: {error}")
    problem = _problem(content)
    if problem:
        return Verdict(path, f"the verdict at {path} {problem}")
    return Verdict(path, "", content["verdict"], tuple(content["reasons"]), content["fingerprints"], content["evidence"])


def _problem(content: Any) -> str:
    if not isinstance(content, dict):
        return "is not a JSON object"
    if content.get("schema") != SCHEMA:
        return f"has schema {content.get('schema')!r}, expected {SCHEMA}"
    if content.get("digest") != digest(content):
        return "was altered: its digest does not match its content"
    if content.get("verdict") not in VERDICTS:
        return f"says {content.get('verdict')!r}, expected one of {', '.join(VERDICTS)}"
    for name, kind in (("reasons", list), ("fingerprints", dict), ("evidence", dict)):
        if not isinstance(content.get(name), kind):
            return f"has no usable field {name!r}"
    return ""


def digest(content: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of everything but the digest itself."""
    body = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def judge(verdict: Verdict, fingerprints: Mapping[str, str]) -> tuple[bool, tuple[str, ...]]:
    """(may the native engine serve, why not). ``fingerprints`` are those of now, one for each of ``FINGERPRINTS``."""
    if verdict.problem:
        return False, (verdict.problem,)
    reasons: list[str] = []
    if verdict.verdict != "pass":
        reasons += [f"the verdict is {verdict.verdict}", *(str(reason) for reason in verdict.reasons)]
    for name in FINGERPRINTS:
        then, now = verdict.fingerprints.get(name), fingerprints.get(name)
        if not then or then == ABSENT:
            reasons.append(f"the verdict has no fingerprint of {_LABELS[name]}")
        elif not now or then != now:
            reasons.append(f"{_LABELS[name]} changed since the verdict ({_short(then)} then, {_short(now)} now)")
    reasons += _evidence_problems(verdict)
    return not reasons, tuple(reasons)


_LABELS = {
    "native_code": "the native code",
    "checkpoint": "the checkpoint",
    "reference": "the reference",
    "mlx": "MLX",
    "policy": "the parity policy",
}


def _short(value: object) -> str:
    return str(value)[:12] if value else "unknown"


def _evidence_problems(verdict: Verdict) -> list[str]:
    compared = verdict.evidence.get("sites_compared")
    if not isinstance(compared, int) or compared <= 0:
        return ["the verdict rests on no compared sites"]
    results = verdict.evidence.get("results")
    if not isinstance(results, Mapping) or not results.get("path") or not results.get("sha256"):
        return ["the verdict names no results"]
    path = verdict.path.parent / str(results["path"])
    if not path.is_file():
        return [f"the results behind the verdict are gone: {path}"]
    if file_sha256(path) != results["sha256"]:
        return [f"the results behind the verdict were altered: {path}"]
    return []


def current_fingerprints(checkpoint: str) -> dict[str, str]:
    """The fingerprints of now; ``checkpoint`` is ``Checkpoint.fingerprint()``."""
    return {
        "native_code": native_code_fingerprint(),
        "checkpoint": checkpoint,
        "reference": reference_fingerprint(),
        "mlx": mlx_version(),
        "policy": policy_fingerprint(),
    }


def native_code_fingerprint() -> str:
    """sha256 over every Python file of the native engine."""
    return _files_sha256(PACKAGE, PACKAGE.rglob("*.py"))


def reference_fingerprint() -> str:
    """sha256 over the official adapter and the probe; ``absent`` without the bridge."""
    bridge = ROOT / "reference_bridge"
    adapter = bridge / "adapters" / "official"
    files = [path for path in adapter.rglob("*.py") if path.is_file()] if adapter.is_dir() else []
    return _files_sha256(bridge, [*files, *bridge.glob("probe*.py")])


def policy_fingerprint() -> str:
    """sha256 of the rules by which parity judges; ``absent`` where the harness is not installed."""
    path = ROOT / "parity" / "policy.toml"
    return file_sha256(path) if path.is_file() else ABSENT


def mlx_version() -> str:
    try:
        return metadata.version("mlx")
    except metadata.PackageNotFoundError:
        return ABSENT


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_sha256(root: Path, files: Iterable[Path]) -> str:
    named = sorted((path.relative_to(root).as_posix(), path) for path in files if "__pycache__" not in path.parts)
    if not named:
        return ABSENT
    total = hashlib.sha256()
    for name, path in named:
        total.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()
