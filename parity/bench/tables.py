"""The findings as a table of text: one line a number that somebody asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parity.bench import one_block, recording, steps, throughput

Found = Mapping[str, Any]


def table(found: Found) -> str:
    lines = []
    for section, rows in SECTIONS.items():
        if section in found:
            lines += [section, *(f"  {line}" for line in rows(found[section])), ""]
    return "\n".join(lines)


def _times(row: Found, unit: float, name: str) -> str:
    return " – ".join(f"{unit * row[name][key]:.4g}" for key in ("min", "median", "max"))


def _engines(row: Found) -> Iterator[str]:
    for engine, told in row.items():
        if isinstance(told, Mapping) and "cpu_s" in told and "wall_s" in told:
            memory = row.get("peak_bytes", {})
            peak = f", peak {memory[engine] / 1e9:.2f} GB" if isinstance(memory, Mapping) and engine in memory else ""
            yield f"{engine:10} cpu {_times(told, 1e3, 'cpu_s')} ms, wall {_times(told, 1e3, 'wall_s')} ms{peak}"
    for pair, told in row.items():
        if " ÷ " in pair:
            yield f"{pair}: cpu {_times(told, 1, 'cpu')}, wall {_times(told, 1, 'wall')}"


def _steps(found: Found) -> Iterator[str]:
    for name, row in found.items():
        tokens = ", ".join(f"{count} {kind.removesuffix('_tokens')}" for kind, count in row["tokens"].items())
        yield f"{name} ({tokens} tokens, {row['rounds']} rounds)"
        yield from (f"  {line}" for line in _engines(row))
        preset, _, what = name.partition(" ")
        for (wanted, other), limit in steps.TARGETS.items():
            if wanted == preset and what == "forward" and f"native ÷ {other}" in row:
                median = row[f"native ÷ {other}"]["cpu"]["median"]
                yield f"  target: native ÷ {other} at most {limit}: {median:.3f} {_verdict(median <= limit)}"


def _block(found: Found) -> Iterator[str]:
    for variant, row in found.items():
        yield f"{variant} ({row['tokens'][0]} video, {row['tokens'][1]} audio tokens)"
        yield from (f"  {line}" for line in _engines(row))
        worst, peak = max(row["rel_l2"].values()), max(row["peak_bytes"].values())
        good = worst <= one_block.TARGETS["rel_l2"] and peak <= one_block.TARGETS["peak_bytes"]
        errors = ", ".join(f"{modality} {error:.3g}" for modality, error in row["rel_l2"].items())
        yield f"  rel_l2 {errors}; peak {peak / 1e9:.2f} GB {_verdict(good)}"


def _modes(found: Found) -> Iterator[str]:
    yield "mode           step cpu ms native/official ratio   process cpu s       peak GB"
    for name, row in found.items():
        if "official" not in row:
            ours, why = row["native"], row["left out"]["official"]
            yield (
                f"{name:14} {1e3 * ours['step']['cpu_s']['median']:8.2f} /        –           –"
                f"   {ours['process']['cpu_s']['median']:6.2f} /      –   {ours['peak_bytes']['median'] / 1e9:.2f} / –  ({why})"
            )
            continue
        ours, theirs, ratio = row["native"], row["official"], row["native ÷ official"]
        steps_ms = [1e3 * side["step"]["cpu_s"]["median"] for side in (ours, theirs)]
        cpu = [side["process"]["cpu_s"]["median"] for side in (ours, theirs)]
        peak = [side["peak_bytes"]["median"] / 1e9 for side in (ours, theirs)]
        yield (
            f"{name:14} {steps_ms[0]:8.2f} / {steps_ms[1]:8.2f}      {ratio['step']['cpu']['median']:6.2f}"
            f"   {cpu[0]:6.2f} / {cpu[1]:6.2f}   {peak[0]:.2f} / {peak[1]:.2f}"
        )
    for name, row in list(found.items())[:1]:
        yield from _stages(name, row)


def _stages(name: str, row: Found) -> Iterator[str]:
    for engine in ("native", "official"):
        spent = sorted(row[engine]["stages_s"].items(), key=lambda item: -item[1]["median"])
        yield f"{name}, {engine} stages in s: " + ", ".join(f"{stage} {told['median']:.3f}" for stage, told in spent)


def _cli(found: Found) -> Iterator[str]:
    """Whole processes, their stages side by side, and ratios of what is the same work; the rest is named, not divided."""
    for name, row in found.items():
        yield f"{name} ({row['rounds']} rounds, ltx-2-mlx {row['version']})"
        engines = [
            engine for engine, told in row.items() if isinstance(told, Mapping) and "process" in told and " ÷ " not in engine
        ]
        for engine in engines:
            told = row[engine]
            whole, peak = told["process"], told["peak_bytes"]["median"] / 1e9
            yield (
                f"  {engine:10} process cpu {_times(whole, 1, 'cpu_s')} s, wall {_times(whole, 1, 'wall_s')} s, "
                f"peak {peak:.2f} GB; {told['steps']} steps of cpu {_times(told['step'], 1e3, 'cpu_s')} ms"
            )
        yield f"  {'cpu s':10} " + " ".join(f"{engine:>10}" for engine in engines)
        for stage in row[engines[0]]["stages_cpu_s"]:
            spent = [row[engine]["stages_cpu_s"][stage]["median"] for engine in engines]
            unlike = [pair for pair, told in row.items() if " ÷ " in pair and stage in told["not the same work"]]
            note = f"  not the same work: {', '.join(pair.split(' ÷ ')[1] for pair in unlike)}" if unlike else ""
            yield (
                f"  {stage:10} " + " ".join(f"{seconds:10.3f}" for seconds in spent) + note
                if any(spent)
                else f"  {stage:10} none"
            )
        for pair, told in row.items():
            if " ÷ " in pair:
                ratios = {stage: spread for stage, spread in told.items() if stage != "not the same work"}
                yield f"  {pair}: " + ", ".join(f"{stage} {spread['median']:.2f}" for stage, spread in ratios.items())
        yield from (f"  {engine} left out: {why}" for engine, why in row["left out"].items())


def _growth(found: Found) -> Iterator[str]:
    for axis, row in found.items():
        exponents = ", ".join(f"{engine} ∝ x^{p:.2f}" for engine, p in row["exponents"].items())
        yield f"{axis}: {exponents}"
        for point in row["points"]:
            times = ", ".join(f"{engine} {1e3 * point[engine]['cpu_s']['median']:.1f} ms" for engine in row["exponents"])
            yield f"  {point['x']:5}: {times}"


def _recording(found: Found) -> Iterator[str]:
    for what, row in found.items():
        yield f"{what} (sketched by {row.get('sketched_by', 'NumPy')})"
        for kind, limit in recording.LIMITS.items():
            told = row[f"{kind} ÷ untapped"]["cpu"]
            yield f"  {kind} ÷ untapped: cpu {_times({'v': told}, 1, 'v')} (limit {limit}) {_verdict(told['median'] <= limit)}"


def _throughput(found: Found) -> Iterator[str]:
    limit = throughput.TARGETS["gb_per_s"]
    for name in throughput.PAIRS:
        told = found[name]["gb_per_s"]
        yield f"{name:10} {_times({'v': told}, 1, 'v')} GB/s (at least {limit}) {_verdict(told['median'] >= limit)}"
    extra = found["extra_bytes"]
    yield f"memory above the tensors: {extra / 1e6:.1f} MB {_verdict(extra <= throughput.TARGETS['extra_bytes'])}"


def _verdict(good: bool) -> str:
    return "✓" if good else "✗"


SECTIONS = {
    "steps": _steps,
    "block": _block,
    "modes": _modes,
    "cli": _cli,
    "growth": _growth,
    "recording": _recording,
    "throughput": _throughput,
}
