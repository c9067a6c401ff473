"""From the prompt to the contexts: tokens, masks of the text encoder, features of its states, registers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from parity.hypotheses.base import Array, Candidate, Suspect, hypotheses
from parity.hypotheses.functions import rms_norm


@hypotheses("tokenizer:*", "gemma:input_ids", "gemma:attention_mask")
def tokens(suspect: Suspect) -> Iterator[Candidate]:
    """Ids or mask of one prompt, left-padded to one length; ``given`` has the reference's ids and mask, and the text's ids."""
    g = suspect.given
    shape = suspect.native.shape
    if len(shape) > 1 and shape[0] > suspect.reference.shape[0]:
        both = np.concatenate([suspect.reference, suspect.native[suspect.reference.shape[0] :]])
        yield Candidate("batch.joint", f"{shape[0]} prompts in one batch instead of one by one", lambda: both)
        return
    ids, valid = (np.asarray(g[n]).reshape(-1) for n in ("input_ids", "attention_mask"))
    row, ours = ids[valid.astype(bool)], np.asarray(g.get("native_ids", suspect.native)).reshape(-1)
    length, wants_mask = ids.size, suspect.name == "attention_mask"
    pad = int(ids[0]) if not valid[0] else 0
    everything = list(g.get("all_ids", row))  # before anything is cut

    def padded(kept: Array, right: bool = False, size: int = length) -> Array:
        kept = np.asarray(kept)[:size]
        filled = np.ones_like(kept) if wants_mask else kept
        blank = np.full(size - len(kept), 0 if wants_mask else pad)
        line = np.concatenate([filled, blank] if right else [blank, filled])
        if wants_mask or right or "attention_mask" not in g or shape == valid.shape:
            return line.reshape(shape) if line.size == suspect.native.size else line
        return line.reshape(shape)

    yield Candidate("tokens.padding-side", "padding on the right instead of the left", lambda: padded(row, True))
    yield Candidate("tokens.bos-missing", "no begin-of-sequence token", lambda: padded(row[1:]))
    yield Candidate("tokens.bos-doubled", "the begin-of-sequence token twice", lambda: padded(np.concatenate([row[:1], row])))
    yield Candidate("tokens.eos-added", "an end-of-sequence token", lambda: padded(np.concatenate([row, [1]])))
    size = suspect.native.size
    if size != length:
        yield Candidate("tokens.length", f"{size} columns instead of {length}", lambda: padded(row, size=size))
    mine = _trimmed(ours, pad)
    if 1 < mine.size < row.size and np.array_equal(mine, row[: mine.size]):
        words = f"the first {mine.size} tokens only: a shortened prompt"
        yield Candidate("tokens.text-cut", words, lambda: padded(row[: mine.size]))
    body = mine[1:] if mine.size and mine[0] == row[0] else mine
    encode = g.get("encode")
    if encode is not None:
        text = str(g["text"])
        variants = {
            "tokens.strip": ("the prompt not stripped of its spaces", text),
            "tokens.case": ("the prompt in lower case", text.strip().lower()),
            "tokens.spaces": ("runs of spaces and line breaks made one space", " ".join(text.split())),
        }
        for cause, (words, changed) in variants.items():
            yield Candidate(cause, words, lambda t=changed: padded(np.asarray(encode(t))[:1024]))  # type: ignore[misc]
    # A prompt that is cut before it is split into tokens may begin with another first token.
    found = [at for skip in range(3) if body.size > skip + 8 and (at := _within(body[skip:], everything)) is not None]
    at = found[0] if found else None
    if at is not None and at > 3:
        words = f"the end of the prompt (from token {at} of {len(everything)}) instead of its beginning"
        yield Candidate("tokens.tail", words, lambda: padded(mine))


def _trimmed(ids: Array, pad: int) -> Array:
    """An ids row without its padding on either side."""
    kept = np.flatnonzero(ids != pad)
    return ids[kept[0] : kept[-1] + 1] if kept.size else ids[:0]


def _within(part: Array, whole: list[int]) -> int | None:
    """Where ``part`` stands in ``whole``, if it does."""
    size = len(part)
    if not 0 < size <= len(whole):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(whole), size)
    found = np.flatnonzero((windows == np.asarray(part)).all(axis=1))
    return int(found[0]) if found.size else None


@hypotheses("gemma*:attention_mask", "gemma*:*.attention_mask")
def attended(suspect: Suspect) -> Iterator[Candidate]:
    """(B, 1, T, T) boolean: causal, within the window of sliding layers, and valid keys only."""
    valid = np.asarray(suspect.given["attention_mask"]).astype(bool)
    length = suspect.reference.shape[-1]
    query, key = np.arange(length)[:, None], np.arange(length)[None]
    window = int(suspect.config.get("sliding_window") or length)

    def mask(causal: bool = True, padding: Array | None = valid, sliding: bool = False, within: int = 0) -> Array:
        allowed = np.ones((1, 1, length, length), dtype=bool) if padding is None else np.broadcast_to(
            padding[:, None, None], (padding.shape[0], 1, length, length))  # fmt: skip
        allowed = allowed & (key <= query) if causal else allowed
        return allowed & (key > query - window - within) if sliding else np.asarray(allowed)

    sliding = not np.array_equal(suspect.reference, mask())
    yield Candidate("attention.padding-mask", "no mask of the padding", lambda: mask(padding=None, sliding=sliding))
    yield Candidate("attention.padding-mask", "the padding mask inverted", lambda: mask(padding=~valid, sliding=sliding))
    yield Candidate("attention.padding-mask", "the padding taken to be on the right",
                    lambda: mask(padding=valid[:, ::-1], sliding=sliding))  # fmt: skip
    yield Candidate("attention.not-causal", "no causal mask", lambda: mask(causal=False, sliding=sliding))
    yield Candidate("attention.not-causal", "neither causal nor sliding", lambda: mask(causal=False))
    yield Candidate("attention.window", "no sliding window", lambda: mask())
    yield Candidate("attention.window", "a sliding window in every layer", lambda: mask(sliding=True))
    yield Candidate("attention.window", "a window one longer", lambda: mask(sliding=True, within=1))


@hypotheses("FeatureExtractorV2")
def features(suspect: Suspect) -> Iterator[Candidate]:
    """All states normed per token, side by side with the state's index fastest, rescaled to the width projected to."""
    g = suspect.given
    states = [
        np.asarray(g[f"hidden_states.{i}"], dtype=np.float64) for i in range(sum(k.startswith("hidden_states.") for k in g))
    ]
    valid = np.asarray(g["attention_mask"])[..., None]
    widths = {s: suspect.parameter(f"{s}_aggregate_embed.weight") for s in ("video", "audio")}
    stream = "audio" if "audio" in suspect.name or suspect.name == "1" else "video"
    out = {s: w.shape[0] for s, w in widths.items() if w is not None}
    dim = states[0].shape[-1]

    def flat(
        scale: float | None = None, norm: str = "token", fastest: str = "state", eps: float = 1e-6, masked: bool = True
    ) -> Array:
        if norm == "token":
            parts = [rms_norm(s, eps) for s in states]
        elif norm == "none":
            parts = states
        else:  # one norm over all states
            both = np.stack(states, -1)
            parts = list(np.moveaxis(rms_norm(both, eps, axis=(-1, -2)), -1, 0))
        stacked = np.stack(parts, axis=-1) if fastest == "state" else np.stack(parts, axis=-2)
        rescale = math.sqrt(out[stream] / dim) if scale is None else scale
        found = stacked.reshape(*stacked.shape[:2], -1) * rescale
        return np.where(valid != 0, found, 0) if masked else np.asarray(found)

    def finished(value: Array) -> Array:
        if suspect.type != "FeatureExtractorV2":
            return value
        weight, bias = suspect.weight(f"{stream}_aggregate_embed.weight"), suspect.parameter(f"{stream}_aggregate_embed.bias")
        return np.asarray(value @ weight.T.astype(np.float64) + (0 if bias is None else bias))

    other = "video" if stream == "audio" else "audio"
    yield Candidate("features.rescale", f"the rescale of the {other} branch in the {stream} branch",
                    lambda: finished(flat(math.sqrt(out[other] / dim))))  # fmt: skip
    yield Candidate("features.rescale", "no rescale by sqrt(width / width of the states)", lambda: finished(flat(1.0)))
    yield Candidate("features.rescale", "the rescale turned over", lambda: finished(flat(math.sqrt(dim / out[stream]))))
    yield Candidate("features.rescale", "a rescale without its root", lambda: finished(flat(out[stream] / dim)))
    yield Candidate("features.order", "states side by side, feature by feature, instead of the state's index fastest",
                    lambda: finished(flat(fastest="feature")))  # fmt: skip
    states_back = states[::-1]
    yield Candidate("features.order", "the states in reversed order", lambda: finished(_reversed(flat, states, states_back)))
    turned = [*states[1:], states[0]]
    yield Candidate("features.order", "the first state behind the others", lambda: finished(_reversed(flat, states, turned)))
    yield Candidate("features.norm", "states not normed", lambda: finished(flat(norm="none")))
    yield Candidate("features.norm", "one norm over all states", lambda: finished(flat(norm="all")))
    yield Candidate("features.norm", "eps 1e-5 in the norm of the states", lambda: finished(flat(eps=1e-5)))
    yield Candidate("features.padding", "padding not set to zero", lambda: finished(flat(masked=False)))


def _reversed(flat: object, states: list[Array], backwards: list[Array]) -> Array:
    kept = list(states)
    states[:] = backwards
    try:
        return np.asarray(flat())  # type: ignore[operator]
    finally:
        states[:] = kept


@hypotheses("*connector*:*hidden_states")
def registers(suspect: Suspect) -> Iterator[Candidate]:
    """Valid tokens move to the front, learnable registers fill the rest."""
    x = np.asarray(suspect.given["hidden_states"], dtype=np.float64)
    additive = np.asarray(suspect.given["attention_mask"])
    table = suspect.weight("learnable_registers").astype(np.float64)
    b, t, _ = x.shape
    valid = additive.reshape(b, t) > -9000
    tiled = np.tile(table, (t // table.shape[0], 1))

    def packed(row: Array, keep: Array) -> Array:
        return np.concatenate([row[keep], np.zeros((t - keep.sum(), row.shape[-1]))])

    def filled(front: bool = True, own: Array = tiled, keep: Array = valid, rolled: bool = False) -> Array:
        rows = []
        for i in range(b):
            n = int(keep[i].sum())
            base = np.roll(own, n, axis=0) if rolled else own.copy()
            out = base.copy()
            if front:
                out[:n] = packed(x[i], keep[i])[:n]
            else:
                out[t - n :] = x[i][keep[i]]
            rows.append(out)
        return np.stack(rows)

    yield Candidate("registers.reversed", "the tokens (and registers) in reversed order", lambda: filled()[:, ::-1])
    yield Candidate("registers.position", "tokens left at the end, registers before them", lambda: filled(front=False))
    yield Candidate("registers.missing", "zeros instead of registers", lambda: filled(own=np.zeros_like(tiled)))
    yield Candidate("registers.missing", "padding left in place of registers", lambda: x)
    yield Candidate("registers.offset", "registers counted from the first padding place", lambda: filled(rolled=True))
    yield Candidate("registers.mask", "the mask's polarity inverted", lambda: filled(keep=~valid))
    yield Candidate("registers.position", "tokens left in their places, registers in those of the padding",
                    lambda: np.where(valid[..., None], x, tiled[None]))  # fmt: skip
    first = np.broadcast_to(table[:1], tiled.shape)
    yield Candidate("registers.count", "the first register in every place", lambda: filled(own=np.asarray(first)))


@hypotheses("*ScaledWordEmbedding")
def embedded(suspect: Suspect) -> Iterator[Candidate]:
    table, ids = suspect.weight("weight"), np.asarray(suspect.given["input_ids"])
    root = math.sqrt(table.shape[1])
    yield Candidate("embedding.scale", "embeddings without their scale sqrt(width)", lambda: table[ids])
    yield Candidate("embedding.scale", "the scale twice", lambda: table[ids] * root * root)
    yield Candidate("embedding.scale", "a scale of sqrt(width) rounded to bfloat16", lambda: table[ids] * _rounded(root))
    yield Candidate("tokens.shift", "the table one row off", lambda: table[np.minimum(ids + 1, len(table) - 1)] * root)


def _rounded(value: float) -> float:
    from parity.hypotheses.base import bfloat16

    return float(bfloat16(np.array([value], dtype=np.float32))[0])


@hypotheses("Gemma3DecoderLayer")
def layer(suspect: Suspect) -> Iterator[Candidate]:
    """Each half of a layer: norm, module, norm, then the residual."""
    x, attended = np.asarray(suspect.given["hidden_states"], dtype=np.float64), suspect.known["self_attn.0"]
    eps = float(suspect.config.get("rms_norm_eps", 1e-6))

    def normed(value: Array, name: str) -> Array:
        return rms_norm(value, eps, 1 + suspect.weight(f"{name}.weight"))

    middle = x + normed(attended, "post_attention_layernorm")
    made: dict[str, list[tuple[str, str, Array]]] = {
        "post_attention_layernorm.x": [
            ("block.residual-order", "the residual added before the norm behind the attention", x + attended)
        ],
        "pre_feedforward_layernorm.x": [
            ("norm.missing", "no norm behind the attention", x + attended),
            ("block.residual", "no residual around the attention", middle - x),
        ],
        "post_feedforward_layernorm.x": [
            ("block.residual-order", "the residual added before the norm behind the MLP", middle + suspect.known["mlp"])
        ],
        "": [
            ("norm.missing", "no norm behind the MLP", middle + suspect.known["mlp"]),
            ("block.residual", "no residual around the MLP", normed(suspect.known["mlp"], "post_feedforward_layernorm")),
        ],
    }
    for cause, words, predicted in made.get(suspect.name, []):
        yield Candidate(cause, words, lambda p=predicted: p)  # type: ignore[misc]
