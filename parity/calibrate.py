"""`parity calibrate`: measure what the reference differs from itself, and by how much its own rounding moves a whole run.

Three comparisons of the reference with itself, module by module on the same inputs: float32 with float64, bfloat16 with
float32, and one run with another. Then the run is repeated from an initial latent nudged by the float32 floor of the
transformer: what comes out of that is the reference's self-divergence, the least that an end-to-end bound may ask for.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from parity.capture.reference import Checkpoint, ReferenceCache, arguments_of, reference_replay, run_official
from parity.cases import Case
from parity.floors import Calibration, Floor, config_sha256, fingerprint, kinds
from parity.measure_case import tensors
from parity.metrics import MetricError, measure
from parity.precision import measure_precision
from parity.sites import compared_outputs, component_of, skip_rule
from parity.trace import Record, Trace

Say = Callable[[str], None]
Growth = dict[str, tuple[float, ...]]


def calibrate(checkpoint: Checkpoint, case: Case, cache: ReferenceCache, name: str, say: Say = lambda _: None) -> Calibration:
    """Run the reference five times (once from the cache) and measure. Raises `ReferenceUnavailable` or `TraceError`."""
    say(f"{case.name}: the run …")
    truth, _ = cache.capture(case, checkpoint)
    steps = sorted({0, case.steps - 1})
    found: dict[str, dict[str, tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory(prefix="calibrate-") as temporary:
        folder = Path(temporary)
        for label, dtype in (("float32", "float64"), ("bfloat16", "bfloat16")):
            say(f"{case.name}: every module again in {dtype} …")
            lowered = reference_replay(truth, checkpoint, dtype, folder / dtype, steps)
            rows, _ = measure_precision(truth, lowered, lambda _: None)
            found[label] = kinds([(row.key.site, row.type, row.floor) for row in rows])
        say(f"{case.name}: the run again …")
        again, _ = ReferenceCache(folder / "again").capture(case, checkpoint)
        found["repeat"] = kinds(repeated(truth, again))
        nudge = found["float32"].get("transformer:LTXModel", (0.0, 0))[0] or float(np.finfo(np.float32).eps)
        say(f"{case.name}: the run from a start moved by {nudge:.1e} …")
        divergence, growth = self_divergence(checkpoint, case, truth, nudge, folder)
    floors = tuple(
        Floor(kind, found["float32"][kind][0], found["bfloat16"].get(kind, (0.0, 0))[0], repeat, count)
        for kind, (repeat, count) in sorted(found["repeat"].items())
        if kind in found["float32"]
    )
    versions = fingerprint(truth.manifest["versions"])
    today = datetime.now(UTC).date().isoformat()
    return Calibration(name, config_sha256(checkpoint.model), case.name, today, versions, nudge, divergence, floors, growth)


def repeated(one: Trace, other: Trace) -> list[tuple[str, str, float | None]]:
    """(site, type, rel_l2) of every compared module output of two runs; a record that only one run has cannot be measured.

    Calls are paired by their inputs where these are the same bits, because the order of calls may be no one's choice: the text
    encoder makes its rotary tables in the order of a set.
    """
    partners = other.by_key()
    same_inputs = {_content(record): record for record in other.records}
    rows: list[tuple[str, str, float | None]] = []
    for record in one.records:
        if record.kind != "module" or skip_rule(record):
            continue
        ours = tensors(one, record.outputs)
        partner = same_inputs.get(_content(record)) or partners.get(record.key)
        theirs = tensors(other, partner.outputs) if partner else {}
        for path in compared_outputs(record, list(ours)):
            try:
                value: float | None = measure(theirs[path], ours[path]).rel_l2
            except (KeyError, MetricError):
                value = None
            rows.append((record.key.site, record.type, value))
    return rows


def _content(record: Record) -> tuple[str, str, int | None, str | None, str]:
    key = record.key
    return key.site, key.stage, key.step, key.guidance_pass, json.dumps(record.inputs, sort_keys=True)


def self_divergence(
    checkpoint: Checkpoint, case: Case, truth: Trace, nudge: float, folder: Path
) -> tuple[dict[str, float], Growth]:
    """How far latents (rel_l2), frames and waveform (max_abs, peak 1) move when the initial noise moves by ``nudge``.

    And each modality's latent after every step, rel_l2.
    """
    rng = np.random.default_rng(20_261)
    draws: dict[str, np.ndarray] = {}
    for record in truth.records:
        if component_of(record.key.site) == "noise":
            noise = truth.tensor(record.outputs)
            direction = rng.standard_normal(noise.shape)
            direction *= np.linalg.norm(noise) / np.linalg.norm(direction)
            draws[f"draw.{int(record.inputs['draw']['value']):05d}"] = (noise + nudge * direction).astype(noise.dtype)
    save_file(draws, folder / "noise.safetensors")
    output, trace = folder / "nudged.mp4", folder / "nudged"
    arguments = [*arguments_of(case, checkpoint), f"--output={output}", f"--trace={trace}"]
    arguments += [f"--noise={folder / 'noise.safetensors'}", "--sites", "sampler.*", "latent.*", "frames", "waveform"]
    run_official([*arguments, "--outputs-only", "--quiet"])
    nudged = Trace(trace)
    return _ends(truth, nudged), {modality: _steps(truth, nudged, f"sampler.{modality}") for modality in ("video", "audio")}


def _steps(truth: Trace, nudged: Trace, site: str) -> tuple[float, ...]:
    pairs = zip(nudged.site(site), truth.site(site), strict=True)
    return tuple(measure(nudged.tensor(ours.outputs), truth.tensor(theirs.outputs)).rel_l2 for ours, theirs in pairs)


def _ends(truth: Trace, nudged: Trace) -> dict[str, float]:
    found: dict[str, float] = {}
    for site in ("latent.video", "latent.audio"):
        pair = [_last(trace, site) for trace in (nudged, truth)]
        if all(array is not None for array in pair):
            found[site] = measure(pair[0], pair[1]).rel_l2  # type: ignore[arg-type]
    for site, leaf, peak in (("frames", "frames", 255.0), ("waveform", "audio", 1.0)):
        arrays = [[t.tensor(r.outputs["fields"][leaf]) for r in t.site(site)] for t in (nudged, truth)]
        if arrays[0] and len(arrays[0]) == len(arrays[1]):
            found[site] = max(measure(a / peak, b / peak).max_abs for a, b in zip(*arrays, strict=True))
    return found


def _last(trace: Trace, site: str) -> np.ndarray | None:
    records = trace.site(site)
    return trace.tensor(records[-1].outputs) if records else None


def justification(divergence: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """One line per end-to-end bound: what the reference's own rounding does to it, and how often that fits into the bound."""
    lines = []
    for name, value in divergence.items():
        limit = limits["latents" if name.startswith("latent.") else name]
        times = f"{limit / value:.0f} times" if value else "beyond"
        lines.append(f"{name}: the reference moves by {value:.1e} from its own rounding; the bound {limit:.1e} is {times} that")
    return lines


def unjustified(divergence: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """Ends whose bound is below what the reference does to itself."""
    return [n for n, value in divergence.items() if value > limits["latents" if n.startswith("latent.") else n]]
