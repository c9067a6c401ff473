"""The sensitivity certificate: every known mistake switched on in turn, and what the harness says of it.

    python -m parity.certify [--output certificate.json] [--only ID ...] [--fresh]

An exam looks at the native port by the reference's captures and facts and stops at the first thing that is wrong; it does
not know which fault is on. Finished faults are kept, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parity.certificate import CERTIFICATE, SCHEMA, harness_code, harness_files

# Names the cause of a finding, or gives None: `parity.explain.explain`. (exam, problem) -> explanation. It knows no fault.
Explain = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Outcome:
    """What an exam said under one fault. ``verdict``: pass, fail or inconclusive."""

    id: str
    component: str
    effect: str
    verdict: str
    check: str = ""
    site: str = ""
    found: str = ""
    sentence: str = ""
    error: float | None = None
    margin: float | None = None
    hypothesis: str | None = None
    seconds: float = 0.0
    cause: str = ""  # the hypothesis found, machine-readable
    expected_cause: str = ""  # the right ones, "|" between; empty where no hypothesis is of the mistake's kind
    removed: float | None = None  # share of the error that the hypothesis accounts for

    @property
    def control(self) -> bool:
        return self.effect == "none"

    @property
    def caught(self) -> bool:
        return self.verdict != "pass"

    @property
    def right(self) -> bool:
        """The component is named, or the control is left alone."""
        return not self.flagged if self.control else self.caught and self.found == self.component

    @property
    def cause_right(self) -> bool:
        """The mistake's own cause is named."""
        return bool(self.cause) and self.cause in self.expected_cause.split("|")

    @property
    def flagged(self) -> bool:
        """A control that was blamed on the port."""
        return self.control and self.verdict == "fail"


def checks() -> Sequence[tuple[str, str, Any]]:
    """(name, component for an error without a place, check), cheapest and most basic first."""
    from parity.checks import adapters, configs, export, functions, playback, replays, runtime

    return (
        ("configs", "config", configs.configs),
        ("weights", "transformer", configs.weights),
        ("playback", "state", playback.playback),
        ("prompts", "tokenizer", functions.prompts),
        ("conditionings", "state", functions.conditionings),
        ("guiding", "guidance", functions.guiding),
        ("blending", "post_process", functions.blending),
        ("second_order", "sampler", functions.second_order),
        ("sources", "video_encoder", functions.sources),
        ("wiring", "transformer", functions.wiring),
        ("quantised", "transformer", configs.quantised),
        ("long", "transformer", runtime.long),
        ("norms", "transformer", runtime.norms),
        ("upsamplers", "upsampler", functions.upsamplers),
        ("fusion", "transformer", adapters.fusion),
        ("export", "export", export.export),
        ("replays", "transformer", replays.replays),
        ("batches", "transformer", runtime.batches),
        ("passes", "transformer", runtime.passes),
        ("tiles", "video_decoder", functions.tiles),
        ("dtypes", "transformer", runtime.dtypes),
        ("every_site", "transformer", replays.every_site),
    )


def examine(evidence: Any, fault: Any | None, explain: Explain | None = None, only: Iterable[str] = ()) -> Outcome:
    """One exam: the first problem that any check finds, under whatever fault is on."""
    from parity.checks.exam import Exam, run_check

    start = time.perf_counter()
    exam = Exam(evidence)
    id, component, effect = (fault.id, fault.component, fault.effect) if fault else ("healthy", "", "none")
    wanted = set(only)
    for name, place, check in checks():
        if wanted and name not in wanted:
            continue
        problem = next(run_check(name, check, exam, place), None)
        if problem is not None:
            explained = explain(exam, problem) if explain else None
            margin = problem.margin if problem.margin != float("inf") else None
            error = problem.error if problem.error != float("inf") else None
            return Outcome(
                id=id,
                component=component,
                effect=effect,
                verdict="fail",
                check=problem.check,
                site=problem.site,
                found=problem.component,
                sentence=portable(problem.sentence),
                error=error,
                margin=margin,
                hypothesis=portable(explained.sentence) if explained else None,
                seconds=time.perf_counter() - start,
                cause=explained.cause if explained else "",
                expected_cause=fault.cause if fault else "",
                removed=explained.removed if explained else None,
            )
    return Outcome(id, component, effect, "pass", seconds=time.perf_counter() - start)


def portable(text: str) -> str:
    """A sentence without this machine's folders: certificates are read elsewhere."""
    return re.sub(r"(?<![\w.])/(?:[^\s/:]+/)+", "", text)


def examine_varying_reference(evidence: Any, fault: Any) -> Outcome:
    """The control in which the reference differs from run to run: neither pass nor fail can be said."""
    from parity.checks.repeat import jittered, repeat_of
    from parity.gate import load_policy

    start = time.perf_counter()
    trace = evidence.traces[evidence.entries[0].case.name]
    judgement = repeat_of(jittered(trace, 1), jittered(trace, 2)).judgement(load_policy().latents)
    sentence = "; ".join(judgement.reasons)
    seconds = time.perf_counter() - start
    return Outcome(fault.id, fault.component, fault.effect, judgement.verdict, "repeat", sentence=sentence, seconds=seconds)


def certify(
    output: Path = CERTIFICATE,
    only: Sequence[str] = (),
    fresh: bool = False,
    explain: Explain | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run all faults (or some), keep what is finished, write the certificate and return it.

    Raises `ReferenceUnavailable` without a reference, and `RuntimeError` when the port without any fault is flagged.
    """
    from parity.capture.reference import ReferenceCache
    from parity.checkpoints import tiny
    from parity.checks.exam import Evidence
    from parity.faults.registry import facts, fault, load
    from parity.folders import cache_folder

    if explain is None:
        from parity.explain import explain as executed

        explain = executed
    code = harness_code()
    faults = load()
    done = {} if fresh else _finished(output, code)
    evidence = Evidence.of(tiny(), ReferenceCache(cache_folder() / "reference"))
    if "healthy" not in done:
        done["healthy"] = examine(evidence, None)
        if done["healthy"].caught:
            raise RuntimeError(f"the port is flagged without any fault: {done['healthy'].sentence}")
    for id in sorted(only or faults):
        if id in done:
            continue
        with fault(id) as planted:
            done[id] = examine_varying_reference(evidence, planted) if id == "QNT-08" else examine(evidence, planted, explain)
        _write(output, code, done, sorted(faults), facts("unrealisable"))
        if not quiet:
            print(line(done[id]), file=sys.stderr, flush=True)
    return _write(output, code, done, sorted(faults), facts("unrealisable"))


def _finished(output: Path, code: str) -> dict[str, Outcome]:
    try:
        certificate = json.loads(output.read_text(encoding="utf-8"))
        rows = certificate["faults"] if certificate["code"] == code else []
    except (OSError, ValueError, KeyError):
        return {}
    return {row["id"]: Outcome(**row) for row in rows}


def _write(
    output: Path, code: str, done: Mapping[str, Outcome], expected: Sequence[str], unrealisable: Mapping[str, Any]
) -> dict[str, Any]:
    from parity.results import write_json

    certificate = {
        "schema": SCHEMA,
        "code": code,
        "files": harness_files(),
        "expected": [*expected],
        "unrealisable": {id: row["reason"] for id, row in unrealisable.items()},
        "summary": summary(done.values()),
        "faults": [asdict(done[id]) for id in sorted(done)],
    }
    write_json(output, certificate, indent=1)
    return certificate


def summary(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Counts over the faults, over the controls, and by component."""
    rows = [outcome for outcome in outcomes if outcome.id != "healthy"]
    faults = [outcome for outcome in rows if not outcome.control]
    components = sorted({outcome.component for outcome in faults})
    times = [outcome.seconds for outcome in rows]
    return {
        "faults": len(faults),
        "caught": sum(outcome.caught for outcome in faults),
        "right_component": sum(outcome.right for outcome in faults),
        "hypotheses": sum(outcome.hypothesis is not None for outcome in faults),
        "cause_kinds": sum(bool(outcome.expected_cause) for outcome in faults),
        "cause_right": sum(outcome.cause_right for outcome in faults),
        "controls": sum(outcome.control for outcome in rows),
        "controls_flagged": sum(outcome.flagged for outcome in rows),
        "seconds_total": sum(times),
        "seconds_median": statistics.median(times) if times else 0.0,
        "components": {
            name: {
                "faults": sum(o.component == name for o in faults),
                "caught": sum(o.component == name and o.caught for o in faults),
                "right": sum(o.component == name and o.right for o in faults),
                "cause_kinds": sum(o.component == name and bool(o.expected_cause) for o in faults),
                "cause_right": sum(o.component == name and o.cause_right for o in faults),
            }
            for name in components
        },
    }


def line(outcome: Outcome) -> str:
    """One row of the table."""
    said = "control" if outcome.control and not outcome.flagged else "caught" if outcome.caught else "MISSED"
    said = "FLAGGED" if outcome.flagged else said
    place = f"{outcome.found} ({'right' if outcome.right else f'is {outcome.component}'})" if outcome.caught else ""
    margin = f"{outcome.margin:.2g} x" if outcome.margin else ""
    judged = " (right)" if outcome.cause_right else f" (is {outcome.expected_cause})" if outcome.expected_cause else ""
    cause = f"  because {outcome.cause or '?'}{judged}" if outcome.caught and not outcome.control else ""
    return f"{outcome.id:8} {said:8} {outcome.check:14} {place:34} {margin:>9} {outcome.seconds:6.1f} s  {outcome.site}{cause}"


def table(certificate: Mapping[str, Any]) -> str:
    """The certificate as text: one line a fault, then the counts."""
    rows = [line(Outcome(**row)) for row in certificate["faults"] if row["id"] != "healthy"]
    rows += [f"{id:8} not here  {reason}" for id, reason in certificate["unrealisable"].items()]
    total = certificate["summary"]
    rows += [
        f"{name:22} {c['caught']:3}/{c['faults']:<3} caught, {c['right']:3} placed, "
        f"{c['cause_right']:3} of {c['cause_kinds']:3} explained"
        for name, c in total["components"].items()
    ]
    rows.append(
        f"{total['caught']} of {total['faults']} faults caught, {total['right_component']} in the right component, "
        f"{total['cause_right']} of {total['cause_kinds']} with the right cause where a hypothesis is of their kind, "
        f"{total['controls_flagged']} of {total['controls']} controls flagged, {len(certificate['unrealisable'])} cannot exist "
        f"here; {total['seconds_total']:.0f} s, median {total['seconds_median']:.1f} s"
    )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=CERTIFICATE)
    parser.add_argument("--only", nargs="+", default=[], metavar="ID")
    parser.add_argument("--fresh", action="store_true", help="forget finished faults")
    args = parser.parse_args(argv)
    certificate = certify(args.output, args.only, args.fresh)
    print(table(certificate))
    total = certificate["summary"]
    return 0 if total["caught"] == total["faults"] and not total["controls_flagged"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
