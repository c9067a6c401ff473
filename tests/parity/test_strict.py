"""The plan of the checkpoint for the unmodified CLI: keys, shapes and sizes as published and as the CLI asks for them."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from ltx_native.errors import RequestError
from parity.arbitration import strict
from parity.world import full_size, layout, quick_weights, signal_bases
from parity.world.streamed_file import Entry

# file: tensors, millions of bytes
FILES = {
    "model/transformer-dev.safetensors": (230, 1554.2),
    "model/connector.safetensors": (262, 6344.5),
    "model/vae_encoder.safetensors": (86, 637.9),
    "model/vae_decoder.safetensors": (86, 814.3),
    "model/audio_vae.safetensors": (102, 106.5),
    "model/vocoder.safetensors": (1227, 258.2),
    "model/ltx-2.3-22b-distilled-lora-384.safetensors": (112, 2.2),
    "model/spatial_upscaler_x2_v1_1.safetensors": (40, 3.0),
    "gemma/model.safetensors": (626, 223.2),
}
# A shape of every rule: widths 4096 and 2048, attentions of 128 and 64 inside, 4 heads; convolutions with channels last.
SHAPES = {
    "transformer-dev": {
        "transformer.patchify_proj.weight": (4096, 128),
        "transformer.audio_proj_out.weight": (128, 2048),
        "transformer.adaln_single.emb.timestep_embedder.linear1.weight": (4096, 256),
        "transformer.audio_adaln_single.linear.weight": (18432, 2048),
        "transformer.av_ca_a2v_gate_adaln_single.linear.weight": (4096, 4096),
        "transformer.transformer_blocks.1.attn1.to_q.weight": (128, 4096),
        "transformer.transformer_blocks.0.attn2.to_out.weight": (4096, 128),
        "transformer.transformer_blocks.0.attn2.to_gate_logits.weight": (4, 4096),
        "transformer.transformer_blocks.0.attn1.q_norm.weight": (128,),
        "transformer.transformer_blocks.0.audio_attn2.to_k.weight": (64, 2048),
        "transformer.transformer_blocks.0.audio_to_video_attn.to_q.weight": (64, 4096),
        "transformer.transformer_blocks.0.audio_to_video_attn.to_k.weight": (64, 2048),
        "transformer.transformer_blocks.0.audio_to_video_attn.to_out.weight": (4096, 64),
        "transformer.transformer_blocks.0.video_to_audio_attn.to_v.weight": (64, 4096),
        "transformer.transformer_blocks.1.audio_ff.proj_out.weight": (2048, 8192),
        "transformer.transformer_blocks.1.scale_shift_table_a2v_ca_audio": (5, 2048),
    },
    "connector": {
        "connector.text_embedding_projection.video_aggregate_embed.weight": (4096, 188160),
        "connector.text_embedding_projection.audio_aggregate_embed.weight": (2048, 188160),
        "connector.video_embeddings_connector.learnable_registers": (128, 4096),
        "connector.audio_embeddings_connector.transformer_1d_blocks.7.attn1.to_out.0.weight": (2048, 2048),
        "connector.video_embeddings_connector.transformer_1d_blocks.7.attn1.to_gate_logits.weight": (32, 4096),
        "connector.video_embeddings_connector.transformer_1d_blocks.0.ff.net.2.weight": (4096, 16384),
    },
    "vae_decoder": {
        "vae_decoder.conv_in.conv.weight": (1024, 3, 3, 3, 128),
        "vae_decoder.up_blocks.1.conv.conv.weight": (4096, 3, 3, 3, 1024),
        "vae_decoder.up_blocks.6.res_blocks.5.conv2.conv.weight": (256, 3, 3, 3, 256),
        "vae_decoder.per_channel_statistics.mean": (128,),
    },
    "vae_encoder": {
        "vae_encoder.conv_in.conv.weight": (128, 3, 3, 3, 48),
        "vae_encoder.down_blocks.1.conv.conv.weight": (64, 3, 3, 3, 128),
        "vae_encoder.conv_out.conv.weight": (129, 3, 3, 3, 1024),
        "vae_encoder.per_channel_statistics._std_of_means": (128,),
    },
    "audio_vae": {
        "audio_vae.decoder.conv_in.conv.weight": (512, 3, 3, 8),
        "audio_vae.decoder.up.1.block.0.nin_shortcut.conv.weight": (256, 1, 1, 512),
        "audio_vae.encoder.down.0.downsample.conv.weight": (128, 3, 3, 128),
        "audio_vae.encoder.conv_out.conv.weight": (16, 3, 3, 512),
        "audio_vae.per_channel_statistics._mean_of_means": (128,),
    },
    "vocoder": {
        "vocoder.conv_pre.weight": (1536, 7, 128),
        "vocoder.ups.0.weight": (768, 11, 1536),
        "vocoder.resblocks.17.convs2.2.weight": (24, 11, 24),
        "vocoder.act_post.upsample.filter": (1, 12, 1),
        "vocoder.conv_post.weight": (2, 7, 24),
        "vocoder.bwe_generator.ups.0.weight": (256, 12, 512),
        "vocoder.bwe_generator.conv_post.weight": (2, 7, 16),
        "vocoder.mel_stft.mel_basis": (64, 257),
        "vocoder.mel_stft.stft_fn.inverse_basis": (514, 512, 1),
    },
    "ltx-2.3-22b-distilled-lora-384": {
        "diffusion_model.transformer_blocks.1.attn1.to_out.0.lora_A.weight": (4, 128),
        "diffusion_model.transformer_blocks.0.audio_ff.net.0.proj.lora_B.weight": (8192, 4),
    },
    "spatial_upscaler_x2_v1_1": {
        "initial_conv.weight": (64, 3, 3, 3, 128),
        "upsampler.0.weight": (256, 3, 3, 64),
        "post_upsample_res_blocks.1.norm2.weight": (64,),
    },
    "model": {
        "model.embed_tokens.weight": (512, 3840),
        "model.layers.47.self_attn.q_proj.weight": (64, 3840),
        "model.layers.0.mlp.down_proj.weight": (3840, 32),
        "model.norm.weight": (3840,),
    },
}
ROOT = Path("/nowhere")


@pytest.fixture(scope="module")
def plan() -> dict[str, list[Entry]]:
    found = strict.plan(strict.files(ROOT))
    return {path.relative_to(ROOT).as_posix(): entries for path, entries in found.items()}


def test_every_file_has_its_tensors(plan: dict[str, list[Entry]]) -> None:
    found = {name: (len(entries), round(sum(e.nbytes for e in entries) / 1e6, 1)) for name, entries in plan.items()}
    assert found == FILES
    for name, entries in plan.items():
        assert {e.dtype for e in entries} == {"F32" if name.startswith("gemma/") else "BF16"}
        shapes = {e.key: e.shape for e in entries}
        assert len(shapes) == len(entries)
        wanted = SHAPES[Path(name).stem]
        assert {key: shapes.get(key) for key in wanted} == wanted


def values(plan: dict[str, list[Entry]], key: str) -> NDArray[np.float32]:
    (entry,) = (e for entries in plan.values() for e in entries if e.key == key)
    bits = np.concatenate([piece.ravel() for piece in entry.make()]).astype(np.uint32)
    return (bits << np.uint32(16)).view(np.float32).reshape(entry.shape)


def test_the_vocoders_buffers_are_the_real_ones(plan: dict[str, list[Entry]]) -> None:
    close = partial(np.testing.assert_allclose, rtol=2**-7, atol=1e-6)  # bfloat16
    close(values(plan, "vocoder.mel_stft.mel_basis"), signal_bases.slaney_mels(16000, 512, 64))
    forward, inverse = signal_bases.dft_bases(512, 80)
    close(values(plan, "vocoder.mel_stft.stft_fn.forward_basis")[..., 0], forward[:, 0])
    close(values(plan, "vocoder.mel_stft.stft_fn.inverse_basis")[..., 0], inverse[:, 0])
    for key in ("vocoder.act_post.upsample.filter", "vocoder.bwe_generator.act_post.downsample.lowpass.filter"):
        close(values(plan, key)[..., 0], signal_bases.kaiser_sinc()[0])


def test_large_convolutions_are_transposed_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = layout.Tensor("a.conv.weight", (11, 5, 3, 3), "weight", 45)
    monkeypatch.setattr(quick_weights, "CHUNK", 128)  # 495 numbers, 45 a row
    whole = np.concatenate(list(quick_weights.plain(tensor, 3))).reshape(tensor.shape).transpose(0, 2, 3, 1)
    entry = full_size.dense(tensor, tensor.key, 3, axes=(0, 2, 3, 1), dtype="float32")
    pieces = list(entry.make())
    assert entry.shape == (11, 3, 3, 5)
    assert len(pieces) > 2
    assert b"".join(piece.tobytes() for piece in pieces) == whole.tobytes()


def small_plan(found: strict.Strict, seed: int = 0) -> dict[Path, list[Entry]]:
    whole = {path: [e for e in entries if e.nbytes <= 1024] for path, entries in PLAN(found, seed).items()}
    return {path: entries for path, entries in whole.items() if entries or path.stem == "transformer-dev"}


PLAN = strict.plan


def test_it_appears_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "plan", small_plan)
    folder = tmp_path / "strict"
    with monkeypatch.context() as broken:
        broken.setattr(strict.tokenizer_files, "write", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            strict.make(folder)
    assert not folder.exists()
    found = strict.make(folder, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["strict"]
    assert found.defaults("0.14.19") == {}
    dev, distilled = (found.split / f"transformer-{name}.safetensors" for name in ("dev", "distilled"))
    assert dev.samefile(distilled)
    with safe_open(str(found.split / "vocoder.safetensors"), "np") as file:
        assert "vocoder.act_post.upsample.filter" in file.keys()  # noqa: SIM118
    read = json.loads((found.split / "embedded_config.json").read_text())["transformer"]
    assert (read["num_layers"], read["cross_attention_dim"], read["audio_cross_attention_dim"]) == (2, 4096, 2048)
    assert (read["num_attention_heads"], read["attention_head_dim"], read["audio_attention_head_dim"]) == (4, 32, 16)
    upsampler = json.loads((found.split / "spatial_upscaler_x2_v1_1_config.json").read_text())["config"]
    assert (upsampler["mid_channels"], upsampler["num_blocks_per_stage"]) == (64, 2)
    assert json.loads((found.cli_gemma / "config.json").read_text()) == strict.GEMMA
    assert (found.cli_gemma / "tokenizer.json").is_file()


def test_a_disk_with_too_little_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**10, 10**10))
    with pytest.raises(RequestError) as refused:
        strict.make(tmp_path / "strict")
    assert "10.0 GB free" in str(refused.value)
    assert "expected 11.0 GB" in str(refused.value)
    assert "LTX_PARITY_CACHE" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
