"""Match the reference's records with the native ones, all of them: what has no partner is named, never dropped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from parity.sites import REPLAY_ONLY, SkipRule, component_of, native_only, order_of, skip_rule
from parity.trace import Key, Record


@dataclass(frozen=True)
class Coverage:
    """How many reference records were compared, skipped by which rule, or found no partner (keys are listed)."""

    reference_records: int
    compared: int
    skipped: dict[str, int]
    unmatched_reference: tuple[Key, ...]
    unmatched_native: tuple[Key, ...]

    @property
    def complete(self) -> bool:
        return not self.unmatched_reference and not self.unmatched_native and self.compared > 0

    def sentence(self) -> str:
        parts = [f"{self.reference_records} reference records: {self.compared} compared"]
        parts += [f"{count} skipped by rule {rule}" for rule, count in sorted(self.skipped.items())]
        parts.append(f"{len(self.unmatched_reference)} without a native partner")
        parts.append(f"{len(self.unmatched_native)} native without a reference")
        return ", ".join(parts)


@dataclass(frozen=True)
class Alignment:
    """Pairs in the reference's execution order (no native record where a site is replayed only), and all the rest."""

    pairs: tuple[tuple[Record, Record | None], ...]
    skipped: tuple[tuple[Record, SkipRule], ...]
    unmatched_reference: tuple[Record, ...] = field(default=())
    unmatched_native: tuple[Record, ...] = field(default=())

    def coverage(self) -> Coverage:
        by_rule: dict[str, int] = {}
        for _, rule in self.skipped:
            by_rule[rule.name] = by_rule.get(rule.name, 0) + 1
        return Coverage(
            reference_records=len(self.pairs) + len(self.skipped) + len(self.unmatched_reference),
            compared=len(self.pairs),
            skipped=by_rule,
            unmatched_reference=tuple(record.key for record in self.unmatched_reference),
            unmatched_native=tuple(record.key for record in self.unmatched_native),
        )


def align(reference: Iterable[Record], native: Iterable[Record], mode: str = "") -> Alignment:
    """Pair records by their key (site, stage, step, guidance pass, call); ``mode`` says what the reference does not make.

    Raises `ValueError` when one side holds a key twice, because then a pair would be a guess.
    """
    natives = _unique(native, "native")
    references = _unique(reference, "reference")
    pairs: list[tuple[Record, Record | None]] = []
    skipped: list[tuple[Record, SkipRule]] = []
    unmatched: list[Record] = []
    for key, record in references.items():
        partner = natives.pop(key, None)
        rule = skip_rule(record)
        if rule is not None:
            skipped.append((record, rule))
        elif partner is None and key.site not in REPLAY_ONLY:
            unmatched.append(record)
        else:
            pairs.append((record, partner))
    left = tuple(record for record in natives.values() if not native_only(record.key.site, mode))
    return Alignment(tuple(pairs), tuple(skipped), tuple(unmatched), left)


def _unique(records: Iterable[Record], side: str) -> dict[Key, Record]:
    found: dict[Key, Record] = {}
    for record in records:
        if record.key in found:
            raise ValueError(f"{side}: {record.key} was recorded twice; the probe must tell the calls apart")
        found[record.key] = record
    return found


def execution_order(key: Key, index: int) -> tuple[int, int]:
    """Sort key that lists components in the pipeline's order and records within one in theirs."""
    return (order_of(component_of(key.site)), index)
