"""From three traces to a table: the distance of every pair at every common site, and who departs there. NumPy only."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.arbitration.departures import Departure, excuse, is_excuse, known
from parity.sites import compared_outputs, to_native_layout
from parity.trace import Record, Trace, Tree, leaves

Array = npt.NDArray[Any]
CLI_PACKAGE = "ltx-pipelines-mlx"  # its version is the CLI's
SIDES = ("native", "cli", "official")
PAIRS = (("native", "official"), ("cli", "official"), ("native", "cli"))
TOLERANCE = 1e-5  # rel_l2 in float32, below which two sides say the same
APART = 10.0  # the outlier is at least so many times farther from the other two than they are from each other
JUMP = 5.0  # an onset exceeds what came before it by this factor
SOURCES = ("tokenizer", "schedule", "noise.*")  # they take nothing from what ran before them
FIRST = "state.*"  # nor does the state that a run begins with; that of stage 2 comes from stage 1
TIMING = "transformer.*adaln_single*"  # in the first step they take the first sigma alone, which all sides share


@dataclass(frozen=True)
class Row:
    """rel_l2 by pair at one leaf of one record. `departs` is a side, `all` (no two agree), `shape` (NaN), or empty."""

    site: str
    place: str
    leaf: str
    native_official: float
    cli_official: float
    native_cli: float
    departs: str
    onset: bool
    departure: str

    @property
    def excused(self) -> bool:
        """Nothing of the CLI's begins here, or a listed departure that holds for its version."""
        return is_excuse(self.departure)

    def to_json(self) -> dict[str, Any]:
        return {name: None if value != value else value for name, value in asdict(self).items()}


def arbitrate(traces: Mapping[str, Trace], departures: Sequence[Departure] = (), sites: Sequence[str] = ()) -> list[Row]:
    """Rows in the official code's order of execution, for every site (of these globs) that all three sides recorded.

    A departure excuses a site only on the versions of the CLI that it was seen on; the CLI's trace says which one ran.
    Raises ValueError when there is no such site: an empty table is no evidence.
    """
    records = {side: traces[side].by_key() for side in SIDES}
    masks = _masks(traces["official"])
    version = traces["cli"].manifest.get("versions", {}).get(CLI_PACKAGE)
    rows: list[Row] = []
    reached = {"": 0.0, TIMING: 0.0}
    for key, official in records["official"].items():
        if key not in records["native"] or key not in records["cli"]:
            continue
        if sites and not any(fnmatch.fnmatchcase(key.site, pattern) for pattern in sites):
            continue
        found = {side: _leaves(records[side][key]) for side in SIDES}
        ours = list(found["official"])
        for leaf, native_leaf in compared_outputs(official, ours).items():
            picked = {
                "official": found["official"][leaf],
                "native": _pick(found["native"], native_leaf, ours),
                "cli": _pick(found["cli"], leaf, ours),
            }
            arrays = {side: None if tree is None else traces[side].tensor(tree) for side, tree in picked.items()}
            shaped = _shaped(key.site, leaf, arrays)
            mask = masks.get(key.call) if _masked(key.site) else None
            native_official, cli_official, native_cli = (_distance(shaped[a], shaped[b], mask) for a, b in PAIRS)
            departs = _who(native_official, cli_official, native_cli)
            timing = key.step == 0 and fnmatch.fnmatchcase(key.site, TIMING)
            sources = (*SOURCES, FIRST) if key.stage == "stage_1" else SOURCES
            source = any(fnmatch.fnmatchcase(key.site, pattern) for pattern in sources)
            before = 0.0 if source else reached[TIMING if timing else ""]
            onset = departs in ("cli", "all") and not cli_official <= max(before * JUMP, TOLERANCE)
            listed = known(departures, key.site, leaf, version) if onset else None
            name = excuse(listed, version) if onset else ""
            if cli_official == cli_official and not (listed and listed.benign):
                for group in ("", TIMING) if timing else ("",):
                    reached[group] = max(reached[group], cli_official)
            place = str(key).removeprefix(key.site).strip()
            rows.append(Row(key.site, place, leaf, native_official, cli_official, native_cli, departs, onset, name))
    if not rows:
        raise ValueError("no site was recorded on all three sides: nothing was arbitrated")
    return rows


def _who(native_official: float, cli_official: float, native_cli: float) -> str:
    distances = {"cli": native_official, "native": cli_official, "official": native_cli}  # by the side left out of the pair
    if any(value != value for value in distances.values()):
        return "shape"
    if max(distances.values()) <= TOLERANCE:
        return ""
    outlier = min(distances, key=lambda side: distances[side])
    others = min(value for side, value in distances.items() if side != outlier)
    return outlier if others >= APART * distances[outlier] else "all"


def _leaves(record: Record) -> dict[str, Tree]:
    return {path: leaf for path, leaf in leaves(record.outputs) if "tensor" in leaf}


def _pick(found: Mapping[str, Tree], leaf: str, ours: Sequence[str]) -> Tree | None:
    """The same leaf of another side: by name, by its first part (a block gives a pair of arrays there), or by position."""
    if leaf in found:
        return found[leaf]
    first = leaf.partition(".")[0]
    if first in found:
        return found[first]
    at = ours.index(leaf)
    return list(found.values())[at] if at < len(found) and not set(found) & set(ours) else None


def _shaped(site: str, leaf: str, arrays: Mapping[str, Array | None]) -> Mapping[str, Array | None]:
    official = arrays["official"]
    assert official is not None
    official = to_native_layout(site, official)
    if site.startswith("state.") and leaf == "positions" and (cli := arrays["cli"]) is not None and cli.ndim == 3:
        # The CLI keeps midpoints (B, T, axes); the others keep both ends (B, axes, T, 2).
        middle = {side: a for side, a in (("official", official), ("native", arrays["native"])) if a is not None}
        return {"cli": cli} | {side: np.moveaxis(a.mean(-1), 1, 2) if a.ndim == 4 else a for side, a in middle.items()}
    return {side: official if side == "official" else _fit(array, official.shape) for side, array in arrays.items()}


def _fit(array: Array | None, shape: tuple[int, ...]) -> Array | None:
    """The array in this shape: as it is, with axes of length 1 dropped, or with its channels moved."""
    if array is None or array.shape == shape:
        return array
    if array.size != int(np.prod(shape)):
        return _repeated(array, shape)
    squeezed, wanted = array.squeeze(), tuple(n for n in shape if n != 1)
    if squeezed.shape == wanted:
        return squeezed.reshape(shape)
    if array.ndim == len(shape) > 2:
        for axes in itertools.permutations(range(array.ndim)):
            if axes[0] == 0 and tuple(array.shape[i] for i in axes) == shape:
                return np.transpose(array, axes)
    return None


def _repeated(array: Array, shape: tuple[int, ...]) -> Array | None:
    """One row for all tokens, as a side computes it that knows them to share their sigma."""
    wide = array.size == shape[-1] and (array.ndim == 0 or array.shape[-1] == shape[-1])
    return np.broadcast_to(array.reshape(shape[-1]), shape) if wide and len(shape) > 1 else None


def _distance(a: Array | None, b: Array | None, mask: Array | None) -> float:
    """‖a − b‖ / ‖b‖ over valid tokens; NaN when the two do not meet."""
    if a is None or b is None or a.shape != b.shape:
        return float("nan")
    x, y = a.astype(np.float64), b.astype(np.float64)
    if mask is not None and x.ndim >= 2 and mask.shape[0] in x.shape:
        axis = x.shape.index(mask.shape[0])
        x, y = np.compress(mask, x, axis=axis), np.compress(mask, y, axis=axis)
    scale = float(np.linalg.norm(y))
    return float(np.linalg.norm(x - y)) / (scale or 1.0)


def _masks(trace: Trace) -> dict[int, Array]:
    found = {}
    for record in trace.site("tokenizer"):
        mask = trace.tensor(_leaves(record)["attention_mask"])
        found[record.key.call] = mask.reshape(-1).astype(bool)
    return found


def _masked(site: str) -> bool:
    """Text sites before the connectors still have padding; what stands there is nobody's business."""
    return site.split(".")[0] == "gemma" or ".feature_extractor" in site


def table(rows: Sequence[Row], every: bool = False) -> str:
    """The onsets and the roots as text; `every` row on demand."""
    shown = [row for row in rows if every or row.onset or ("." not in row.site) or row.site.startswith(("latent", "guidance"))]
    head = f"{'site':44} {'place':34} {'leaf':14} {'nat-off':>8} {'cli-off':>8} {'nat-cli':>8}  departs"
    lines = [head, "-" * len(head)]
    for row in shown:
        mark = f"{row.departs or '-'}{'  <- begins here: ' + row.departure if row.onset else ''}"
        numbers = " ".join(f"{value:8.1e}" for value in (row.native_official, row.cli_official, row.native_cli))
        lines.append(f"{row.site[-44:]:44} {row.place[:34]:34} {row.leaf[-14:]:14} {numbers}  {mark}")
    counts = {side: sum(row.departs == side for row in rows) for side in (*SIDES, "all", "shape", "")}
    lines.append(
        f"{len(rows)} values: {counts['']} agree, native departs at {counts['native']}, cli at {counts['cli']}, "
        f"official at {counts['official']}, {counts['all']} undecided, {counts['shape']} of shapes that do not meet"
    )
    return "\n".join(lines)
