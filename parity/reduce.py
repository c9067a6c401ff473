"""`parity reduce SITE`: cut one module out of a run, with all that is needed to see it fail without the model.

A capsule is a folder: `trace/` (the recorded inputs and the reference's output), `weights/` (the module's own tensors as
stored, beside the configurations), `capsule.json` (where it comes from, and its bound) and `run.py`, which gives status 1
while native differs from the reference there and 0 when it does not.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx_native.errors import UserError
from parity import provenance
from parity.bounds import load_bounds
from parity.compare import Row
from parity.localise import failing, own_error, row_bound
from parity.measure_case import Masks, mask_of, tensors
from parity.metrics import MetricError, measure
from parity.results import write_json
from parity.sites import compared_outputs, skip_rule
from parity.trace import Record, Trace, TraceError, leaves

if TYPE_CHECKING:
    from parity.cases import Case
    from parity.session import Session

SCHEMA = 1
RUNNER = '''"""{site}: native against the recorded reference. Status 1 while they differ, 0 when they agree."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MLX_ENABLE_TF32", "0")
from parity.reduce import run

sys.exit(run(Path(__file__).resolve().parent))
'''


class ReduceError(ValueError):
    """A site that cannot be reduced, or a folder that is no capsule; the message says what to do."""


@dataclass(frozen=True)
class Capsule:
    """A written capsule. ``error`` is the worst rel_l2 when it was made (infinite: could not be run), ``bound`` its limit."""

    folder: Path
    site: str
    place: str
    error: float
    bound: float
    tensors: int
    bytes: int

    @property
    def fails(self) -> bool:
        return not self.error <= self.bound


def reduce(session: Session, case: Case, site: str, folder: Path) -> Capsule:
    """Write the capsule of a site's worst record (the first where all agree). Nothing is written when that is not possible.

    Raises `ReduceError`, `ReferenceUnavailable`, `TraceError` or `UserError`.
    """
    from parity.capture.capsule import write_record, write_weights

    if folder.exists():
        raise ReduceError(f"{folder} exists; name another folder with --output, or remove it")
    trace, _ = session.cache.capture(case, session.checkpoint, quiet=session.quiet)
    records = [record for record in trace.site(site) if record.inputs and record.kind in ("module", "function")]
    if not records:
        known = sorted({record.key.site for record in trace.records if record.inputs and not skip_rule(record)})
        near = [name for name in known if name.startswith(site.split(".")[0])][:3] or known[:3]
        raise ReduceError(f"the run records nothing that can be replayed at {site}; expected a site such as {', '.join(near)}")
    masks = Masks(trace)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        count = write_weights(session.checkpoint, session.native_checkpoint(), site, partial / "weights")
        chosen, rows = _worst(trace, records, masks, partial / "weights")
        write_record(trace, chosen, partial / "trace", _mask_of(masks, chosen))
        bounds = session.bounds
        error = max((_error(row) for row in rows), default=float("inf"))
        bound = min(row_bound(row, bounds) for row in rows)
        about = {
            "schema": SCHEMA,
            "site": site,
            "type": chosen.type,
            "place": str(chosen.key),
            "case": case.request(),
            "error": error if error != float("inf") else None,
            "bound": bound,
            "outputs": [row.output for row in rows],
            "environment": provenance.environment(),
            "reference": {name: trace.manifest[name] for name in ("versions", "checkpoint", "code")},
        }
        write_json(partial / "capsule.json", about, indent=1)
        (partial / "run.py").write_text(RUNNER.format(site=site), encoding="utf-8")
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Capsule(folder, site, str(chosen.key), error, bound, count, size)


def run(folder: Path) -> int:
    """Replay a capsule; prints one line per compared output. Status 0 in bound, 1 out of it, 2 when it is no capsule."""
    try:
        rows = rows_of(folder)
    except (ReduceError, TraceError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 2
    bounds = load_bounds("float32")
    bad = failing(rows, bounds)
    for row in rows:
        said = row.problem or f"rel_l2 {_error(row):.3g} (bound {row_bound(row, bounds):.3g})"
        print(f"{'FAIL' if row in bad else 'pass'}  {row.key} {row.output}: {said}")
    return 1 if bad else 0


def rows_of(folder: Path) -> list[Row]:
    """Native now against what the capsule holds. Raises `ReduceError` or `TraceError`."""
    try:
        site = str(json.loads((folder / "capsule.json").read_text(encoding="utf-8"))["site"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReduceError(f"no readable capsule.json ({error!r}); expected a folder that `parity reduce` wrote") from error
    trace = Trace(folder / "trace")
    records = [record for record in trace.site(site) if leaves_any(record)]
    if len(records) != 1:
        raise ReduceError(f"{len(records)} records of {site} in trace/, expected one")
    return _rows(trace, records[0], Masks(trace), folder / "weights")


def leaves_any(record: Record) -> bool:
    """Whether a record has a tensor among its outputs (a root that only lends its mask has none)."""
    return any("tensor" in leaf for _, leaf in leaves(record.outputs))


def _worst(trace: Trace, records: Iterable[Record], masks: Masks, weights: Path) -> tuple[Record, list[Row]]:
    from parity.capture.capsule import Cut

    cut, best = Cut(weights), None
    for record in records:
        rows = _rows(trace, record, masks, weights, cut)
        error = max((_error(row) for row in rows), default=-1.0)
        if rows and (best is None or error > best[0]):
            best = (error, record, rows)
    if best is None:
        raise ReduceError("none of the site's outputs is compared; reduce the module that holds it")
    return best[1], best[2]


def _rows(trace: Trace, record: Record, masks: Masks, weights: Path, cut: Any = None) -> list[Row]:
    from parity.capture.capsule import CapsuleError, Cut

    try:
        local = (cut or Cut(weights)).replay(trace, record)
    except (CapsuleError, UserError) as error:
        local = f"native cannot be built from its weights: {error}"
    reference = tensors(trace, record.outputs, record.key.site)
    rows = []
    for path, native_path in compared_outputs(record, list(reference)).items():
        measured, problem = None, local if isinstance(local, str) else "" if local is not None else "the site has no replay"
        if isinstance(local, dict):
            try:
                mask = mask_of(masks, trace, record, path, reference[path])
                measured = measure(local[native_path], reference[path], mask)
            except (MetricError, KeyError) as error:
                problem = f"{error}"
        shape = reference[path].shape
        rows.append(Row(record.index, record.key, record.type, path, shape, "float32", measured, problem=problem))
    return rows


def _error(row: Row) -> float:
    error = own_error(row)
    return float("inf") if row.problem or error is None else error


def _mask_of(masks: Masks, record: Record) -> tuple[Record, Any] | None:
    root = masks.root(record.key)
    leaf = root.inputs.get("attention_mask") if root else None
    return (root, leaf) if root is not None and leaf is not None else None
