"""Text encoder on tiny sizes: the parameter tree, padding and batches that must not matter, tokens, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map
from tokenizers import Tokenizer, models, normalizers

from ltx_native.config import ConnectorConfig, FeatureExtractorConfig, GemmaConfig, ModelConfig
from ltx_native.errors import CheckpointError, RequestError, UserError
from ltx_native.text_encoder.encoder import hidden_states_of_tail
from ltx_native.text_encoder.gemma3 import GemmaTextModel
from ltx_native.text_encoder.processor import EmbeddingsProcessor
from ltx_native.text_encoder.tokenizer import GemmaTokenizer

LAYERS = 3
GEMMA = GemmaConfig(
    hidden_size=24, num_hidden_layers=LAYERS, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, vocab_size=50, rms_norm_eps=1e-6, query_pre_attn_scalar=10, sliding_window=64,
    layer_types=("sliding_attention", "full_attention", "sliding_attention"), rope_theta=1e6, rope_local_base_freq=1e4,
    rope_scaling_factor=8.0, max_position_embeddings=256, pad_token_id=0, bos_token_id=2,
)  # fmt: skip
VIDEO = ConnectorConfig(
    num_attention_heads=2, attention_head_dim=16, num_layers=1, positional_embedding_max_pos=(4096,),
    positional_embedding_theta=1e4, num_learnable_registers=16, norm_eps=1e-6, rope_type="split",
    frequencies_precision="float64", apply_gated_attention=True,
)  # fmt: skip
AUDIO = replace(VIDEO, attention_head_dim=8)


def randomised(module: nn.Module, dtype: mx.Dtype = mx.float32) -> nn.Module:
    mx.random.seed(0)
    module.update(tree_map(lambda p: (0.3 * mx.random.normal(p.shape)).astype(dtype), module.parameters()))
    return module


def gemma(dtype: mx.Dtype = mx.float32, **changes: Any) -> GemmaTextModel:
    return cast(GemmaTextModel, randomised(GemmaTextModel(replace(GEMMA, **changes)), dtype))


def processor(dtype: mx.Dtype = mx.float32) -> EmbeddingsProcessor:
    extractor = FeatureExtractorConfig(GEMMA.hidden_size, GEMMA.num_states, VIDEO.inner_dim, AUDIO.inner_dim)
    config = SimpleNamespace(feature_extractor=extractor, video_connector=VIDEO, audio_connector=AUDIO)
    return cast(EmbeddingsProcessor, randomised(EmbeddingsProcessor(cast(ModelConfig, config)), dtype))


def prompt(length: int, valid: int, seed: int = 1) -> tuple[mx.array, mx.array]:
    """Left-padded ids and mask (1, T)."""
    ids = np.random.default_rng(seed).integers(3, GEMMA.vocab_size, length)
    mask = (np.arange(length) >= length - valid).astype(np.int64)
    return mx.array((ids * mask)[None]), mx.array(mask[None])


def close(a: mx.array, b: mx.array, rel_l2: float = 1e-6) -> bool:
    x, y = (np.array(v.astype(mx.float32), dtype=np.float64) for v in (a, b))
    return x.shape == y.shape and bool(np.linalg.norm(x - y) <= rel_l2 * np.linalg.norm(y))


def keys(module: nn.Module) -> set[str]:
    return {name for name, _ in tree_flatten(module.parameters())}


# Parameter trees ------------------------------------------------------------------------------------------------------


def test_gemma_has_the_official_keys_and_no_others() -> None:
    layer = [f"self_attn.{n}_proj" for n in "qkvo"] + ["self_attn.q_norm", "self_attn.k_norm"]
    layer += [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    layer += [f"{n}_layernorm" for n in ("input", "post_attention", "pre_feedforward", "post_feedforward")]
    expected = {f"layers.{i}.{name}.weight" for i in range(LAYERS) for name in layer}
    assert keys(GemmaTextModel(GEMMA)) == expected | {"embed_tokens.weight", "norm.weight"}


def test_embeddings_processor_has_the_official_keys_and_no_others() -> None:
    linears = [f"attn1.{n}" for n in ("to_q", "to_k", "to_v", "to_gate_logits", "to_out.0")] + ["ff.net.0.proj", "ff.net.2"]
    block = {f"{name}.{kind}" for name in linears for kind in ("weight", "bias")}
    block |= {"attn1.q_norm.weight", "attn1.k_norm.weight"}
    expected = {f"feature_extractor.{m}_aggregate_embed.{kind}" for m in ("video", "audio") for kind in ("weight", "bias")}
    for modality in ("video", "audio"):
        expected |= {f"{modality}_connector.transformer_1d_blocks.0.{name}" for name in block}
        expected.add(f"{modality}_connector.learnable_registers")
    assert keys(processor()) == expected


# Gemma ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gemma_returns_the_embedding_each_layer_and_the_final_norm(dtype: mx.Dtype) -> None:
    model = gemma(dtype)
    ids, mask = prompt(32, 20)
    states = model(ids, mask)
    assert [s.shape for s in states] == [(1, 32, GEMMA.hidden_size)] * (LAYERS + 1)
    assert {s.dtype for s in states} == {dtype}
    scale = mx.array(GEMMA.hidden_size**0.5, dtype=dtype)
    assert mx.array_equal(states[0], model.embed_tokens.weight[ids] * scale)
    last = states[-1].astype(mx.float32) / (1 + model.norm.weight.astype(mx.float32))
    assert close(mx.square(last).mean(axis=-1)[:, 12:], mx.ones((1, 20)), 2e-2), "the last state is normalised"


def test_padding_does_not_reach_valid_tokens() -> None:
    model = gemma()
    ids, mask = prompt(48, 20)
    other = mx.where(mask == 0, 7, ids)
    for a, b in zip(model(ids, mask), model(other, mask), strict=True):
        assert mx.array_equal(a[:, 28:], b[:, 28:])


def test_rows_of_a_batch_are_independent() -> None:
    model = gemma()
    rows = [prompt(40, valid, seed) for seed, valid in enumerate((40, 9, 1))]
    ids, mask = (mx.concatenate([row[i] for row in rows]) for i in (0, 1))
    for i, row in enumerate(rows):
        for together, alone in zip(model(ids, mask), model(*row), strict=True):
            assert close(together[i : i + 1], alone)


def test_attention_is_causal_and_the_window_slides() -> None:
    ids, mask = prompt(40, 40)
    changed = mx.concatenate([ids[:, :5], (ids[:, 5:6] + 1) % 50, ids[:, 6:]], axis=1)

    def reach(model: GemmaTextModel) -> list[int]:
        before, after = model(ids, mask)[-1], model(changed, mask)[-1]
        return [int(i) for i in np.flatnonzero(np.array(mx.abs(before - after).max(axis=-1))[0])]

    assert reach(gemma()) == list(range(5, 40))
    sliding = ("sliding_attention",) * LAYERS
    assert reach(gemma(sliding_window=4, layer_types=sliding)) == list(range(5, 5 + LAYERS * 3 + 1))


def test_masks_by_layer_type_give_what_the_token_mask_gives() -> None:
    model = gemma(sliding_window=8)
    ids, mask = prompt(40, 30)
    masks = model.masks(mask, 40)
    assert {kind: m.shape for kind, m in masks.items() if m is not None} == dict.fromkeys(masks, (1, 1, 40, 40))
    for a, b in zip(model(ids, mask), model(inputs_embeds=model.embed_tokens(ids), attention_mask=masks), strict=True):
        assert mx.array_equal(a, b)
    assert close(model(ids)[-1], model(ids, mx.ones_like(ids))[-1])


def test_linear_rope_scaling_divides_the_positions() -> None:
    slow, plain = gemma().rotary_emb, gemma(rope_scaling_factor=1.0).rotary_emb
    x = mx.zeros((1, 9, 1))
    a = slow(x, 8 * mx.arange(9)[None], "full_attention")
    b = plain(x, mx.arange(9)[None], "full_attention")
    assert mx.array_equal(a[0], b[0])
    assert mx.array_equal(a[1], b[1])


# Feature extractor and connectors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_prompts_of_different_lengths_in_one_batch(dtype: mx.Dtype) -> None:
    model, embed = gemma(dtype), processor(dtype)
    rows = [prompt(32, valid, seed) for seed, valid in enumerate((32, 11, 1))]
    ids, mask = (mx.concatenate([row[i] for row in rows]) for i in (0, 1))
    together = embed.process_hidden_states(model(ids, mask), mask)
    assert together.video_encoding.shape == (3, 32, VIDEO.inner_dim)
    assert together.audio_encoding.shape == (3, 32, AUDIO.inner_dim)
    assert {together.video_encoding.dtype, together.audio_encoding.dtype} == {dtype}
    assert mx.array_equal(together.attention_mask, mx.ones((3, 32)))
    for i, row in enumerate(rows):
        alone = embed(model(*row), row[1])
        for a, b in zip(together[:2], alone[:2], strict=True):
            assert close(a[i : i + 1], b, 1e-6 if dtype == mx.float32 else 2e-2)


def test_registers_take_the_place_of_the_padding() -> None:
    connector = processor().video_connector
    features = mx.random.normal((2, 32, VIDEO.inner_dim))
    valid = mx.array(np.array([[i >= 32 - n for i in range(32)] for n in (5, 20)]))
    packed = connector.replace_padding(features, mx.where(valid, 0.0, -3e38)[:, None, None])
    registers = mx.concatenate([connector.learnable_registers] * 2)
    for row, n in enumerate((5, 20)):
        assert mx.array_equal(packed[row, :n], features[row, 32 - n :])
        assert mx.array_equal(packed[row, n:], registers[n:])


def test_padding_features_do_not_matter_and_registers_do() -> None:
    model, embed = gemma(), processor()
    ids, mask = prompt(32, 11)
    states = model(ids, mask)
    noisy = [mx.where(mask[..., None] == 0, 100.0, s) for s in states]
    assert mx.array_equal(embed(states, mask).video_encoding, embed(noisy, mask).video_encoding)
    before = embed(states, mask)
    embed.audio_connector.learnable_registers = embed.audio_connector.learnable_registers + 1
    after = embed(states, mask)
    assert mx.array_equal(before.video_encoding, after.video_encoding)
    assert not close(after.audio_encoding, before.audio_encoding, 1e-3)


def test_states_of_the_tail_give_the_same_context() -> None:
    model, embed = gemma(sliding_window=4), processor()
    rows = [prompt(48, valid, seed) for seed, valid in enumerate((17, 9))]
    ids, mask = (mx.concatenate([row[i] for row in rows]) for i in (0, 1))
    tail = hidden_states_of_tail(model, ids, mask)
    assert tail[0].shape == (2, 17, GEMMA.hidden_size)
    for a, b in zip(embed(tail, mask)[:2], embed(model(ids, mask), mask)[:2], strict=True):
        assert close(a, b)


def test_a_length_that_registers_cannot_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16 tokens, not 20"):
        processor().video_connector(mx.zeros((1, 20, VIDEO.inner_dim)), mx.zeros((1, 1, 1, 20)))


# Tokenizer ------------------------------------------------------------------------------------------------------------

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def tokenizer_folder(path: Path, config: dict[str, Any] | None = None) -> Path:
    """A byte-level Gemma tokenizer: special tokens, 256 byte pieces, a few letters and one merge."""
    letters = ["▁", "a", "b", "c", "ab"]
    vocab = {token: i for i, token in enumerate([*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), *letters])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.add_special_tokens(list(SPECIAL))
    path.mkdir(exist_ok=True)
    made.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True} if config is None else config))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> GemmaTokenizer:
    return GemmaTokenizer(tokenizer_folder(tmp_path_factory.mktemp("tokenizer")), vocab_size=300, max_length=12)


BYTE = len(SPECIAL)
A, B, C, AB, SPACE = (BYTE + 256 + i for i in (1, 2, 3, 4, 0))


def test_tokens_are_stripped_begin_with_bos_and_are_padded_on_the_left(tokenizer: GemmaTokenizer) -> None:
    tokens = tokenizer(" \n ab c \t")
    assert tokens.input_ids.tolist() == [[0] * 8 + [2, AB, SPACE, C]]
    assert tokens.attention_mask.tolist() == [[0] * 8 + [1] * 4]
    assert (tokens.input_ids.dtype, tokens.attention_mask.dtype) == (mx.int64, mx.int64)


def test_a_long_prompt_keeps_bos_and_its_beginning(tokenizer: GemmaTokenizer) -> None:
    tokens = tokenizer("c" * 40)
    assert tokens.input_ids.tolist() == [[2] + [C] * 11]
    assert tokens.attention_mask.tolist() == [[1] * 12]


def test_several_prompts_make_one_batch(tokenizer: GemmaTokenizer) -> None:
    together = tokenizer(["a", "bb"])
    assert together.input_ids.tolist() == [*tokenizer("a").input_ids.tolist(), *tokenizer("bb").input_ids.tolist()]


def test_special_tokens_in_the_text_are_those_tokens(tokenizer: GemmaTokenizer) -> None:
    assert tokenizer("a<eos><mask>b").input_ids.tolist()[0][-5:] == [2, A, 1, 4, B]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1).filter(lambda s: s.strip() != "" and "<" not in s))
def test_any_unicode_text_becomes_its_bytes(tokenizer: GemmaTokenizer, text: str) -> None:
    tokens = tokenizer(text)
    ids, mask = tokens.input_ids.tolist()[0], tokens.attention_mask.tolist()[0]
    valid = sum(mask)
    assert mask == [0] * (12 - valid) + [1] * valid
    assert ids[: 12 - valid] == [0] * (12 - valid)
    assert ids[12 - valid] == 2
    pieces = {SPACE: "▁", A: "a", B: "b", C: "c", AB: "ab"}
    raw = b"".join(pieces[i].encode() if i in pieces else bytes([i - BYTE]) for i in ids[13 - valid :])
    assert text.strip().replace(" ", "▁").encode().startswith(raw)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u3000"])
def test_a_blank_prompt_is_refused_unless_allowed(tokenizer: GemmaTokenizer, text: str) -> None:
    with pytest.raises(RequestError, match=r"The prompt is empty .* Describe what to generate"):
        tokenizer(text)
    assert tokenizer(text, allow_empty=True).input_ids.tolist() == [[0] * 11 + [2]]


def test_a_prompt_that_is_not_unicode_is_refused(tokenizer: GemmaTokenizer) -> None:
    with pytest.raises(RequestError, match="not valid Unicode"):
        tokenizer("caf\udce9")


def test_the_config_decides_on_bos_and_the_side_of_truncation(tmp_path: Path) -> None:
    config = {"add_bos_token": False, "add_eos_token": True, "truncation_side": "left", "pad_token": {"content": "<eos>"}}
    made = GemmaTokenizer(tokenizer_folder(tmp_path, config), vocab_size=300, max_length=4)
    assert made("abcc").input_ids.tolist() == [[AB, C, C, 1]]
    assert made("abccb").input_ids.tolist() == [[C, C, B, 1]]
    assert made("a").input_ids.tolist() == [[1, 1, A, 1]]


def test_sentencepiece_alone_gives_the_same_ids(tiny: dict[str, Path], tmp_path: Path) -> None:
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny["gemma"] / name).read_bytes())
    both, alone = (GemmaTokenizer(folder, vocab_size=512, max_length=64) for folder in (tiny["gemma"], tmp_path))
    for text in ("A cat walks along the beach.", "two  spaces\nand é 漢 🙂", "<bos>again<pad>", "x" * 200, "é" * 50):
        for a, b in zip(both(text), alone(text), strict=True):
            assert a.tolist() == b.tolist(), text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "No tokenizer in the Gemma folder"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "The tokenizer cannot be read"),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), "not JSON"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "not an object"),
    ],
)
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = tokenizer_folder(tmp_path / "gemma")
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        GemmaTokenizer(folder, vocab_size=300)
    assert isinstance(caught.value, UserError)
    assert str(folder) in str(caught.value)


def test_a_damaged_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="The tokenizer cannot be read"):
        GemmaTokenizer(tmp_path, vocab_size=300)


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"266 tokens.* at most the 200 of the embedding table"):
        GemmaTokenizer(tokenizer_folder(tmp_path), vocab_size=200)
