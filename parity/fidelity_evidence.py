"""A fidelity result as a sealed file, and what a verdict on tensors makes of it.

Which checkpoints need one says `policy.toml` (`[fidelity] needed`). Where one is needed and none is there that was made with
the code, checkpoint, reference, MLX and policy of now, the joint verdict is inconclusive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from parity.fidelity_policy import FidelityPolicy
from parity.fidelity_shown import Shown
from parity.fidelity_store import write_whole
from parity.gate import ORDER, Judgement
from parity.trace import file_sha256
from parity.world.drawn import is_drawn

ROOT: Final = Path(__file__).resolve().parents[1]
OUTPUT: Final = ROOT / "reports" / "fidelity"
RESULT: Final = "fidelity.json"
PROMOTED: Final = ROOT / "reports" / "promoted" / RESULT
RECORDED: Final = Path(__file__).with_name("world") / "recorded_scores.json"  # what `parity.simulate` replays
NEXT: Final = "next: parity fidelity"


@dataclass(frozen=True)
class Evidence:
    """What fidelity adds to a verdict. `rests_on` says in words on what; `content` is the result that was found, or nothing."""

    judgement: Judgement
    rests_on: tuple[str, ...]
    content: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)  # name and sha256 of the file

    def with_shown(self, shown: Shown | None) -> Evidence:
        """With the prompts that this run made itself."""
        if shown is None:
            return self
        verdict = {"verdict": self.judgement.verdict, "reasons": self.judgement.reasons}
        content = {**(self.content or verdict), "shown": shown.rows}
        return replace(
            self, judgement=self.judgement.join(shown.judgement), rests_on=(*self.rests_on, shown.rests_on), content=content
        )


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result (`FidelityResult.as_dict`), sealed by a digest over everything in it, whole or not at all."""
    sealed = {**content, "digest": _digest(content)}
    write_whole(path, lambda partial: Path(partial).write_text(json.dumps(sealed, indent=1)))


def open_result(path: Path, fingerprints: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """(the result, why it cannot be believed or ""). `fingerprints` names what must be unchanged since it was made."""
    try:
        content = json.loads(path.read_text())
        made_with, verdict, _ = content["fingerprints"], content["verdict"], tuple(content["reasons"])
        whole = content.pop("digest") == _digest(content) and verdict in ORDER
        stale = [name for name, value in fingerprints.items() if made_with.get(name) != value]
    except FileNotFoundError:
        return {}, f"no result at {path.name}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"no usable result at {path.name}: {error!r}"
    if not whole:
        return {}, f"{path.name} was altered: its digest does not match"
    return content, f"{path.name} is stale: another {', '.join(stale)}" if stale else ""


def read_result(path: Path, fingerprints: Mapping[str, str]) -> Judgement:
    """The verdict of an earlier fidelity run. Missing, unreadable, altered or stale: inconclusive, with the reason."""
    content, problem = open_result(path, fingerprints)
    if problem:
        return Judgement("inconclusive", (f"fidelity: {problem}",))
    return Judgement(content["verdict"], tuple(f"fidelity: {reason}" for reason in content["reasons"]))


def evidence_for(
    model: Path, fingerprints: Mapping[str, str], policy: FidelityPolicy, places: Sequence[Path] = (OUTPUT / RESULT, PROMOTED)
) -> Evidence:
    """The first current result in `places` (this machine's last run, then the committed one), or why there is none.

    `model` is the checkpoint's model file, `fingerprints` those of now (`ltx_native.verdict.current_fingerprints`).
    """
    if policy.needed == "never" or (policy.needed == "trained" and is_drawn(model)):
        why = "the policy asks for none" if policy.needed == "never" else "drawn weights follow no prompt"
        return Evidence(Judgement("pass"), (f"no prompt fidelity: {why}",))
    problems = []
    for place in places:
        content, problem = open_result(place, fingerprints)
        if not problem:
            source = {"name": place.name, "sha256": file_sha256(place)}
            return Evidence(read_result(place, fingerprints), (_words(content),), content, source)
        problems.append(problem)
    # A file that is there tells more than one that is not.
    told = next((problem for problem in problems if not problem.startswith("no result")), "none was recorded")
    return Evidence(Judgement("inconclusive", (f"fidelity: {told}; {NEXT}",)), ("no prompt fidelity",))


def promote(result: Path, rows: Sequence[Mapping[str, Any]], to: Path = PROMOTED, scores: Path = RECORDED) -> None:
    """Put a result where it is committed and found on every machine; `rows`, where given, become the scores that
    `parity.simulate` replays (embeddings to four digits)."""
    content = result.read_bytes()
    write_whole(to, lambda partial: Path(partial).write_bytes(content))
    if rows:
        text = "[\n" + ",\n".join(json.dumps(_rounded(row), separators=(",", ":")) for row in rows) + "\n]\n"
        write_whole(scores, lambda partial: Path(partial).write_text(text))


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    def short(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {**value, "embedding": [round(number, 4) for number in value["embedding"]]}

    return {name: short(value) for name, value in row.items()}


def _words(content: Mapping[str, Any]) -> str:
    asked = content.get("settings", {})
    return (
        f"prompt fidelity {content['verdict']} after {content.get('seen', 0)} of {content.get('size', 0)} prompts of suite "
        f"{asked.get('suite', '?')}, native in {asked.get('dtype', '?')}"
    )


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
