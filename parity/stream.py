"""Compare the transformer block by block with one block of weights in memory on each side.

The official blocks run in the reference's process on their own running tokens. Native runs every block twice: on the
reference's tokens (what is wrong there was made in this block: *local*) and on its own (*total*). Weights go from native to
the reference as the plain numbers native computes with, so quantisation is on both sides or on none. The first block out of
its bound is run once more with every module in it recorded, which names the module.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from ltx_native.checkpoint import Checkpoint
from parity import provenance
from parity.align import Alignment, Coverage
from parity.bounds import Bounds, load_bounds
from parity.capture import stream as native
from parity.capture.replay import Replayer
from parity.capture.service import Service, official
from parity.compare import Row, Sides, compare_pair
from parity.faults.blocks import PLANTS
from parity.gate import Judgement, TensorPolicy, judge_tensors, load_policy
from parity.localise import failing, first_guilty
from parity.measure_case import measure_pairs
from parity.report import build_report
from parity.results import SCHEMA, CaseResult, EndToEnd, case_to_json, write_json
from parity.sites import skip_rule
from parity.stream_request import SITE, StreamRequest, check_numbers, recorded_inputs
from parity.taps import sites_of
from parity.trace import Key, Record, Trace
from reference_bridge.adapters.service import timed, usage

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]
STAGE, STEP = "stage_1", 0
Say = Callable[[str, int, int], None]  # what is being done, how many are, of how many


@dataclass
class StreamResult:
    """The compared case, peak resident bytes by side, seconds by block and side, and what the guilty block hides."""

    case: CaseResult
    judgement: Judgement
    peak_bytes: dict[str, int]
    seconds: list[dict[str, float]] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        finding = self.case.finding
        return finding.sentence if finding else f"{len(self.case.rows)} tensors within their bounds"


class Stream:
    """One comparison. ``say`` is told what is being done."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        request: StreamRequest,
        scratch: Path,
        bounds: Bounds,
        policy: TensorPolicy,
        say: Say,
    ) -> None:
        self.request, self.scratch, self.bounds, self.policy, self.say = request, scratch, bounds, policy, say
        self.native = native.StreamedTransformer(checkpoint)
        self.numbers = request.blocks or tuple(range(len(self.native)))
        self.rows: list[Row] = []
        self.seconds: list[dict[str, float]] = []
        self.inside: list[Row] = []
        check_numbers(self.numbers, len(self.native), request)

    def run(self, official: Service) -> None:
        """Fill ``rows`` and ``seconds``."""
        for done, number in enumerate(self.numbers):
            self.say(f"block {number}", done, len(self.numbers))
            if done == 0 or (self.request.trace is not None and number != self.numbers[done - 1] + 1):
                self._start(official, number)
            self._block(official, number)
        if self.numbers[-1] == len(self.native) - 1:
            self._velocity(official)

    # Before the blocks --------------------------------------------------------------------------------------------

    def _start(self, official: Service, number: int) -> None:
        """Both sides at the inputs of a block: those recorded, or drawn ones for the first that is compared."""
        r, inputs = self.request, self.scratch / "inputs.safetensors"
        self.perturbations: Any = None
        if r.trace is not None:
            named, off, self.perturbations = recorded_inputs(r, number)
            save_file(named, inputs)
            official.ask("begin", inputs=inputs, disabled=off, perturbations=native.described(self.perturbations))
            self.reference = self.own = native.args_of(named, off)
        else:
            weights, output = self.scratch / "rest.safetensors", self.scratch / "prepared.safetensors"
            drawn = native.synthetic_modalities(
                self.native.checkpoint, r.width, r.height, r.frames, r.frame_rate, r.text_tokens, r.sigma, r.seed
            )
            save_file(drawn, inputs)
            native.hand_over(self.native.model, weights)
            official.ask("prepare", weights=weights, inputs=inputs, output=output)
            theirs = load_file(output)
            self.own = native.prepare(self.native.model, drawn)
            self._compare("transformer.prepare", "TransformerArgsPreprocessor", theirs, native.flat(self.own), None, {}, {})
            self.reference = native.args_of(theirs)
            weights.unlink()
            self.native.let_go()
        self.tokens = {name: args.x.shape[1] for name, args in zip(native.MODALITIES, self.reference, strict=True)}

    # Blocks -------------------------------------------------------------------------------------------------------

    def _block(self, official: Service, number: int) -> None:
        weights, output = self.scratch / "block.safetensors", self.scratch / "tokens.safetensors"
        block = self.native.block(number)
        native.hand_over(block, weights)
        if self.request.plant is not None and self.request.plant[1] == number:
            PLANTS[self.request.plant[0]](block)
        official.send("block", index=number, weights=weights, output=output)
        local, spent = timed(partial(native.run_block, block, self.reference, self.perturbations))
        given = native.tokens_of(self.own)
        total = native.run_block(block, self.own, self.perturbations) if self.request.own_run else None
        answer = official.answer()
        weights.unlink()
        theirs = load_file(output)
        before = len(self.rows)
        self._compare(
            f"{SITE}{number}",
            "BasicAVTransformerBlock",
            _leaves(theirs),
            None if total is None else _leaves(native.tokens_of(total)),
            _leaves(native.tokens_of(local)),
            native.tokens_of(self.reference),
            given,
        )
        self.seconds.append({"block": number, "native_s": spent["seconds"], "official_s": answer["seconds"]})
        if failing(self.rows[before:], self.bounds) and not self.inside:
            self._descend(official, number, block)
        self.reference = native.with_tokens(self.reference, theirs)
        self.own = self.own if total is None else total
        del block
        native.free()

    def _descend(self, official: Service, number: int, block: Any) -> None:
        """Every module inside a guilty block, on the reference's recorded inputs; put before the block's own rows."""
        self.say(f"inside block {number}", 0, 0)
        folder = self.scratch / f"inside-{number}"
        official.ask("inside", trace=folder, **{"pass": self.request.guidance_pass})
        trace = Trace(folder)
        site = f"{SITE}{number}"
        records = [record for record in trace.records if record.key.site != site and skip_rule(record) is None]
        modules = {(STAGE, name): module for name, module in sites_of(site, block).items()}
        pairs = Alignment(tuple((record, None) for record in records), ())
        self.inside = measure_pairs(pairs, trace, trace, Replayer(modules, trace))
        at = next(i for i, row in enumerate(self.rows) if row.key.site == site)
        self.rows[at:at] = self.inside

    def _velocity(self, official: Service) -> None:
        weights, output = self.scratch / "rest.safetensors", self.scratch / "velocity.safetensors"
        native.hand_over(self.native.model, weights)
        official.ask("velocity", weights=weights, output=output)
        own = native.velocities(self.native.model, self.own) if self.request.own_run else None
        local = native.velocities(self.native.model, self.reference)
        given = native.tokens_of(self.own) if self.request.own_run else {}
        self._compare("transformer", "LTXModel", load_file(output), own, local, native.tokens_of(self.reference), given)

    def _compare(
        self, site: str, type_name: str, reference: Tensors, total: Tensors | None, local: Tensors | None,
        inputs_reference: Tensors, inputs_native: Tensors,
    ) -> None:  # fmt: skip
        """Rows of one place. What has no local (nothing was handed in) answers for its total."""
        key = Key(site, STAGE, STEP, self.request.guidance_pass, 0)
        record = Record(len(self.rows), key, "module", type_name, {}, {})
        dtypes = dict.fromkeys(reference, "float32")
        local = total if local is None else local
        sides = Sides(reference, total, local, dtypes, inputs_reference, inputs_native if self.request.own_run else {})
        self.rows += compare_pair(record, sides)

    def result(self) -> CaseResult:
        rows = tuple(self.rows)
        bad = {id(row) for row in failing(rows, self.bounds)}
        ends = [row for row in rows if row.key == rows[-1].key and row.total is not None] if rows else []
        return CaseResult(
            name="stream",
            request={name: str(value) for name, value in vars(self.request).items()},
            dtype="float32",
            coverage=Coverage(len(rows), len(rows), {}, (), ()),
            rows=rows,
            failed=frozenset(i for i, row in enumerate(rows) if id(row) in bad),
            finding=first_guilty(rows, self.bounds, self.policy.wiring),
            end_to_end=tuple(EndToEnd(row.name, "rel_l2", row.total.rel_l2, self.policy.latents) for row in ends if row.total),
        )


def compare_streamed(
    checkpoint: Checkpoint,
    request: StreamRequest,
    output: Path | None = None,
    scratch: Path | None = None,
    say: Say = lambda what, done, total: None,
) -> StreamResult:
    """Run both sides block by block; with ``output``, write results.json and report.html there.

    ``scratch`` takes one block's float32 weights at a time (1.6 GB at the true size) and is left empty. Raises
    `ReferenceUnavailable`, `UserError`, `TraceError`, or ValueError for block numbers the model does not have.
    """
    bounds, policy = load_bounds("float32"), load_policy()
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="stream-") as temporary:
        folder = Path(temporary)
        config = folder / "config.json"
        config.write_text(json.dumps(checkpoint.located.raw_config), encoding="utf-8")
        streaming = Stream(checkpoint, request, folder, bounds, policy, say)
        with official("blocks", [f"--config={config}"]) as theirs:
            streaming.run(theirs)
    case = streaming.result()
    judgement = judge_tensors([case])
    peaks = {"native": usage()["peak_bytes"], "reference": theirs.peak_bytes}
    found = StreamResult(case, judgement, peaks, streaming.seconds, streaming.tokens)
    if output is not None:
        _write(found, output, bounds)
    return found


def _leaves(tokens: Tensors) -> dict[str, Array]:
    """Running tokens under the names that a block's outputs have in a trace."""
    return {f"{i}.x": tokens[f"{modality}.x"] for i, modality in enumerate(native.MODALITIES)}


def _write(found: StreamResult, output: Path, bounds: Bounds) -> None:
    results = output / "results.json"
    about = {"peak_bytes": found.peak_bytes, "seconds": found.seconds, "tokens": found.tokens}
    write_json(
        results,
        {
            "schema": SCHEMA,
            "verdict": found.judgement.verdict,
            "reasons": found.judgement.reasons,
            "environment": provenance.environment(),
            "cases": [case_to_json(found.case, bounds)],
            "stream": about,
        },
    )
    build_report(results)
