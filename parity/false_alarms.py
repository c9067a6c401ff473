"""`make false-alarms`: the healthy port over seeds and the case matrix; every site over its bound is a false alarm.

    python -m parity.false_alarms [--seeds 20] [--first 1000] [--cases NAME ...]

One line of JSON per (case, seed) is kept, so a stopped run goes on where it was. Status 0 when all ran and none was flagged.
"""

from __future__ import annotations

import os

os.environ.setdefault("MLX_ENABLE_TF32", "0")

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltx_native.verdict import native_code_fingerprint, reference_fingerprint
from parity.bounds import FLOORS
from parity.capture.reference import ReferenceCache
from parity.checkpoints import tiny
from parity.folders import ROOT
from parity.gate import POLICY, judge_tensors
from parity.localise import own_error, row_bound
from parity.matrix import Entry, matrix
from parity.session import Session

OUTPUT = ROOT / "reports" / "false-alarms.jsonl"


def fingerprint() -> str:
    """What the runs are about: native code, reference code and the limits."""
    limits = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (FLOORS, POLICY)]
    return hashlib.sha256(json.dumps([native_code_fingerprint(), reference_fingerprint(), *limits]).encode()).hexdigest()[:16]


def run(entry: Entry, seed: int) -> dict[str, Any]:
    """Compare one case of the matrix with one seed; nothing of it is kept but the numbers."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="false-alarms-") as name:
        folder = Path(name)
        session = Session(tiny(), folder, ReferenceCache(folder / "reference"))
        result = session.compare(entry.case.with_seed(seed), entry.sites)
    judgement = judge_tensors(session.cases)
    shares = [
        (own_error(row) or 0.0) / bound
        for row in result.rows
        if row.local is not None and (bound := row_bound(row, session.bounds))
    ]
    return {
        "case": entry.case.name,
        "seed": seed,
        "verdict": judgement.verdict,
        "reasons": list(judgement.reasons),
        "rows": len(result.rows),
        "sites": len({row.key.site for row in result.rows}),
        "over": sorted({str(result.rows[i].key) for i in result.failed}),
        "worst_share": max(shares, default=None),
        "latents": max((item.value for item in result.end_to_end if item.metric == "rel_l2"), default=None),
        "seconds": round(time.perf_counter() - started, 1),
    }


def finished(path: Path, code: str) -> list[dict[str, Any]]:
    """Lines of this fingerprint; a line that was cut off is no result."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("code") == code:
            rows.append(row)
    return rows


def summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line a case, then all of them."""
    rows = list(rows)
    lines = []
    for name in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == name]
        worst = max((row["worst_share"] for row in of_case if row["worst_share"] is not None), default=float("nan"))
        latents = max((row["latents"] for row in of_case if row["latents"] is not None), default=float("nan"))
        bad = sum(row["verdict"] != "pass" for row in of_case)
        lines.append(
            f"{name:24} {len(of_case):3} seeds, {sum(row['rows'] for row in of_case):7} tensors, {bad} not passed, "
            f"worst local error {worst:.2f} of its bound, latents off by {latents:.1e}"
        )
    over = [site for row in rows for site in row["over"]]
    lines += [f"over bound: {site}" for site in sorted(set(over))]
    lines.append(f"{len(rows)} runs, {sum(row['rows'] for row in rows)} tensors, {len(over)} over bound")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity.false_alarms", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1000, help="the first seed")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="these cases of the matrix only")
    parser.add_argument("--minutes", type=float, help="start nothing new after so long")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    entries = [entry for entry in matrix() if not args.cases or entry.case.name in args.cases]
    if not entries or args.seeds < 1:
        names = ", ".join(entry.case.name for entry in matrix())
        print(f"false_alarms: nothing to run; the cases are {names}, and --seeds is at least 1", file=sys.stderr)
        return 2
    started, code = time.monotonic(), fingerprint()
    done = {(row["case"], row["seed"]): row for row in finished(args.output, code)}
    wanted = [(entry, seed) for seed in range(args.first, args.first + args.seeds) for entry in entries]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for entry, seed in wanted:
        if args.minutes is not None and time.monotonic() - started > 60 * args.minutes:
            break
        if (entry.case.name, seed) not in done:
            row = {"code": code, **run(entry, seed)}
            done[entry.case.name, seed] = row
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{row['case']} seed {seed}: {row['verdict']}, {row['seconds']} s", file=sys.stderr, flush=True)
    rows = [done[entry.case.name, seed] for entry, seed in wanted if (entry.case.name, seed) in done]
    print(summary(rows))
    if any(row["verdict"] != "pass" for row in rows):
        return 1
    return 0 if len(rows) == len(wanted) else 3


if __name__ == "__main__":
    sys.exit(main())
