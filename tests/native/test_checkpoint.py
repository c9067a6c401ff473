"""The strict loader: both layouts mean the same model, and nothing damaged, foreign or incomplete gets through."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from ltx_native import files
from ltx_native.checkpoint import Checkpoint
from ltx_native.errors import CheckpointError, ConfigError, UserError
from ltx_native.files import read_header
from ltx_native.layout import COMPONENTS, from_gemma, from_official, from_split, to_mlx_axes, to_split
from ltx_native.tensor_files import Pending, read_tensors, write_safetensors
from ltx_native.text_encoder.gemma3 import GemmaTextModel
from ltx_native.transformer.model import LTXModel
from ltx_native.video_vae.decoder import VideoDecoder

Paths = dict[str, Path]


def rewrite(source: Path, target: Path, change: Any) -> Path:
    """A copy of a safetensors file with its tensors (and metadata) changed by `change(tensors, metadata)`."""
    tensors, metadata = read_tensors(source), dict(read_header(source).metadata)
    change(tensors, metadata)
    write_safetensors(target, [Pending(k, v) for k, v in tensors.items()], metadata)
    return target


def test_both_layouts_give_the_same_model(tiny: Paths) -> None:
    single = Checkpoint.open(tiny["model"])
    split = Checkpoint.open(tiny["split"], gemma=tiny["gemma"])
    assert (single.layout, split.layout) == ("official", "split")
    assert single.config == split.config
    assert single.upsampler_config == split.upsampler_config
    for component in COMPONENTS:
        one, other = single.weights(component, "float32"), split.weights(component, "float32")
        assert one.keys() == other.keys()
        assert one, component
        assert all(mx.array_equal(one[name], other[name]).item() for name in one), component
    assert single.config.model_version == split.config.model_version == "2.3.0"


def test_every_key_of_the_single_file_has_a_place(tiny: Paths) -> None:
    header = read_header(tiny["model"])
    placed = [(key, component, name) for key in header.shapes for component, name in from_official(key) or []]
    assert {key for key, _, _ in placed} == set(header.shapes)
    native = [(component, name) for _, component, name in placed]
    assert len(native) == len(set(native))
    for _, component, name in placed:
        assert from_split(component, to_split(component, name)) == name
    assert from_official("model.surprise") is None
    assert from_split("vocoder", "surprise") is None
    assert from_gemma("surprise") is None
    assert from_gemma("vision_tower.vision_model.post_layernorm.weight") == ""


@pytest.mark.parametrize(
    ("key", "split"),
    [
        (
            "model.diffusion_model.adaln_single.emb.timestep_embedder.linear_1.weight",
            "transformer.adaln_single.emb.timestep_embedder.linear1.weight",
        ),
        (
            "model.diffusion_model.transformer_blocks.1.audio_to_video_attn.to_out.0.bias",
            "transformer.transformer_blocks.1.audio_to_video_attn.to_out.bias",
        ),
        (
            "model.diffusion_model.transformer_blocks.0.audio_ff.net.0.proj.weight",
            "transformer.transformer_blocks.0.audio_ff.proj_in.weight",
        ),
        (
            "model.diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_out.0.bias",
            "connector.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_out.0.bias",
        ),
        (
            "text_embedding_projection.audio_aggregate_embed.bias",
            "connector.text_embedding_projection.audio_aggregate_embed.bias",
        ),
        ("vae.decoder.up_blocks.1.conv.conv.weight", "vae_decoder.up_blocks.1.conv.conv.weight"),
        ("vocoder.vocoder.conv_pre.weight", "vocoder.conv_pre.weight"),
        ("vocoder.bwe_generator.conv_pre.weight", "vocoder.bwe_generator.conv_pre.weight"),
        ("vocoder.mel_stft.mel_basis", "vocoder.mel_stft.mel_basis"),
        ("audio_vae.encoder.down.0.downsample.conv.weight", "audio_vae.encoder.down.0.downsample.conv.weight"),
    ],
)
def test_names_of_the_published_split_layout(key: str, split: str) -> None:
    ((component, name),) = from_official(key) or []
    assert to_split(component, name) == split


def test_statistics_go_to_both_halves() -> None:
    assert from_official("vae.per_channel_statistics.mean-of-means") == [
        ("video_encoder", "per_channel_statistics.mean_of_means"),
        ("video_decoder", "per_channel_statistics.mean_of_means"),
    ]
    assert from_official("vae.per_channel_statistics.mean-of-stds") == []
    assert to_split("video_decoder", "per_channel_statistics.std_of_means") == "vae_decoder.per_channel_statistics.std"
    assert (
        to_split("video_encoder", "per_channel_statistics.std_of_means") == "vae_encoder.per_channel_statistics._std_of_means"
    )


def test_axes() -> None:
    assert to_mlx_axes("conv_in.conv.weight", 5) == (0, 2, 3, 4, 1)
    assert to_mlx_axes("vocoder.ups.3.weight", 3) == (1, 2, 0)
    assert to_mlx_axes("vocoder.act_post.upsample.filter", 3) == (0, 2, 1)
    assert to_mlx_axes("scale_shift_table", 2) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load_fills_every_parameter_in_the_asked_dtype(tiny: Paths, dtype: str) -> None:
    checkpoint = Checkpoint.open(tiny["model"])
    model = checkpoint.load("transformer", LTXModel(checkpoint.config.transformer), dtype)
    weights = checkpoint.weights("transformer", dtype)
    parameters = dict(tree_flatten(model.parameters()))
    assert parameters.keys() == weights.keys()
    assert {str(value.dtype) for value in parameters.values()} == {f"mlx.core.{dtype}"}
    assert all(mx.array_equal(parameters[name], weights[name]).item() for name in parameters)


def test_load_refuses_what_does_not_fit(tiny: Paths) -> None:
    checkpoint = Checkpoint.open(tiny["model"])
    model = VideoDecoder(checkpoint.config.video_vae)
    model.surprise = mx.zeros((2,))
    with pytest.raises(CheckpointError, match="1 missing: surprise"):
        checkpoint.load("video_decoder", model, "float32")
    model = VideoDecoder(checkpoint.config.video_vae)
    del model.conv_in
    with pytest.raises(CheckpointError, match="2 unexpected: conv_in"):
        checkpoint.load("video_decoder", model, "float32")
    model = VideoDecoder(checkpoint.config.video_vae)
    model.conv_out.conv.bias = mx.zeros((3,))
    with pytest.raises(CheckpointError, match=r"1 misshapen: conv_out.conv.bias \(48,\) for \(3,\)"):
        checkpoint.load("video_decoder", model, "float32")


def test_nan_in_one_weight_is_named(tiny: Paths, tmp_path: Path) -> None:
    key = "vae.decoder.conv_out.conv.bias"

    def poison(tensors: dict[str, mx.array], _: dict[str, str]) -> None:
        tensors[key] = mx.where(mx.arange(tensors[key].size) == 7, mx.nan, tensors[key])

    checkpoint = Checkpoint.open(rewrite(tiny["model"], tmp_path / "bad.safetensors", poison), gemma=tiny["gemma"])
    with pytest.raises(CheckpointError, match=r"not finite.*conv_out.conv.bias"):
        checkpoint.load("video_decoder", VideoDecoder(checkpoint.config.video_vae), "float32")


def test_missing_and_unknown_keys_of_a_file(tiny: Paths, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    rewrite(tiny["model"], path, lambda tensors, _: tensors.pop("vae.decoder.conv_out.conv.bias"))
    checkpoint = Checkpoint.open(path)
    with pytest.raises(CheckpointError, match=r"1 missing: conv_out.conv.bias"):
        checkpoint.load("video_decoder", VideoDecoder(checkpoint.config.video_vae), "float32")
    rewrite(tiny["model"], path, lambda tensors, _: tensors.update({"model.surprise": mx.zeros((1,))}))
    with pytest.raises(CheckpointError, match=r"no part of the model accounts for.*model.surprise"):
        Checkpoint.open(path)


def test_unknown_config_key_in_a_file(tiny: Paths, tmp_path: Path) -> None:
    def extend(_: dict[str, mx.array], metadata: dict[str, str]) -> None:
        config = json.loads(metadata["config"])
        config["transformer"]["surprise"] = 1
        metadata["config"] = json.dumps(config)

    with pytest.raises(ConfigError, match="Unknown config key 'surprise'"):
        Checkpoint.open(rewrite(tiny["model"], tmp_path / "model.safetensors", extend))


@pytest.mark.parametrize("keep", [0, 5, 8, 1000, 400_000, -1])
def test_truncated_file(tiny: Paths, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny["model"].read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated or damaged") as caught:
        Checkpoint.open(path)
    assert str(path) in str(caught.value)
    assert "download" in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
        b'{"a":7}',
        b'{"__metadata__":7}',
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
    ],
)
def test_corrupt_header(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_header(path)


def test_unreadable_dtype(tiny: Paths, tmp_path: Path) -> None:
    raw = tiny["model"].read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    key = "model.diffusion_model.patchify_proj.weight"
    header[key]["dtype"], header[key]["shape"] = "F8_E4M3", [header[key]["shape"][0] * 4, header[key]["shape"][1]]
    text = json.dumps(header).encode()
    path = tmp_path / "fp8.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(CheckpointError, match=r"dtype that this port does not read.*F8_E4M3"):
        Checkpoint.open(path)


def test_missing_path_and_offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint.open(tmp_path / "nothing.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        Checkpoint.open("nobody/no-such-model")


def test_hub_ids(tiny: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of one model or a split one is fetched; of several single files one must be named."""
    names: list[str] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda _, repo: names)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, allow_patterns: str(tiny["split"]))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file: str(tiny["model"]))
    names[:] = ["ltx-dev.safetensors", "ltx-distilled.safetensors", "ltx-spatial-upscaler-x2.safetensors"]
    with pytest.raises(CheckpointError, match=r"several models.*org/ltx/ltx-dev\.safetensors"):
        Checkpoint.open("org/ltx")
    assert Checkpoint.open("org/ltx/ltx-dev.safetensors").layout == "official"
    names[:] = ["transformer-dev.safetensors", "transformer-distilled.safetensors", "vae_decoder.safetensors"]
    assert Checkpoint.open("org/ltx").layout == "split"


def test_folder_without_one_model(tmp_path: Path, tiny: Paths) -> None:
    with pytest.raises(CheckpointError, match="does not hold one model"):
        Checkpoint.open(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(tiny["model"], tmp_path / name)
    with pytest.raises(CheckpointError, match=r"several models.*a.safetensors, b.safetensors"):
        Checkpoint.open(tmp_path)


def test_variants_of_a_split_folder(tiny: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    shutil.copytree(tiny["split"], folder)
    for name in ("distilled", "distilled-1.1", "distilled-1.10"):
        shutil.copy(folder / "transformer-dev.safetensors", folder / f"transformer-{name}.safetensors")

    def chosen(variant: str | None) -> str:
        return Checkpoint.open(folder, variant=variant).located.components["transformer"][0].name

    assert chosen(None) == "transformer-dev.safetensors"
    assert chosen("distilled") == "transformer-distilled-1.10.safetensors"
    assert chosen("distilled-1.1") == "transformer-distilled-1.1.safetensors"
    with pytest.raises(CheckpointError, match="that variant"):
        chosen("turbo")


def test_component_that_was_not_given(tiny: Paths) -> None:
    checkpoint = Checkpoint.open(tiny["split"])
    with pytest.raises(CheckpointError, match="has no gemma"):
        checkpoint.weights("gemma", "float32")
    with pytest.raises(CheckpointError, match="Pass --gemma"):
        _ = checkpoint.gemma_config
    with pytest.raises(CheckpointError, match="cannot run in that dtype"):
        checkpoint.weights("transformer", "int8")


def test_fingerprint_follows_every_file(tiny: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny["split"].parent, folder)
    path = folder / tiny["model"].name
    first = Checkpoint.open(path).fingerprint()
    assert first == Checkpoint.open(tiny["model"]).fingerprint(), "contents, not places"
    for name in (path.name, "gemma/model.safetensors", "gemma/tokenizer.json", f"{tiny['upsampler'].name}"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        assert Checkpoint.open(path).fingerprint() != first, name
        (folder / name).write_bytes(data)
        assert Checkpoint.open(path).fingerprint() == first


def test_hashes_are_remembered(tiny: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(tiny["model"])
    first = checkpoint.hashes()
    assert first[tiny["model"].name] == checkpoint.files[tiny["model"]]
    assert "gemma/tokenizer.json" in first

    def fail(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(files.hashlib, "sha256", fail)
    assert Checkpoint.open(tiny["model"]).hashes() == first


def test_gemma_of_the_text_only_spelling(tiny: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "gemma"
    shutil.copytree(tiny["gemma"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config["text_config"]))

    def strip(tensors: dict[str, mx.array], _: dict[str, str]) -> None:
        for key in list(tensors):
            value = tensors.pop(key)
            if key.startswith("language_model."):
                tensors[key.removeprefix("language_model.")] = value

    rewrite(tiny["gemma"] / "model.safetensors", folder / "model.safetensors", strip)
    plain, full = Checkpoint.open(tiny["model"], gemma=folder), Checkpoint.open(tiny["model"])
    assert plain.gemma_config == full.gemma_config
    assert plain.weights("gemma", "float32").keys() == full.weights("gemma", "float32").keys()


def test_gemma_of_another_size(tiny: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "gemma"
    shutil.copytree(tiny["gemma"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"Gemma does not fit.*found 5 layers of width 32, expected 6 layers"):
        Checkpoint.open(tiny["model"], gemma=folder)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_gemma_folder(tiny: Paths, tmp_path: Path, bits: int) -> None:
    """As mlx-community publishes Gemma: every linear layer and the embedding, in groups."""
    folder = tmp_path / "gemma"
    shutil.copytree(tiny["gemma"], folder)

    def pack(tensors: dict[str, mx.array], _: dict[str, str]) -> None:
        for key in list(tensors):
            if tensors[key].ndim == 2 and tensors[key].shape[-1] % 32 == 0 and key.endswith(".weight"):
                parts = mx.quantize(tensors[key], group_size=32, bits=bits)
                stem = key.removesuffix("weight")
                tensors.update(zip((key, f"{stem}scales", f"{stem}biases"), parts, strict=True))

    rewrite(tiny["gemma"] / "model.safetensors", folder / "model.safetensors", pack)
    checkpoint = Checkpoint.open(tiny["model"], gemma=folder)
    model = checkpoint.load("gemma", GemmaTextModel(checkpoint.gemma_config), "float32")
    dense = Checkpoint.open(tiny["model"]).weights("gemma", "float32")
    assert (model.embed_tokens.bits, model.embed_tokens.group_size) == (bits, 32)
    got = model.embed_tokens(mx.arange(512))
    want = dense["embed_tokens.weight"] * 32**0.5
    assert mx.linalg.norm(got - want).item() < {8: 0.01, 4: 0.12}[bits] * mx.linalg.norm(want).item()
    ids = mx.array([[0, 0, 2, 9, 300, 401]])
    states = model(ids, attention_mask=mx.array([[0, 0, 1, 1, 1, 1]]))
    assert all(mx.all(mx.isfinite(state)).item() for _, state in tree_flatten(states))


def test_every_error_is_a_user_error_in_words() -> None:
    error = CheckpointError("A thing failed", "file", 3, 4, "Do this.")
    assert isinstance(error, UserError)
    assert str(error) == "A thing failed (in file): found 3, expected 4. Do this."
    assert issubclass(ConfigError, UserError)


def test_finding_files_and_fingerprints_needs_no_mlx() -> None:
    """Dispatch asks for a fingerprint on machines where MLX may be missing."""
    code = "import sys, ltx_native.locate; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
