"""Rows and end-to-end numbers of one case from its two traces and the native replay. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from parity.align import Alignment
from parity.compare import Row, Sides, compare_pair
from parity.gate import TensorPolicy
from parity.metrics import measure
from parity.results import EndToEnd
from parity.sites import component_of, mask_key, native_only, to_native_layout
from parity.trace import Key, Record, Trace, Tree, leaves

Array = npt.NDArray[Any]
# Native outputs of a module on the reference's inputs, or the reason why there are none.
Replay = Callable[[Record], "dict[str, Array] | str | None"]


def tensors(trace: Trace, tree: Tree, site: str | None = None) -> dict[str, Array]:
    """Tensors of a tree by leaf path, moved to the native layout when a site is given."""
    found = {}
    for path, leaf in leaves(tree):
        if "tensor" in leaf:
            array = trace.tensor(leaf)
            found[path] = array if site is None else to_native_layout(site, array)
    return found


def measure_pairs(alignment: Alignment, reference: Trace, native: Trace, replay: Replay) -> list[Row]:
    """All rows of a case in execution order."""
    masks = Masks(reference)
    rows: list[Row] = []
    for record, partner in alignment.pairs:
        site = record.key.site
        local = replay(record)
        outputs = tensors(reference, record.outputs, site)
        padded = {path: mask_of(masks, reference, record, path, tensor) for path, tensor in outputs.items()}
        rows += compare_pair(
            record,
            Sides(
                reference=outputs,
                total=tensors(native, partner.outputs) if partner else None,
                local=local if isinstance(local, dict) else None,
                dtypes={path: str(leaf["dtype"]) for path, leaf in leaves(record.outputs) if "tensor" in leaf},
                inputs_reference=_inputs(reference, record, site),
                inputs_native=_inputs(native, partner, None) if partner else {},
                mask=masks.of(record.key),
                output_masks={path: mask for path, mask in padded.items() if mask is not None},
                problem=local if isinstance(local, str) else "",
            ),
        )
    return rows


def _inputs(trace: Trace, record: Record, site: str | None) -> dict[str, Array]:
    return tensors(trace, {"fields": record.inputs}, site)


class Masks:
    """Token masks of components that have padding, read once per prompt."""

    def __init__(self, reference: Trace) -> None:
        self._reference = reference
        self._records = {record.key: record for record in reference.records if record.key.site == component_of(record.key.site)}
        self._found: dict[Key, Array | None] = {}

    def of(self, key: Key) -> Array | None:
        wanted = mask_key(key)
        if wanted is None:
            return None
        if wanted not in self._found:
            record = self._records.get(wanted)
            leaf = record.inputs.get("attention_mask") if record else None
            self._found[wanted] = self._reference.tensor(leaf).astype(bool) if leaf and "tensor" in leaf else None
        return self._found[wanted]


def mask_of(masks: Masks, trace: Trace, record: Record, path: str, tensor: Array) -> Array | None:
    """Valid tokens of an output: of Gemma's states, and of the ids (not of the mask) that the tokenizer gives."""
    mask = masks.of(record.key)
    if component_of(record.key.site) == "tokenizer" and path == "input_ids":
        mask = trace.tensor(record.outputs["fields"]["attention_mask"]).astype(bool)
    return mask if mask is not None and tensor.ndim >= 2 and tensor.shape[:2] == mask.shape else None


def end_to_end(
    reference: Trace, native: Trace, media: Mapping[str, tuple[Array, Array]], policy: TensorPolicy, mode: str = ""
) -> tuple[EndToEnd, ...]:
    """Final latents (rel_l2), frames in [0, 1] and waveform (max_abs). ``media`` maps names to (native, reference)."""
    found = []
    for modality in ("video", "audio"):
        site = f"latent.{modality}"
        if native_only(site, mode):
            continue
        ours, theirs = native.site(site), reference.site(site)
        if not ours or len(ours) != len(theirs):
            return ()
        measured = measure(_only(native, ours[-1], None), _only(reference, theirs[-1], site))
        found.append(EndToEnd(site, "rel_l2", measured.rel_l2, policy.latents))
    for name, bound in (("frames", policy.frames), ("waveform", policy.waveform)):
        if name not in media:
            return ()
        ours_array, theirs_array = media[name]
        found.append(EndToEnd(name, "max_abs", measure(ours_array, theirs_array).max_abs, bound))
    return tuple(found)


def _only(trace: Trace, record: Record, site: str | None) -> Array:
    (array,) = tensors(trace, record.outputs, site).values()
    return array
