"""`parity VERB …`: compare two implementations of LTX-2.3, judge, report. Status 0 pass, 1 fail, 2 usage, 3 inconclusive."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ltx_native.cli import join_text
from ltx_native.errors import UserError
from parity.checkpoints import cache_folder, named, tiny

STATUS = {"pass": 0, "fail": 1, "inconclusive": 3}
REPORTS = Path("reports")


class UsageError(Exception):
    """Bad input: one message, status 2."""


def main(argv: Sequence[str] | None = None) -> int:
    # MLX latches TF32 at the first matrix product of a process; comparisons in float32 need it off.
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    args = parser().parse_args(join_text(sys.argv[1:] if argv is None else argv))
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except (UsageError, UserError, FileNotFoundError, ValueError) as error:
        print(f"parity {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"parity {args.verb}: stopped; what was finished is kept", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="parity", description=__doc__, allow_abbrev=False)
    verbs = top.add_subparsers(required=True, metavar="VERB", dest="verb")
    for name, (summary, example, build, run) in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        build(verb)
        verb.add_argument("--json", action="store_true", help="machine-readable output")
        verb.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
        verb.set_defaults(run=run)
    return top


def _request_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("-p", "--prompt", help="what both sides are asked for")
    add("-n", "--negative-prompt")
    add("--checkpoint", type=Path, metavar="DIR", help="model, gemma/ and upsampler (default: the made tiny checkpoint)")
    add("-W", "--width", type=int)
    add("-H", "--height", type=int)
    add("-f", "--frames", type=int, help="8k + 1")
    add("--frame-rate", type=float)
    add("--steps", type=int)
    add("--seed", type=int)


def _compare_options(verb: argparse.ArgumentParser) -> None:
    _request_options(verb)
    verb.add_argument("-o", "--output", type=Path, default=REPORTS / "compare", help="folder for results, page and media")
    verb.add_argument("--bfloat16", action="store_true", help="judge every module in bfloat16, too")


def _compare(args: argparse.Namespace) -> int:
    from parity.session import Session

    case = _case(args)
    session = Session(_checkpoint(args), args.output, _cache(), quiet=args.quiet)
    result = session.compare(case)
    if args.bfloat16:
        session.compare_bfloat16(case, (0, case.steps - 1))
    verdict = session.finish()
    found = {
        "verdict": verdict["verdict"],
        "reasons": verdict["reasons"],
        "coverage": result.coverage.sentence() if result.coverage else None,
        "report": str(args.output / "report.html"),
    }
    next_step = f"parity gate --verdict {args.output / 'verdict.json'}" if verdict["verdict"] == "pass" else "see the report"
    _print(args, found, next_step)
    return STATUS[verdict["verdict"]]


def _capture_options(verb: argparse.ArgumentParser) -> None:
    _request_options(verb)
    verb.add_argument("--sites", nargs="+", default=[], metavar="GLOB", help="record these sites only")


def _capture(args: argparse.Namespace) -> int:
    trace, video = _cache().capture(_case(args), _checkpoint(args), args.sites, args.quiet)
    found = {"trace": str(trace.folder), "records": len(trace.records), "video": str(video), "engine": trace.manifest["engine"]}
    _print(args, found, "parity compare")
    return 0


def _report_options(verb: argparse.ArgumentParser) -> None:
    from parity.report_command import add_report_arguments

    add_report_arguments(verb)


def _report(args: argparse.Namespace) -> int:
    from parity.report_command import run_report

    return run_report(args)


def _history_options(verb: argparse.ArgumentParser) -> None:
    from parity.report_command import add_history_arguments

    add_history_arguments(verb)


def _history(args: argparse.Namespace) -> int:
    from parity.report_command import run_history

    return run_history(args)


def _fidelity_options(verb: argparse.ArgumentParser) -> None:
    from parity.fidelity_command import add_arguments

    add_arguments(verb)


def _fidelity(args: argparse.Namespace) -> int:
    from parity.fidelity_command import run

    return run(args)


def _arbitrate_options(verb: argparse.ArgumentParser) -> None:
    from parity.arbitration.command import add_arguments

    add_arguments(verb)


def _arbitrate(args: argparse.Namespace) -> int:
    from parity.arbitration.command import run

    return run(args)


def _gate_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--verdict", type=Path, help="verdict.json (default: the one dispatch reads)")
    verb.add_argument("--checkpoint", type=Path, metavar="DIR", help="the checkpoint it must hold for (default: tiny)")
    from parity.report_command import add_gate_arguments

    add_gate_arguments(verb)


def _gate(args: argparse.Namespace) -> int:
    from ltx_native import verdict as verdicts
    from ltx_native.checkpoint import Checkpoint
    from parity.report_command import run_gate_check, run_promote

    if args.promote:
        return run_promote(args)
    if args.check and args.checkpoint is None:
        return run_gate_check(args)
    paths = _checkpoint(args)
    opened = Checkpoint.open(str(paths.model), str(paths.gemma), str(paths.upsampler) if paths.upsampler else None)
    if args.check:
        return run_gate_check(args, opened.fingerprint())
    verdict = verdicts.load_verdict(args.verdict)
    usable, reasons = verdicts.judge(verdict, verdicts.current_fingerprints(opened.fingerprint()))
    engine = "native" if usable else "bridge"
    _print(args, {"engine": engine, "verdict": verdict.verdict, "reasons": list(reasons)}, "parity compare" if reasons else "")
    return 0 if usable else 1 if verdict.verdict == "fail" else 3


def _doctor(args: argparse.Namespace) -> int:
    from ltx_native.doctor import examine, table

    found = examine()
    print(json.dumps(found, indent=1) if args.json else table(found))
    return 0


def _cache_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("action", choices=("list", "verify", "prune"), help="prune removes damaged and stale captures")


def _cache_verb(args: argparse.Namespace) -> int:
    cache = _cache()
    entries = cache.entries()
    if args.action == "prune":
        removed = cache.prune()
        _print(args, {"removed": removed, "kept": len(entries) - len(removed)}, "")
        return 0
    bad = [entry["key"] for entry in entries if entry["problem"]] if args.action == "verify" else []
    _print(args, {"folder": str(cache.folder), "entries": entries, "damaged": bad}, "parity cache prune" if bad else "")
    return 1 if bad else 0


def _no_options(verb: argparse.ArgumentParser) -> None:
    return None


def _case(args: argparse.Namespace) -> Any:
    from parity.capture.native import request_of
    from parity.cases import case_from

    case = case_from(vars(args))
    request_of(case).validate()
    return case


def _checkpoint(args: argparse.Namespace) -> Any:
    return named(args.checkpoint) if args.checkpoint else tiny()


def _cache() -> Any:
    from parity.capture.reference import ReferenceCache

    return ReferenceCache(cache_folder() / "reference")


def _print(args: argparse.Namespace, found: dict[str, Any], next_step: str) -> None:
    """Results on standard output, the next command last."""
    if args.json:
        print(json.dumps(found | ({"next": next_step} if next_step else {}), indent=1))
        return
    for name, value in found.items():
        if isinstance(value, list):
            print(f"{name}: {len(value)}" if not value else f"{name}:")
            for item in value:
                print(f"  {item}")
        elif value is not None:
            print(f"{name}: {value}")
    if next_step:
        print(f"next: {next_step}")


Verb = tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]
VERBS: dict[str, Verb] = {
    "doctor": ("say what is in force on this machine", "parity doctor --json", _no_options, _doctor),
    "capture": ("run the reference and keep its trace", "parity capture --steps 2", _capture_options, _capture),
    "compare": (
        "run both sides on one request and judge",
        "parity compare --prompt 'A red fox' --steps 2 --output reports/fox",
        _compare_options,
        _compare,
    ),
    "fidelity": (
        "judge how well native follows prompts, against the reference",
        "parity fidelity --prompts 12",
        _fidelity_options,
        _fidelity,
    ),
    "arbitrate": (
        "say who departs: native, the external CLI, or the official code",
        "LTX2_MLX_BIN=~/ltx-2-mlx/.venv/bin/ltx-2-mlx parity arbitrate",
        _arbitrate_options,
        _arbitrate,
    ),
    "gate": ("say which engine the verdict puts in force", "parity gate", _gate_options, _gate),
    "report": ("make the page of a run again", "parity report reports/fox/results.json", _report_options, _report),
    "history": ("one page of all promoted verdicts", "parity history", _history_options, _history),
    "cache": ("list, verify or prune kept captures", "parity cache list", _cache_options, _cache_verb),
}


if __name__ == "__main__":
    sys.exit(main())
