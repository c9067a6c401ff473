"""Verbs: blocks, steps, pipeline. Run by the reference's interpreter, with the project's root on PYTHONPATH."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reference_bridge.adapters import service
from reference_bridge.adapters.official.arguments import Parser
from reference_bridge.adapters.official.checks import BadInput


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="official_parts", description=__doc__, allow_abbrev=False)
    verbs = top.add_subparsers(dest="verb", required=True, parser_class=Parser)
    blocks = verbs.add_parser("blocks", help="run single transformer blocks on request", allow_abbrev=False)
    blocks.add_argument("--config", type=Path, required=True, help="the official configuration, a JSON file")
    steps = verbs.add_parser("steps", help="time denoising steps and decoding on request", allow_abbrev=False)
    steps.add_argument("--model", type=Path, required=True, help="official single-file checkpoint")
    pipeline = verbs.add_parser("pipeline", help="run a pipeline with clocks on its parts", allow_abbrev=False)
    pipeline.add_argument("--repeat", type=int, default=2, help="runs in this process; the last one is reported")
    pipeline.add_argument("generate", nargs=argparse.REMAINDER, help="-- and the flags of `official generate`")
    for verb in (blocks, steps, pipeline):
        verb.add_argument("--threads", type=int, default=1, help="threads of a tensor operation (default 1)")
    return top


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    service.quiet_environment(args.threads)
    answers = service.own_stdout()
    if args.verb == "blocks":
        from reference_bridge.adapters.official_parts.blocks import Blocks, config_of

        config = config_of(args.config)
        _threads(args.threads)
        service.serve(Blocks(config).handlers(), sys.stdin, answers, {"engine": "official"})
        return 0
    if args.verb == "steps":
        from reference_bridge.adapters.official_parts.steps import Steps

        _threads(args.threads)
        service.serve(Steps(args.model).handlers(), sys.stdin, answers, {"engine": "official"})
        return 0
    from reference_bridge.adapters.official_parts.pipeline import run_timed

    return run_timed(args, answers)


def _threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Status 2: the input is at fault."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
