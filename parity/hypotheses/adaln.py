"""AdaLN: the timestep embedding, and how a block's shift, scale and gate meet its activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from parity.hypotheses.base import ROUNDINGS, Array, Candidate, Suspect, hypotheses, roundings
from parity.hypotheses.functions import ACTIVATIONS, linear, rms_norm


@hypotheses("Timesteps")
def sinusoids(suspect: Suspect) -> Iterator[Candidate]:
    timesteps = np.asarray(suspect.given["timesteps"], dtype=np.float64)
    size = suspect.reference.shape[-1]

    def table(scale: float = 1.0, period: float = 10000.0, shift: float = 0.0, sine_first: bool = False) -> Array:
        half = size // 2
        angle = timesteps[:, None] * scale * np.exp(-math.log(period) * np.arange(half) / (half - shift))
        waves = [np.sin(angle), np.cos(angle)] if sine_first else [np.cos(angle), np.sin(angle)]
        return np.concatenate(waves, axis=-1)

    yield Candidate("timestep.sin-cos", "sines before cosines", lambda: table(sine_first=True))
    yield Candidate("timestep.shift", "a frequency shift of 1", lambda: table(shift=1.0))
    for scale in (1000.0, 0.001):
        yield Candidate("timestep.scale", f"timesteps times {scale:g}", lambda s=scale: table(s))  # type: ignore[misc]
    for period in (1000.0, 20000.0, 1e5, 1e6):
        yield Candidate("timestep.period", f"max_period {period:g}", lambda p=period: table(period=p))  # type: ignore[misc]
    yield from roundings(lambda t: np.concatenate([f(t) for f in (np.cos, np.sin)], -1),
                         t=timesteps[:, None] * np.exp(-math.log(10000) * np.arange(size // 2) / (size // 2)))  # fmt: skip


@hypotheses("*:*timestep", "*:*timesteps", "*:*.sigma")
def levels(suspect: Suspect) -> Iterator[Candidate]:
    """A noise level handed on: its scale, and which of the levels it is."""
    for factor in (0.001, 1000.0):
        words = f"noise levels times {factor:g} (the official timestep is sigma x 1000)"
        yield Candidate("timestep.scale", words, lambda f=factor: f * suspect.reference)  # type: ignore[misc]
    stream = suspect.name.split(".")[0]
    if not suspect.reference.any():
        words = "the running noise level for a modality that is given (whose own is 0)"
        yield Candidate("timestep.not-frozen", words, lambda: np.full(suspect.native.shape, float(np.max(suspect.native))))
    for other in ("video", "audio"):
        sigma = suspect.given.get(f"{other}.sigma")
        if sigma is None:
            continue
        running = float(np.max(sigma))
        if other != stream:
            words = f"the {other}'s noise level instead of its own"
            yield Candidate("timestep.other-modality", words, lambda s=running: np.full(suspect.native.shape, s))  # type: ignore[misc]
        else:
            words = "one noise level for all tokens: sigma not multiplied by the denoise mask"
            yield Candidate("timestep.mask-missing", words, lambda s=running: np.full(suspect.native.shape, s))  # type: ignore[misc]
    highest = float(np.max(suspect.native))
    words = "tokens below the running noise level raised to it"
    yield Candidate("timestep.mask-missing", words, lambda: np.where(suspect.reference < highest, highest, suspect.reference))


@dataclass(frozen=True)
class Edits:
    """Switches of the block's arithmetic; the defaults are the official formula."""

    eps: float | None = None
    plus_one: bool = True
    order: str = "official"  # of shift and scale in the main tables
    cross_order: str = "official"  # of scale and shift in the tables between modalities
    cross_gate: str = "sum"  # sum, product, table, timestep, row (that before the gate's)
    prompt_order: str = "official"  # of shift and scale of the text attention's context
    self_rows: int = 0  # where the rows of self-attention, text attention and feed-forward begin
    text_rows: int = 6
    ff_rows: int = 3
    gate: str = "official"  # official, none
    prompt: bool = True  # modulation of the text attention's query and context
    prompt_gate: bool = True
    skip_norm: bool = False
    directions: str = "official"  # rows of the tables between modalities: official, swapped
    exchange: str = "official"  # official, no-a2v, no-v2a, sequential
    residual: bool = True


EDITS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("norm.eps", "norms with eps 1e-5", {"eps": 1e-5}),
    ("norm.eps", "norms with eps 1e-3", {"eps": 1e-3}),
    ("adaln.plus-one-missing", "scale instead of 1 + scale", {"plus_one": False}),
    ("adaln.order", "shift and scale swapped", {"order": "swapped"}),
    ("adaln.cross-order", "shift before scale in the tables between modalities", {"cross_order": "swapped"}),
    ("adaln.gate-product", "table x embedding instead of table + embedding in the cross gate", {"cross_gate": "product"}),
    ("adaln.gate-product", "the cross gate from its table alone", {"cross_gate": "table"}),
    ("adaln.gate-product", "the cross gate from the timestep alone", {"cross_gate": "timestep"}),
    ("adaln.gate-missing", "no gates", {"gate": "none"}),
    ("adaln.prompt-missing", "the text attention without its modulation (AdaLN of the prompt ignored)",
     {"prompt": False, "prompt_gate": False}),
    ("adaln.prompt-missing", "the text attention's query and context not modulated", {"prompt": False}),
    ("adaln.prompt-missing", "no gate behind the text attention", {"prompt_gate": False}),
    ("norm.missing", "no norm before the modulation", {"skip_norm": True}),
    ("adaln.directions", "the rows of audio to video and video to audio swapped", {"directions": "swapped"}),
    ("adaln.rows", "the rows of text attention and feed-forward swapped", {"text_rows": 3, "ff_rows": 6}),
    ("adaln.rows", "the feed-forward modulated by the rows of self-attention", {"ff_rows": 0}),
    ("adaln.rows", "the feed-forward modulated by the rows of text attention", {"ff_rows": 6}),
    ("adaln.rows", "the text attention modulated by the rows of self-attention", {"text_rows": 0}),
    ("adaln.rows", "the self-attention modulated by the rows of the feed-forward", {"self_rows": 3}),
    ("adaln.rows", "the cross gate from the row before its own", {"cross_gate": "row"}),
    ("adaln.order", "shift and scale of the text attention's context swapped", {"prompt_order": "swapped"}),
    ("exchange.skipped", "no audio-to-video attention", {"exchange": "no-a2v"}),
    ("exchange.skipped", "no video-to-audio attention", {"exchange": "no-v2a"}),
    ("exchange.sequential", "video to audio after audio to video instead of beside it", {"exchange": "sequential"}),
    ("block.residual", "no residual", {"residual": False}),
)  # fmt: skip


@hypotheses("BasicAVTransformerBlock")
def block(suspect: Suspect) -> Iterator[Candidate]:
    """Every value between a block's children, from its arguments and the reference's results of its children."""
    for cause, words, switches in EDITS:
        yield Candidate(cause, words, lambda s=switches: values(suspect, Edits(**s))[suspect.name])  # type: ignore[misc]

    yield from roundings(lambda v: v, v=np.asarray(values(suspect, Edits())[suspect.name]))
    for cause, dtype, narrow in ROUNDINGS:
        given = {k: narrow(v) if k.endswith(".x") and isinstance(v, np.ndarray) else v for k, v in suspect.given.items()}
        words = f"the block's own input rounded to {dtype}"
        yield Candidate(cause, words, lambda g=given: values(suspect, Edits(), g)[suspect.name])  # type: ignore[misc]


def values(suspect: Suspect, e: Edits, given: Any = None) -> dict[str, Array]:
    """Inputs of the block's children by ``child.argument`` and its outputs ``0.x``, ``1.x``; children as the reference's."""
    g, p, known = suspect.given if given is None else given, suspect.weight, suspect.known
    eps = e.eps or float(suspect.config.get("norm_eps", 1e-6))
    found: dict[str, Array] = {}
    streams = {"video": ("", "attn1", "attn2", "ff"), "audio": ("audio_", "audio_attn1", "audio_attn2", "audio_ff")}
    x = {name: np.asarray(g[f"{name}.x"], dtype=np.float64) for name in streams}

    def norm(value: Array) -> Array:
        return value if e.skip_norm else rms_norm(value, eps)

    def modulated(value: Array, scale: Array, shift: Array) -> Array:
        return value * ((1 if e.plus_one else 0) + scale) + shift

    def main(stream: str, first: int, count: int) -> list[Array]:
        table = p(f"{streams[stream][0]}scale_shift_table")
        steps = np.asarray(g[f"{stream}.timesteps"])
        steps = steps.reshape(*steps.shape[:2], table.shape[0], -1)
        found = [table[i] + steps[:, :, i] for i in range(first, first + count)]
        if e.order == "swapped" and count > 1:
            found[0], found[1] = found[1], found[0]
        if e.gate == "none" and count > 2:
            found[2] = np.ones(())
        return found

    for stream, (prefix, attn1, attn2, _) in streams.items():
        shift, scale, gate = main(stream, e.self_rows, 3)
        found[f"{attn1}.x"] = modulated(norm(x[stream]), scale, shift)
        x[stream] = x[stream] * e.residual + known[attn1] * gate
        context = np.asarray(g[f"{stream}.context"], dtype=np.float64)
        prompt = g.get(f"{stream}.prompt_timestep")
        if prompt is None:
            found[f"{attn2}.x"], found[f"{attn2}.context"] = norm(x[stream]), context
            x[stream] = x[stream] + known[attn2]
            continue
        shift, scale, gate = main(stream, e.text_rows, 3)
        table = p(f"{prefix}prompt_scale_shift_table")
        both = np.asarray(prompt).reshape(prompt.shape[0], prompt.shape[1], 2, -1)
        found[f"{attn2}.x"] = modulated(norm(x[stream]), scale, shift) if e.prompt else norm(x[stream])
        first, second = (table[i] + both[:, :, i] for i in ((0, 1) if e.prompt_order == "official" else (1, 0)))
        moved = modulated(context, second, first)
        found[f"{attn2}.context"] = moved if e.prompt else context
        x[stream] = x[stream] + known[attn2] * (gate if e.prompt_gate else 1.0)

    rows, gates = {}, {}
    for stream in streams:
        table = p(f"scale_shift_table_a2v_ca_{stream}")
        steps = np.asarray(g[f"{stream}.cross_scale_shift_timestep"])
        steps = steps.reshape(*steps.shape[:2], 4, -1)
        four = [table[i] + steps[:, :, i] for i in range(4)]
        four = [four[i] for i in (1, 0, 3, 2)] if e.cross_order == "swapped" else four
        rows[stream] = [four[i] for i in (2, 3, 0, 1)] if e.directions == "swapped" else four
        step = np.asarray(g[f"{stream}.cross_gate_timestep"])
        gates[stream] = {
            "sum": table[4] + step, "product": table[4] * step, "table": table[4], "timestep": step, "row": table[3] + step,
        }[e.cross_gate]  # fmt: skip
        gates[stream] = np.ones(()) if e.gate == "none" else gates[stream]
    v, a = norm(x["video"]), norm(x["audio"])
    rv, ra = rows["video"], rows["audio"]
    if "audio_to_video_attn" in known:
        found["audio_to_video_attn.x"] = modulated(v, rv[0], rv[1])
        found["audio_to_video_attn.context"] = modulated(a, ra[0], ra[1])
        x["video"] = x["video"] + known["audio_to_video_attn"] * gates["video"] * (e.exchange != "no-a2v")
    v = norm(x["video"]) if e.exchange == "sequential" else v
    if "video_to_audio_attn" in known:
        found["video_to_audio_attn.x"] = modulated(a, ra[2], ra[3])
        found["video_to_audio_attn.context"] = modulated(v, rv[2], rv[3])
        x["audio"] = x["audio"] + known["video_to_audio_attn"] * gates["audio"] * (e.exchange != "no-v2a")
    for index, (stream, (_, _, _, ff)) in enumerate(streams.items()):
        shift, scale, gate = main(stream, e.ff_rows, 3)
        found[f"{ff}.x"] = modulated(norm(x[stream]), scale, shift)
        found[f"{index}.x"] = x[stream] + known[ff] * gate
    return found


@hypotheses("LTXModel")
def output(suspect: Suspect) -> Iterator[Candidate]:
    """The modulation behind the last block: norm(x) (1 + scale) + shift, from a table of two rows and the embedded timestep."""
    stream = suspect.name.removesuffix("proj_out.input")
    if stream not in ("", "audio_"):
        return
    table = suspect.weight(f"{stream}scale_shift_table").astype(np.float64)
    embedded = suspect.known[f"{stream}adaln_single.1"]
    normed = suspect.known[f"{stream}norm_out"].astype(np.float64)
    rows = [row + embedded.reshape(normed.shape[0], -1, normed.shape[-1]) for row in table]

    def modulated(shift: Array, scale: Array, one: float = 1.0) -> Array:
        return normed * (one + scale) + shift

    steps = [row - part for row, part in zip(rows, table, strict=True)]
    alone = [0 * row + part for row, part in zip(rows, table, strict=True)]
    yield Candidate("adaln.order", "shift and scale of the output swapped", lambda: modulated(rows[1], rows[0]))
    words = "scale instead of 1 + scale at the output"
    yield Candidate("adaln.plus-one-missing", words, lambda: modulated(rows[0], rows[1], 0.0))
    yield Candidate("adaln.missing", "no modulation of the output", lambda: normed)
    yield Candidate("adaln.table-missing", "the output's table left out", lambda: modulated(steps[0], steps[1]))
    yield Candidate("adaln.timestep-missing", "the output modulated by its table alone", lambda: modulated(alone[0], alone[1]))


@hypotheses("AdaLayerNormSingle")
def single(suspect: Suspect) -> Iterator[Candidate]:
    """silu, then a projection, of the embedded timestep."""
    embedded = suspect.known["emb"].astype(np.float64)
    weight, bias = suspect.weight("linear.weight"), suspect.parameter("linear.bias")

    def made(act: Callable[[Array], Array]) -> Array:
        return act(embedded) if suspect.name.endswith("linear.input") else linear(act(embedded), weight, bias)

    for name, act in ACTIVATIONS.items():
        if name != "silu":
            words = f"{'no activation' if name == 'none' else f'{name} instead of silu'} before the projection"
            yield Candidate(f"activation.{name}", words, partial(made, act))
