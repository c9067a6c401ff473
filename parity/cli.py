"""`parity VERB …`: compare two implementations of LTX-2.3, judge, report. Status 0 pass, 1 fail, 2 usage, 3 inconclusive."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from ltx_native.cli import join_text
from ltx_native.errors import UserError
from parity.capture.reference import ReferenceUnavailable
from parity.trace import TraceError


class Verb(NamedTuple):
    """``module`` has `add_arguments(parser)` and `run(args) -> exit status`; every example is run by a test."""

    summary: str
    examples: tuple[str, ...]
    module: str

    def load(self) -> ModuleType:
        return importlib.import_module(self.module)


VERBS: dict[str, Verb] = {
    "doctor": Verb("say what is in force on this machine", ("parity doctor --json",), "parity.verbs.doctor"),
    "capture": Verb(
        "run the reference and keep its trace",
        ("parity capture --prompt 'A red fox' --steps 2",),
        "parity.verbs.capture",
    ),
    "compare": Verb(
        "run both sides on one request and judge",
        (
            "parity compare --prompt 'A red fox' --steps 2 --output reports/fox",
            "parity compare --stream --output reports/stream",
        ),
        "parity.verbs.compare",
    ),
    "arbitrate": Verb(
        "say who departs: native, the external CLI, or the official code",
        ("LTX2_MLX_BIN=~/ltx-2-mlx/.venv/bin/ltx-2-mlx parity arbitrate --steps 2",),
        "parity.arbitration.command",
    ),
    "fidelity": Verb(
        "judge how well native follows prompts, against the reference",
        ("parity fidelity --prompts 2 --steps 2 --dtype float32 --no-ladder --output reports/fid",),
        "parity.fidelity_command",
    ),
    "gate": Verb(
        "say which engine the verdict puts in force",
        (
            "parity gate --verdict reports/fox/verdict.json",
            "parity gate --check --verdict reports/fox/verdict.json",
            "parity gate --promote reports/fox/verdict.json",
        ),
        "parity.verbs.gate",
    ),
    "calibrate": Verb(
        "measure what the reference differs from itself: the noise floors",
        ("parity calibrate --prompt 'A red fox' --steps 2 --output reports/floors.toml",),
        "parity.verbs.calibrate",
    ),
    "certify": Verb(
        "plant known port mistakes and see which are caught",
        ("parity certify --list", "parity certify --only TIM-01 --output reports/one-fault.json"),
        "parity.verbs.certify",
    ),
    "explain": Verb(
        "say why a site is wrong, by edited formulas of the reference that give what native gives",
        ("parity explain transformer.transformer_blocks.0.attn1 --results reports/fox/results.json",),
        "parity.verbs.explain",
    ),
    "reduce": Verb(
        "cut one module out of a run, with a runner that fails while it is wrong",
        ("parity reduce transformer.transformer_blocks.0.attn1 -p 'A red fox' --steps 2 --output reports/attn1",),
        "parity.verbs.reduce",
    ),
    "report": Verb(
        "make the page of a run again",
        ("parity report reports/fox/results.json", "parity report reports/fox/results.json --markdown"),
        "parity.verbs.report",
    ),
    "history": Verb("one page of all promoted verdicts", ("parity history",), "parity.verbs.history"),
    "cache": Verb("list, verify or prune kept captures", ("parity cache list",), "parity.verbs.cache"),
}


def main(argv: Sequence[str] | None = None) -> int:
    # MLX latches TF32 at the first matrix product of a process; comparisons in float32 need it off.
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    words = join_text(sys.argv[1:] if argv is None else argv)
    args = parser(words[0] if words else "").parse_args(words)
    try:
        status: int = VERBS[args.verb].load().run(args)
        sys.stdout.flush()
        return status
    except (UserError, FileNotFoundError, ValueError) as error:
        return _refused(args, error, 2)
    except (ReferenceUnavailable, TraceError) as error:
        return _refused(args, error, 3)
    except KeyboardInterrupt:
        return _refused(args, "stopped; what was finished is kept, the same command goes on from there", 130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _refused(args: argparse.Namespace, problem: object, status: int) -> int:
    print(f"parity {args.verb}: {problem}", file=sys.stderr)
    if args.json:
        print(json.dumps({"error": str(problem), "status": status}))
    return status


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole command line; ``only`` leaves out the options of all other verbs, whose modules are then not imported."""
    top = argparse.ArgumentParser(prog="parity", description=__doc__, allow_abbrev=False)
    verbs = top.add_subparsers(required=True, metavar="VERB", dest="verb")
    for name, row in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=row.summary,
            description=row.summary,
            epilog="\n".join(("examples:", *(f"  {example}" for example in row.examples))),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if only in (None, name):
            row.load().add_arguments(verb)
        verb.add_argument("--json", action="store_true", help="machine-readable output")
        verb.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    return top


if __name__ == "__main__":
    sys.exit(main())
