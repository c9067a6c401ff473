"""`parity compare --sketch`: find the first guilty module in two passes, without the tensors of the whole run.

The first pass runs both sides with sketches of what stands between the modules and of every transformer block's tokens, a few
MB for a model of any size. The second runs the reference again and keeps full tensors of the first suspects only, which are
then replayed on the reference's own inputs. It is a search and not a verdict: what agrees here was compared along the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parity.align import Alignment, Coverage, align
from parity.capture.native import capture, injected_noise
from parity.capture.replay import Replayer
from parity.cases import Case
from parity.localise import Finding, failing, first_guilty
from parity.measure_case import measure_pairs
from parity.results import write_json
from parity.sites import component_of, is_exact, recorded, skip_rule
from parity.sketch import SketchRow, estimates
from parity.trace import Trace

if TYPE_CHECKING:
    from parity.session import Session

BLOCKS = tuple(f"transformer.transformer_blocks.{digits}" for digits in ("[0-9]", "[0-9][0-9]"))
FIRST_PASS = (
    "tokenizer", "schedule", "noise.*", "gemma", "embeddings_processor", "state.*", *BLOCKS, "transformer", "denoised",
    "guidance.*", "post_process.*", "sampler.*", "upsampler", "latent.*", "video_encoder", "audio_encoder", "video_decoder",
    "audio_decoder", "vocoder",
)  # fmt: skip
SUSPECTS = 3


@dataclass(frozen=True)
class Search:
    """What both passes found. ``suspects`` are the first sites whose outputs differ along the run, in execution order.

    ``guilty`` is the suspect that is wrong on the reference's own inputs and ``finding`` the first such module in it. Without
    them the suspects carry on what reached them: rounding up to ``wiring``, above it (``handed``) something else.
    """

    case: str
    rows: tuple[SketchRow, ...]
    coverage: Coverage
    suspects: tuple[str, ...]
    guilty: str | None
    finding: Finding | None
    handed: str | None
    trace_bytes: int

    @property
    def found(self) -> bool:
        return self.finding is not None or self.handed is not None or not self.coverage.complete

    def sentence(self) -> str:
        if self.finding is not None:
            return f"{self.guilty} is the first that is wrong: {self.finding.sentence}"
        if self.handed is not None:
            which = f"{', '.join(self.suspects)} agree on the reference's own inputs"
            return f"{self.handed} differs along the run, yet {which}: see what they are handed"
        if not self.coverage.complete:
            return f"not everything could be compared: {self.coverage.sentence()}"
        worst = max(self.rows, key=lambda row: row.error)
        return f"no site is wrong; along the run {worst.key} differs most (rel_l2 about {worst.error:.2g})"

    def to_json(self) -> dict[str, Any]:
        rows = [
            {
                "site": row.key.site, "stage": row.key.stage, "step": row.key.step, "pass": row.key.guidance_pass,
                "call": row.key.call, "output": row.output, "problem": row.problem,
                "rel_l2": row.estimate.rel_l2 if row.estimate and row.estimate.finite else None,
                "cosine": row.estimate.cosine if row.estimate else None,
                "deviation": row.estimate.deviation if row.estimate else None,
            }
            for row in self.rows
        ]  # fmt: skip
        found = {"suspects": list(self.suspects), "guilty": self.guilty, "sentence": self.sentence()}
        return {"case": self.case, **found, "coverage": self.coverage.sentence(), "bytes": self.trace_bytes, "rows": rows}


def search(session: Session, case: Case) -> Search:
    """Both passes. Raises `ReferenceUnavailable`, `TraceError` or `UserError` when a side cannot run."""
    reference = session.cache.sketches(case, session.checkpoint, FIRST_PASS, session.quiet)
    folder = session.output / case.name / "native-sketches"
    native = capture(session.native_checkpoint(), case, injected_noise(reference), folder, session.manifest(), sketch=True)
    alignment = align(reference.records, recorded(native.trace.records, FIRST_PASS), case.mode)
    rows = estimates(alignment, native.trace, reference)
    suspects = suspects_of(rows, session.bounds.default)
    guilty, finding = _second_pass(session, case, native.modules, suspects)
    size = sum(path.stat().st_size for path in reference.folder.iterdir())
    handed = next((row.key.site for row in rows if not row.error <= session.policy.wiring), None) if finding is None else None
    found = Search(case.name, tuple(rows), alignment.coverage(), suspects, guilty, finding, handed, size)
    write_json(session.output / "search.json", found.to_json())
    return found


def suspects_of(rows: Sequence[SketchRow], bound: float) -> tuple[str, ...]:
    """The first few sites, in execution order, whose outputs differ by more than the bound of a single module."""
    late = [row.key.site for row in rows if not row.error <= (0.0 if is_exact(row.key.site, row.output) else bound)]
    return tuple(dict.fromkeys(late))[:SUSPECTS]


def _second_pass(session: Session, case: Case, modules: Any, suspects: Sequence[str]) -> tuple[str | None, Finding | None]:
    """Suspects one after the other, each with its inside, on the reference's own inputs in full."""
    for site in suspects:
        inside = (
            () if site in ("tokenizer", "schedule") or component_of(site) in ("noise", "state", "latent") else (f"{site}.*",)
        )
        reference, _ = session.cache.capture(case, session.checkpoint, (site, *inside), session.quiet)
        finding = _judge(session, reference, modules)
        if finding is not None:
            return site, finding
    return None, None


def _judge(session: Session, reference: Trace, modules: Any) -> Finding | None:
    chosen = tuple((record, None) for record in reference.records if not skip_rule(record))
    replayer = Replayer(modules, reference, functions=session.functions())
    rows = measure_pairs(Alignment(chosen, ()), reference, reference, replayer)
    rows = [row for row in rows if row.local is not None or row.problem]
    return first_guilty(failing(rows, session.bounds), session.bounds, float("inf"))
