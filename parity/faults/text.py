"""Mistakes between the prompt and the text contexts: tokenizer, Gemma, feature extractor, connectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_native.config import GemmaConfig
from ltx_native.layers import GELUApprox, Linear
from ltx_native.pipelines import stages
from ltx_native.text_encoder import feature_extractor, gemma3
from ltx_native.text_encoder.connector import Embeddings1DConnector
from ltx_native.text_encoder.feature_extractor import FeatureExtractorV2
from ltx_native.text_encoder.gemma3 import GemmaTextModel, RotaryEmbedding
from ltx_native.text_encoder.processor import EmbeddingsProcessor
from ltx_native.text_encoder.tokenizer import GemmaTokenizer, Tokens
from parity.faults.registry import patched, register, swapping
from parity.faults.transformer import ErfGELU


def _row(change: Any) -> Any:
    """The tokenizer's ids of one prompt, changed: ``change(tokenizer, text, ids)``."""
    original = GemmaTokenizer._row

    def row(self: GemmaTokenizer, prompt: str, allow_empty: bool) -> list[int]:
        return list(change(self, prompt, original(self, prompt, allow_empty)))

    return patched(GemmaTokenizer, _row=row)


@register("TOK-02")
def padded_on_the_right() -> Iterator[None]:
    original = GemmaTokenizer.__call__

    def call(self: GemmaTokenizer, text: str | Sequence[str], **kwargs: Any) -> Tokens:
        tokens = original(self, text, **kwargs)
        ids, mask = np.array(tokens.input_ids), np.array(tokens.attention_mask)
        order = np.argsort(1 - mask, axis=1, kind="stable")
        return Tokens(*(mx.array(np.take_along_axis(a, order, axis=1)) for a in (ids, mask)))

    with patched(GemmaTokenizer, __call__=call):
        yield


@register("TOK-03")
def tail_of_long_prompts() -> Iterator[None]:
    def tail(self: GemmaTokenizer, prompt: str, ids: list[int]) -> list[int]:
        if len(ids) < self.max_length:
            return ids
        words = prompt.split()
        while len(self._encode(" ".join(words[1:]))) >= self.max_length:
            words = words[max(1, len(words) // 16) :]
        return self._encode(" ".join(words))[1:]

    with _row(tail):
        yield


@register("TOK-04")
def no_begin_token() -> Iterator[None]:
    with _row(lambda self, prompt, ids: ids[1:]):
        yield


@register("TOK-05")
def another_padding_token() -> Iterator[None]:
    original = GemmaTokenizer.__init__

    def init(self: GemmaTokenizer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.pad_id = 3

    with patched(GemmaTokenizer, __init__=init):
        yield


@register("TOK-06")
def shortened_negative_prompt() -> Iterator[None]:
    original = stages.encode_prompts

    def encode(run: Any, prompts: Any) -> Any:
        cut = {name: text.rpartition(",")[0] or text if name == "negative" else text for name, text in prompts.items()}
        return (yield from original(run, cut))

    from ltx_native.pipelines import a2v, extend, one_stage, retake, two_stage, two_stages_hq
    from parity.faults.registry import everywhere

    with everywhere("encode_prompts", encode, stages, one_stage, two_stage, two_stages_hq, a2v, retake, extend):
        yield


def _frequencies(change: Any) -> Any:
    original = RotaryEmbedding.__init__

    def init(self: RotaryEmbedding, config: GemmaConfig) -> None:
        original(self, config)
        self._inv_freq = change(self._inv_freq, config)

    return patched(RotaryEmbedding, __init__=init)


@register("GEM-01")
def one_theta_for_all_layers() -> Iterator[None]:
    with _frequencies(lambda found, config: dict.fromkeys(found, found["full_attention"])):
        yield


@register("GEM-03")
def scaling_dropped() -> Iterator[None]:
    def unscaled(found: Any, config: GemmaConfig) -> Any:
        return found | {"full_attention": gemma3.inverse_frequencies(config.rope_theta, config.head_dim, 1.0)}

    with _frequencies(unscaled):
        yield


def _norm(weight: Any) -> Any:
    def call(self: gemma3.RMSNorm, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x.astype(mx.float32), weight(self.weight.astype(mx.float32)), self.eps).astype(x.dtype)

    return patched(gemma3.RMSNorm, __call__=call)


@register("GEM-05")
def doubly_added_one() -> Iterator[None]:
    with _norm(lambda weight: 2.0 + weight):
        yield


@register("GEM-06")
def plain_norm_weight() -> Iterator[None]:
    with _norm(lambda weight: weight):
        yield


@register("GEM-09")
def rotation_in_bfloat16() -> Iterator[None]:
    original = gemma3.rotate

    def rotate(x: mx.array, rotation: Any) -> mx.array:
        return original(x, tuple(table.astype(mx.bfloat16).astype(x.dtype) for table in rotation))

    with patched(gemma3, rotate=rotate):
        yield


def _bias(change: Any) -> Any:
    """Gemma's attention with its boolean mask made an additive one, without the guard for rows that see nothing."""

    def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Any) -> mx.array:
        groups = q.shape[1] // k.shape[1]
        scores = (q * scale) @ mx.repeat(k, groups, axis=1).swapaxes(-1, -2) + change(mask)
        return mx.softmax(scores, axis=-1) @ mx.repeat(v, groups, axis=1)

    return patched(gemma3, attention=attention)


@register("GEM-10")
def infinite_mask() -> Iterator[None]:
    with _bias(lambda mask: mx.where(mask, 0.0, -mx.inf)), patched(mx, where=_where_unguarded()):
        yield


def _where_unguarded() -> Any:
    """`where` that lets a row without keys through: the guard in Gemma's attention picks zeros for it."""
    original = mx.where

    def where(condition: Any, a: Any, b: Any, **kwargs: Any) -> mx.array:
        guard = getattr(condition, "ndim", 0) == 4 and condition.shape[-1] == 1
        return a if guard else original(condition, a, b, **kwargs)

    return where


@register("GEM-11")
def mask_as_bias_of_one() -> Iterator[None]:
    with _bias(lambda mask: mask.astype(mx.float32)):
        yield


def _masks(change: Any) -> Any:
    original = GemmaTextModel.masks

    def masks(self: GemmaTextModel, attention_mask: mx.array | None, length: int) -> Any:
        return change(self, attention_mask, length, original)

    return patched(GemmaTextModel, masks=masks)


@register("GEM-12")
def padding_mask_not_passed() -> Iterator[None]:
    with _masks(lambda self, mask, length, original: original(self, mx.ones((1, length), dtype=mx.int64), length)):
        yield


@register("GEM-13")
def not_causal() -> Iterator[None]:
    def padding_only(self: Any, mask: mx.array, length: int, original: Any) -> Any:
        allowed = mx.broadcast_to(mask.astype(mx.bool_)[:, None, None], (mask.shape[0], 1, length, length))
        return {"full_attention": allowed, "sliding_attention": allowed}

    with _masks(padding_only):
        yield


@register("GEM-14")
def last_state_without_norm() -> Iterator[None]:
    original = GemmaTextModel.__call__

    def call(
        self: GemmaTextModel,
        input_ids: mx.array | None = None,
        attention_mask: Any = None,
        position_ids: mx.array | None = None,
        inputs_embeds: mx.array | None = None,
    ) -> list[mx.array]:
        norm: Any = self.norm
        self.norm = nn.Identity()
        try:
            return original(self, input_ids, attention_mask, position_ids, inputs_embeds)
        finally:
            self.norm = norm

    with patched(GemmaTextModel, __call__=call):
        yield


@register("FEX-04")
def audio_with_the_rescale_of_video() -> Iterator[None]:
    def project(self: FeatureExtractorV2, embed: Linear, normed: mx.array) -> mx.array:
        width = self.video_aggregate_embed.weight.shape[0]
        return embed(normed * math.sqrt(width / self.embedding_dim))

    with patched(FeatureExtractorV2, _project=project):
        yield


@register("FEX-05")
def states_before_features() -> Iterator[None]:
    original = feature_extractor.norm_and_concat_per_token_rms

    def concat(hidden_states: Sequence[mx.array], attention_mask: mx.array) -> mx.array:
        flat = original(hidden_states, attention_mask)
        return flat.reshape(*flat.shape[:2], -1, len(hidden_states)).swapaxes(2, 3).flatten(2)

    with patched(feature_extractor, norm_and_concat_per_token_rms=concat):
        yield


@register("CON-01")
def tokens_reversed() -> Iterator[None]:
    original = Embeddings1DConnector.replace_padding

    def flipped(self: Any, hidden_states: mx.array, attention_mask: mx.array) -> mx.array:
        return original(self, hidden_states, attention_mask)[:, ::-1]

    with patched(Embeddings1DConnector, replace_padding=flipped):
        yield


@register("CON-03")
def erf_gelu_in_connectors() -> Iterator[None]:
    with swapping(EmbeddingsProcessor, GELUApprox, ErfGELU):
        yield


def _connector_config(**changes: Any) -> Any:
    original = Embeddings1DConnector.__init__

    def init(self: Any, config: Any) -> None:
        original(self, replace(config, **changes))

    return patched(Embeddings1DConnector, __init__=init)


@register("CON-04")
def positions_not_divided() -> Iterator[None]:
    with _connector_config(positional_embedding_max_pos=(1,)):
        yield


@register("CON-05")
def interleaved_rotation() -> Iterator[None]:
    with _connector_config(rope_type="interleaved"):
        yield


@register("CON-07")
def prompts_encoded_jointly() -> Iterator[None]:
    original = stages.encode_prompts

    def encode(run: Any, prompts: Any) -> Any:
        if len(prompts) < 2:
            return (yield from original(run, prompts))
        with run.models.use("tokenizer") as tokenizer:
            tokens = tokenizer(list(prompts.values()), allow_empty=True)
        named = {f"{n}.{k}": getattr(tokens, k)[i : i + 1] for i, n in enumerate(prompts)
                 for k in ("input_ids", "attention_mask")}  # fmt: skip
        yield stages.Stage("tokens", named)
        with run.models.use("gemma") as gemma:
            states = gemma(tokens.input_ids, tokens.attention_mask)
        with run.models.use("embeddings_processor") as processor:
            video, audio, mask = processor(states, tokens.attention_mask)
        contexts = {n: stages.Context(*(a[i : i + 1] for a in (video, audio, mask))) for i, n in enumerate(prompts)}
        found = {f"{n}.{k}": getattr(c, k) for n, c in contexts.items() for k in ("video", "audio", "mask")}
        yield stages.Stage("context", found)
        return contexts

    from ltx_native.pipelines import a2v, one_stage, retake, two_stage, two_stages_hq
    from parity.faults.registry import everywhere

    with everywhere("encode_prompts", encode, stages, one_stage, two_stage, two_stages_hq, a2v, retake):
        yield
