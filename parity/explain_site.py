"""One site looked into: is it wrong on the reference's own inputs, or was it handed something else, and why."""

from __future__ import annotations

import difflib
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.align import Alignment, align
from parity.bounds import load_bounds
from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import Case
from parity.explain import Explanation, Ran, of_finding
from parity.gate import load_policy
from parity.localise import Finding, first_guilty, own_error, row_bound
from parity.measure_case import Replay, measure_pairs
from parity.session import Session
from parity.trace import Record, Trace


@dataclass(frozen=True)
class Answer:
    """What was found at a site, and its explanations, the best first."""

    where: str
    sentence: str
    finding: Finding | None = None
    explanations: tuple[Explanation, ...] = field(default=())

    @property
    def wrong(self) -> bool:
        return self.finding is not None


def explain_site(
    site: str,
    case: Case,
    checkpoint: Checkpoint,
    cache: ReferenceCache,
    step: int | None = None,
    guidance_pass: str | None = None,
    quiet: bool = True,
) -> Answer:
    """Replay a site's records on the reference's inputs; where it agrees there, look at what the native run hands it.

    Raises `ValueError` for a site that the reference's run does not have, naming the nearest.
    """
    reference, _ = cache.capture(case, checkpoint, (), quiet)
    records = _records(reference, site, step, guidance_pass)
    session = Session(checkpoint, Path(tempfile.gettempdir()), cache, quiet)
    if not (case.loras or case.distilled_loras):
        bench = _Loaded(session)
        replayer = bench.replayer(reference)
        rows = measure_pairs(Alignment(tuple((r, None) for r in records), ()), reference, reference, replayer)
        finding = first_guilty(rows, load_bounds("float32"), math.inf) if any(r.local or r.problem for r in rows) else None
        if finding is not None:
            return _answer(bench, finding, records, reference, reference, case, replayer)
    return _along_the_run(session, case, records, reference)


def _records(reference: Trace, site: str, step: int | None, guidance_pass: str | None) -> list[Record]:
    known = sorted({record.key.site for record in reference.records})
    if site not in known:
        near = difflib.get_close_matches(site, known, 3, 0.4) or known[:3]
        raise ValueError(f"site {site}: the reference's run has none of that name; the nearest: {', '.join(near)}")
    records = [r for r in reference.site(site) if step in (None, r.key.step) and guidance_pass in (None, r.key.guidance_pass)]
    if not records:
        places = ", ".join(str(r.key) for r in reference.site(site)[:3])
        raise ValueError(f"site {site}: no record of step {step}, pass {guidance_pass}; there are {places}, …")
    return records


class _Loaded:
    """The bench without a run: components loaded when they are asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._models: Any = None

    @property
    def checkpoint(self) -> Checkpoint:
        return self._session.checkpoint

    def module(self, component: str) -> Any:
        from parity.capture.hypothesis_replay import loaded_models

        if self._models is None:
            self._models = loaded_models(self._session.native_checkpoint())
        with self._models.use(component) as module:
            return module

    def replayer(self, reference: Trace) -> Replay:
        from parity.capture.hypothesis_replay import lazy_replayer

        return lazy_replayer(self, reference, self._session.functions())


def _along_the_run(session: Session, case: Case, records: Sequence[Record], reference: Trace) -> Answer:
    """The native run, and what it hands or gives at these records."""
    from parity.capture.native import capture, injected_noise
    from parity.capture.replay import Replayer

    with tempfile.TemporaryDirectory() as folder:
        native = capture(
            session.native_checkpoint(), case, injected_noise(reference), Path(folder) / "trace", session.manifest()
        )
        replayer = Replayer(native.modules, reference, functions=session.functions())
        keys = {record.key for record in records}
        pairs = tuple(pair for pair in align(reference.records, native.trace.records, case.mode).pairs if pair[0].key in keys)
        rows = measure_pairs(Alignment(pairs, ()), reference, native.trace, replayer)
        bounds = load_bounds("float32")
        finding = first_guilty(rows, bounds, load_policy().wiring)
        if finding is None:
            errors = [(own_error(row) or 0.0, row_bound(row, bounds), str(row.key)) for row in rows]
            error, bound, where = max(errors, default=(0.0, 0.0, records[0].key.site))
            return Answer(where, f"agrees with the reference: rel_l2 {error:.3g} at most (bound {bound:.3g})")
        bench = Ran(session.checkpoint, native.modules, finding.key.stage)
        return _answer(bench, finding, records, reference, native.trace, case, replayer, pairs)


def _answer(
    bench: Any,
    finding: Finding,
    records: Sequence[Record],
    reference: Trace,
    native: Trace,
    case: Case,
    replayer: Replay,
    pairs: Sequence[tuple[Record, Record | None]] = (),
) -> Answer:
    record = next(r for r in records if r.key == finding.key)
    partner = next((other for one, other in pairs if one.key == finding.key), None)
    found = of_finding(bench, finding, (record, partner), case, reference, native, replayer)
    return Answer(f"{finding.key}", finding.sentence, finding, tuple(found))
