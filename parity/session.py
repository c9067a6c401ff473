"""One comparison from request to verdict: capture both sides, measure, localise, judge, write results and page."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.errors import UserError
from ltx_native.media import write_video
from ltx_native.models import COMPONENTS, Models
from ltx_native.verdict import current_fingerprints
from parity import provenance
from parity.align import Alignment, align
from parity.arbitration.departures import for_report
from parity.bounds import Bounds, BoundsError, load_bounds
from parity.capture.functions import Functions
from parity.capture.native import NativeRun, capture, injected_noise
from parity.capture.reference import Checkpoint, ReferenceCache, ReferenceUnavailable, reference_replay
from parity.capture.replay import Replayer
from parity.cases import Case
from parity.certificate import certificate_problem, certificate_summary, named_certificate
from parity.details import collect_details, worth_showing
from parity.fidelity_evidence import Evidence, evidence_for
from parity.fidelity_policy import read_policy
from parity.fidelity_shown import Shown
from parity.floors import Calibration, Floors, config_sha256, load_floors
from parity.gate import Judgement, TensorPolicy, judge_harness, judge_tensors, load_policy, write_verdict
from parity.gate_check import code_files
from parity.localise import failing, first_guilty
from parity.measure_case import Array, end_to_end, measure_pairs
from parity.precision import measure_precision
from parity.progress import phase
from parity.report import build_report
from parity.results import SCHEMA, CaseResult, case_to_json, write_json
from parity.run_facts import abilities, engine_now
from parity.sites import component_of, recorded
from parity.taps import sites_of
from parity.trace import Trace, TraceError, file_sha256

if TYPE_CHECKING:
    from parity.search import Search


@dataclass
class Session:
    """A run of cases on one checkpoint. ``output`` gets traces, media, results.json, report.html and verdict.json."""

    checkpoint: Checkpoint
    output: Path
    cache: ReferenceCache
    quiet: bool = True
    policy: TensorPolicy = field(default_factory=load_policy)
    bounds: Bounds = field(default_factory=lambda: load_bounds("float32"))
    cases: list[CaseResult] = field(default_factory=list)
    shown: Shown | None = None  # prompts made in this run, for the page
    certificate: Path = field(default_factory=named_certificate)
    floors: Floors = field(default_factory=load_floors)
    doubts: list[str] = field(default_factory=list)  # why what was compared cannot be judged

    def native_checkpoint(self) -> NativeCheckpoint:
        paths = self.checkpoint
        return NativeCheckpoint.open(str(paths.model), str(paths.gemma), str(paths.upsampler) if paths.upsampler else None)

    def manifest(self) -> dict[str, Any]:
        """What a native trace says of its run."""
        return {"dtype": "float32", "device": str(mx.default_device()), "commit": provenance.commit()}

    def compare(self, case: Case, sites: Sequence[str] = ()) -> CaseResult:
        """Compare one case at these sites (globs; all when empty); what makes it impossible becomes its ``problem``."""
        try:
            result = self._compare(case, sites)
        except (ReferenceUnavailable, TraceError, UserError) as error:
            result = CaseResult(case.name, case.request(), "float32", problem=f"{error}")
        self.cases.append(result)
        return result

    def _compare(self, case: Case, sites: Sequence[str]) -> CaseResult:
        start = time.perf_counter()
        with phase(f"{case.name}: reference", self.quiet):
            reference, reference_video = self.cache.capture(case, self.checkpoint, sites, self.quiet)
        captured = time.perf_counter()
        self._check_floors(reference)
        folder = self.output / case.name
        with phase(f"{case.name}: native", self.quiet):
            native = capture(
                self.native_checkpoint(), case, injected_noise(reference), folder / "native-trace", self.manifest()
            )
        ran = time.perf_counter()
        alignment = align(reference.records, recorded(native.trace.records, sites), case.mode)
        replayer = Replayer(native.modules, reference, functions=self.functions())
        with phase(f"{case.name}: comparing", self.quiet, len(alignment.pairs)) as step:
            rows = measure_pairs(alignment, reference, native.trace, lambda record: (replayer(record), step())[0])
        result = CaseResult(
            name=case.name,
            request=case.request(),
            dtype="float32",
            coverage=alignment.coverage(),
            rows=tuple(rows),
            finding=first_guilty(rows, self.bounds, self.policy.wiring),
            end_to_end=end_to_end(reference, native.trace, _media(reference, native), self.policy, case.mode),
            media=self._write_media(case, native, reference_video),
            timings={
                "reference_s": captured - start,
                "native_s": ran - captured,
                "compare_s": time.perf_counter() - ran,
            },
            provenance={"reference": _manifest(reference)},
        )
        guilty = {id(row) for row in failing(rows, self.bounds)}
        failed = frozenset(i for i, row in enumerate(rows) if id(row) in guilty)
        wanted = worth_showing(rows, failed, self.bounds, result.finding)
        details = collect_details(rows, wanted, alignment, reference, native.trace, replayer)
        result = replace(result, failed=failed, details=tuple(details), self_divergence=self._growth(case))
        return replace(result, hypotheses=self._causes(result, case, alignment, native, replayer))

    def _causes(
        self, result: CaseResult, case: Case, alignment: Alignment, native: NativeRun, replayer: Replayer
    ) -> tuple[Mapping[str, Any], ...]:
        """Why the first guilty site is wrong, executed; the best few."""
        from parity.explain import Ran, of_finding

        if result.finding is None:
            return ()
        pair = next(pair for pair in alignment.pairs if pair[0].key == result.finding.key)
        bench = Ran(self.checkpoint, native.modules, result.finding.key.stage)
        with phase(f"{case.name}: explaining", self.quiet):
            found = of_finding(bench, result.finding, pair, case, replayer.trace, native.trace, replayer)
        return tuple(explanation.row() for explanation in found[:4])

    def search(self, case: Case) -> Search:
        """Find the first guilty module in two passes that keep no run's tensors; writes search.json and no verdict."""
        from parity.search import search

        with phase(f"{case.name}: sketches", self.quiet):
            return search(self, case)

    def compare_bfloat16(self, case: Case, steps: Sequence[int]) -> CaseResult:
        """Every module in bfloat16 on the float32 run's inputs, against what the reference itself loses there."""
        name = f"{case.name}-bfloat16"
        try:
            reference, _ = self.cache.capture(case, self.checkpoint, quiet=self.quiet)
            folder = reference.folder.with_name("bfloat16-steps-" + "-".join(map(str, steps)))
            with phase(f"{case.name}: reference in bfloat16", self.quiet):
                lowered = reference_replay(reference, self.checkpoint, "bfloat16", folder, steps)
            components = {component_of(record.key.site) for record in lowered.records}
            roots = Models(self.native_checkpoint(), mx.bfloat16).load_all(tuple(c for c in COMPONENTS if c in components))
            modules = {("stage_1", s): m for c, root in roots.items() for s, m in sites_of(c, root).items()}
            replayer = Replayer(modules, reference, mx.bfloat16)
            with phase(f"{case.name}: native in bfloat16", self.quiet):
                rows, coverage = measure_precision(reference, lowered, replayer)
        except (ReferenceUnavailable, TraceError, UserError) as error:
            result = CaseResult(name, case.request(), "bfloat16", problem=f"{error}")
        else:
            bad = {id(row) for row in failing(rows, self.bounds)}
            result = CaseResult(
                name=name,
                request=case.request(),
                dtype="bfloat16",
                coverage=coverage,
                rows=tuple(rows),
                failed=frozenset(i for i, row in enumerate(rows) if id(row) in bad),
                finding=first_guilty(rows, self.bounds, self.policy.wiring),
                provenance={"reference": _manifest(lowered)},
            )
        self.cases.append(result)
        return result

    def functions(self) -> Functions:
        """Native functions between the modules, for a replay."""
        checkpoint = self.native_checkpoint()
        with Models(checkpoint, mx.float32).use("tokenizer") as tokenizer:
            return Functions(tokenizer, checkpoint.config.audio_vae)

    def _write_media(self, case: Case, native: NativeRun, reference_video: Path) -> dict[str, str]:
        folder = self.output / case.name
        ours, theirs = folder / "native.mp4", folder / "reference.mp4"
        write_video(ours, iter([native.frames]), case.frame_rate, native.waveform, native.sample_rate)
        theirs.write_bytes(reference_video.read_bytes())
        return {"native": f"{case.name}/native.mp4", "reference": f"{case.name}/reference.mp4"}

    def finish(self, verdict: Path | None = None, page: bool = True) -> dict[str, Any]:
        """Judge all cases, write results.json, report.html and verdict.json (there, or to ``verdict``); returns the verdict."""
        judgement = judge_tensors(self.cases)
        try:
            fingerprints = self.fingerprints()
        except UserError as error:
            judgement = judgement.join(Judgement("inconclusive", (str(error),)))
            fingerprints = current_fingerprints("")
        fidelity = evidence_for(self.checkpoint.model, fingerprints, read_policy()).with_shown(self.shown)
        judgement = judgement.join(fidelity.judgement)
        for doubt in (*dict.fromkeys(self.doubts), certificate_problem(self.certificate)):
            judgement = judgement.join(judge_harness(doubt))
        verdict = verdict or self.output / "verdict.json"
        results = self.output / "results.json"
        write_json(
            results,
            {
                "schema": SCHEMA,
                "verdict": judgement.verdict,
                "reasons": judgement.reasons,
                "environment": provenance.environment(),
                "policy": vars(self.policy),
                "cases": [case_to_json(case, self.bounds) for case in self.cases],
                **({"fidelity": fidelity.content} if fidelity.content else {}),
                "certificate": certificate_summary(self.certificate) or {"problem": certificate_problem(self.certificate)},
                "engine": engine_now(verdict, judgement, fingerprints),
                "abilities": abilities(),
                "departures": for_report(self.output.parent / "arbitration" / "arbitration.json"),
            },
        )
        if page:
            build_report(results)
        compared = sum(case.coverage.compared for case in self.cases if case.coverage)
        evidence = {
            "results": {"path": os.path.relpath(results, verdict.parent), "sha256": file_sha256(results)},
            "rests_on": [
                f"{compared} tensors of {len(self.cases)} cases in float32",
                *fidelity.rests_on,
                *self._bound_rests_on(),
            ],
            "sites_compared": compared,
            "fidelity": dict(fidelity.source),
            "files": code_files(),
            "dtype": "float32",
            "cases": [case.name for case in self.cases],
        }
        return write_verdict(verdict, judgement, fingerprints, evidence, provenance.commit())

    def _calibration(self) -> Calibration | None:
        try:
            return self.floors.of(config_sha256(self.checkpoint.model))
        except BoundsError:
            return None

    def _growth(self, case: Case) -> Mapping[str, tuple[float, ...]]:
        """The reference against itself, step by step, where it was measured over as many steps."""
        found = self._calibration()
        return found.growth if found and all(len(values) == case.steps for values in found.growth.values()) else {}

    def _bound_rests_on(self) -> list[str]:
        """What the end-to-end bound is measured against: the reference's own rounding, carried through a whole run."""
        found = self._calibration()
        if found is None:
            return []
        moved = max((value for name, value in found.divergence.items() if name.startswith("latent.")), default=0.0)
        text = f"the reference moves its latents by {moved:.1e} when its start moves by its own rounding, {found.nudge:.1e}"
        return [f"{text}; the bound is {self.policy.latents:.0e}"]

    def _check_floors(self, reference: Trace) -> None:
        """Limits were set by floors of one reference and configuration; of another they say nothing."""
        try:
            problem = self.floors.problem(config_sha256(self.checkpoint.model), reference.manifest["versions"])
        except BoundsError as error:
            problem = str(error)
        self.doubts += [problem] if problem else []

    def fingerprints(self) -> dict[str, str]:
        """Those of now. Raises UserError when the checkpoint cannot be read."""
        return current_fingerprints(self.native_checkpoint().fingerprint())

    def fidelity(self) -> Evidence:
        """The fidelity result that stands for this checkpoint, code and reference."""
        return evidence_for(self.checkpoint.model, self.fingerprints(), read_policy())


def _media(reference: Trace, native: NativeRun) -> dict[str, tuple[Array, Array]]:
    """(native, reference) frames in [0, 1] and waveform, from the reference's own records."""
    frames = [reference.tensor(record.outputs["fields"]["frames"]) for record in reference.site("frames")]
    waveforms = [reference.tensor(record.outputs["fields"]["audio"]) for record in reference.site("waveform")]
    if not frames or len(waveforms) != 1:
        return {}
    return {
        "frames": (native.frames / 255.0, np.concatenate(frames) / 255.0),
        "waveform": (native.waveform, waveforms[0]),
    }


def _manifest(trace: Trace) -> dict[str, Any]:
    return {name: value for name, value in trace.manifest.items() if name not in ("files", "request")}
