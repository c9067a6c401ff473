"""Rows and end-to-end numbers of one case from its two traces and the native replay. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.align import Alignment
from parity.compare import Row, Sides, compare_pair, mask_for
from parity.gate import TensorPolicy
from parity.metrics import measure
from parity.results import EndToEnd
from parity.sites import component_of, has_padding, native_only, to_native_layout
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
                mask=_given_mask(masks, reference, record),
                output_masks={path: mask for path, mask in padded.items() if mask is not None},
                problem=local if isinstance(local, str) else "",
            ),
        )
    return rows


def _inputs(trace: Trace, record: Record, site: str | None) -> dict[str, Array]:
    return tensors(trace, {"fields": record.inputs}, site)


class Masks:
    """Token masks of components that have padding, read once per prompt.

    A call inside such a component belongs to the root call that ends after it, whose `attention_mask` it is; a module may be
    called several times in one root call.
    """

    def __init__(self, reference: Trace) -> None:
        self._reference = reference
        self._found: dict[Key, Array | None] = {}
        self._roots: dict[Key, Record] = {}
        inside: list[Key] = []
        for record in reference.records:
            if has_padding(record.key.site):
                inside.append(record.key)
                if record.key.site == component_of(record.key.site):
                    self._roots.update(dict.fromkeys(inside, record))
                    inside.clear()

    def root(self, key: Key) -> Record | None:
        """The root call that a record belongs to; None where a component has no padding."""
        return self._roots.get(key)

    def of(self, key: Key) -> Array | None:
        root = self._roots.get(key)
        if root is None:
            return None
        if root.key not in self._found:
            leaf = root.inputs.get("attention_mask")
            self._found[root.key] = self._reference.tensor(leaf).astype(bool) if leaf and "tensor" in leaf else None
        return self._found[root.key]


def _given_mask(masks: Masks, reference: Trace, record: Record) -> Array | None:
    """Valid tokens among a record's inputs: its component's, or those of the mask (B, T) that it is handed itself."""
    mask = masks.of(record.key)
    leaf = record.inputs.get("attention_mask")
    if mask is None and leaf and "tensor" in leaf and len(leaf["shape"]) == 2:
        given = reference.tensor(leaf)
        return given.astype(bool) if np.isin(given, (0, 1)).all() else None
    return mask


def mask_of(masks: Masks, trace: Trace, record: Record, path: str, tensor: Array) -> Array | None:
    """Valid tokens of an output: of Gemma's states, and of the ids (not of the mask) that the tokenizer gives."""
    mask = masks.of(record.key)
    if component_of(record.key.site) == "tokenizer" and path == "input_ids":
        mask = trace.tensor(record.outputs["fields"]["attention_mask"]).astype(bool)
    return mask_for(mask, tensor)


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
