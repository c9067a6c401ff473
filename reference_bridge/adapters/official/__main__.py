"""Verbs: generate, replay, cases, bench, versions."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from reference_bridge.adapters.official import arguments
from reference_bridge.adapters.official.checks import BadInput


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def _prepare_environment(threads: int, progress: bool) -> None:
    """Set what PyTorch, transformers and tqdm read once, at import."""
    if not progress:
        os.environ["TQDM_DISABLE"] = "1"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _run(argv: list[str]) -> int:
    args = arguments.parser().parse_args(argv)
    _prepare_environment(getattr(args, "threads", 1), args.verb == "generate" and not args.quiet)
    if args.verb == "generate":
        arguments.check_generate(args)
        from reference_bridge.adapters.official import generate

        return generate.run(args)
    if args.verb == "replay":
        from reference_bridge.adapters.official import replay

        return replay.run(args)
    if args.verb == "cases":
        from reference_bridge.adapters.official import cases

        return cases.run(args)
    if args.verb == "bench":
        from reference_bridge.adapters.official import bench

        return bench.run(args)
    from reference_bridge.adapters.official.provenance import versions

    print(json.dumps(versions(), indent=1))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Status 2: the input is at fault; 130 and 143: interrupted, nothing left behind."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
