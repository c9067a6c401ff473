"""Blocks read one at a time: bitwise the resident model, LoRAs bound per block, bad files refused as at a whole load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx_native.checkpoint import Checkpoint
from ltx_native.cli import main
from ltx_native.conditioning import AudioTarget, VideoTarget
from ltx_native.convert import convert
from ltx_native.errors import CheckpointError
from ltx_native.lora import LoRA
from ltx_native.models import Models
from ltx_native.patchify import VideoLatentShape
from ltx_native.pipelines.denoise import Denoiser, euler
from ltx_native.pipelines.stages import Context, Run, decode
from ltx_native.request import Lora, Request
from ltx_native.streaming import StreamedBlocks, streamed_transformer
from ltx_native.tensor_files import Pending, read_tensors, write_safetensors
from ltx_native.transformer.block import BasicAVTransformerBlock
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.model import LTXModel
from ltx_native.transformer.passes import Pass, run_batched, run_one
from ltx_native.transformer.perturbations import Perturbation, PerturbationConfig, PerturbationType
from ltx_native.video_vae import VideoDecoder, streamed_decode
from parity.world.random_checkpoint import write_lora
from tests.native.media_networks import VIDEO, normal, randomized, rel_l2

Paths = dict[str, Path]


def modality(tokens: int, width: int, axes: int, seed: int) -> Modality:
    keys = mx.random.split(mx.random.key(seed), 3)
    start = 10 * mx.random.uniform(shape=(1, axes, tokens, 1), key=keys[1])
    return Modality(
        latent=mx.random.normal((1, tokens, 128), key=keys[0]),
        sigma=mx.array([0.7]),
        timesteps=mx.full((1, tokens, 1), 0.7),
        positions=mx.concatenate([start, start + 1], axis=-1),
        context=mx.random.normal((1, 5, width), key=keys[2]),
    )


def passes(video: Modality, audio: Modality) -> list[Pass]:
    cond = Pass("cond", video.context, audio.context)
    skip = PerturbationConfig([Perturbation(PerturbationType.SKIP_VIDEO_SELF_ATTN, [1])])
    return [cond, Pass("uncond", -video.context, -audio.context), replace(cond, name="stg", perturbations=skip)]


def velocities(model: LTXModel) -> list[mx.array]:
    """Each pass alone and all passes in a batch."""
    video, audio = modality(12, 64, 3, 1), modality(7, 32, 1, 2)
    jobs = passes(video, audio)
    runs = [*(run_one(model, video, audio, job) for job in jobs), *run_batched(model, video, audio, jobs)]
    return [array for run in runs for array in run]


def resident(checkpoint: Checkpoint, dtype: str, loras: tuple[Lora, ...] = ()) -> LTXModel:
    adapters = [LoRA.open(lora.path, lora.strength) for lora in loras]
    return checkpoint.load("transformer", LTXModel(checkpoint.config.transformer), dtype, adapters)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["official", "q4"])
def test_streamed_is_bitwise_resident(tiny: Paths, tmp_path: Path, layout: str, dtype: str) -> None:
    source = tiny["model"]
    if layout == "q4":
        source = convert(tiny["model"], tmp_path / "q4", dtype="q4", group_size=32).folder
    loras = (Lora(str(write_lora(tmp_path / "a.safetensors")), 0.5), Lora(str(write_lora(tmp_path / "b.safetensors", seed=2))))
    checkpoint = Checkpoint.open(source)
    for chosen in ((), loras):
        whole = velocities(resident(checkpoint, dtype, chosen))
        streamed = velocities(streamed_transformer(checkpoint, dtype, chosen))
        for one, other in zip(whole, streamed, strict=True):
            assert one.dtype == other.dtype
            assert mx.array_equal(one, other).item()
        if chosen:
            plain = velocities(resident(checkpoint, dtype))
            assert not mx.allclose(plain[0], streamed[0], rtol=1e-3).item(), "the adapters have an effect"


def test_no_block_stays_and_every_call_reads_it_again(tiny: Paths) -> None:
    seen: list[int] = []
    model = streamed_transformer(Checkpoint.open(tiny["model"]), "float32", on_block=lambda i, _: seen.append(i))
    assert model.streamed
    assert not [name for name, _ in tree_flatten(model.parameters()) if "transformer_blocks" in name]
    video, audio = modality(4, 64, 3, 1), modality(3, 32, 1, 2)
    mx.eval(run_one(model, video, audio, passes(video, audio)[0]))
    mx.clear_cache()
    before = mx.get_active_memory()
    for _ in range(2):
        mx.eval(run_one(model, video, audio, passes(video, audio)[0]))
        assert mx.get_active_memory() <= before + 100_000, "a block (1 MB) is gone when the pass is over"
    assert seen == [0, 1] * 3


def test_a_hook_can_change_a_block(tiny: Paths) -> None:
    def louder(index: int, block: BasicAVTransformerBlock) -> None:
        if index == 1:
            block.ff.net[2].weight = 2 * block.ff.net[2].weight

    checkpoint = Checkpoint.open(tiny["model"])
    changed = resident(checkpoint, "float32")
    louder(1, changed.transformer_blocks[1])
    streamed = streamed_transformer(checkpoint, "float32", on_block=louder)
    for one, other in zip(velocities(changed), velocities(streamed), strict=True):
        assert mx.array_equal(one, other).item()


def test_blocks_are_a_sequence(tiny: Paths) -> None:
    blocks = StreamedBlocks(Checkpoint.open(tiny["model"]), mx.float32)
    assert [block.idx for block in blocks] == [block.idx for block in blocks[:]] == [0, 1]
    assert blocks[-1].idx == 1
    whole = Checkpoint.open(tiny["model"]).weights("transformer", "float32")
    for name, value in tree_flatten(blocks.load(1).parameters()):
        assert mx.array_equal(value, whole[f"transformer_blocks.1.{name}"]).item(), name
    with pytest.raises(IndexError):
        blocks[2]


def test_models_with_low_ram_stream_and_report_blocks(tiny: Paths) -> None:
    loaded: list[str] = []

    def on_load(name: str, module: nn.Module) -> None:
        loaded.append(name)

    models = Models(Checkpoint.open(tiny["model"]), mx.float32, low_ram=True, on_load=on_load)
    with models.use("transformer") as model:
        velocities(model)
    assert loaded == ["transformer", *[f"transformer.transformer_blocks.{i}" for i in (0, 1)] * 4]


def test_nothing_is_traced_through_streamed_blocks(tiny: Paths) -> None:
    """Compilation is what a GPU does by itself; a block that is read while it is traced could not be evaluated."""
    checkpoint = Checkpoint.open(tiny["model"])
    video, audio = VideoTarget(VideoLatentShape(1, 2, 2), 24.0), AudioTarget(3)
    states = [
        replace(target.initial_state(mx.float32), latent=mx.random.normal((1, target.tokens, 128), key=mx.random.key(9)))
        for target in (video, audio)
    ]
    text = Context(*(mx.random.normal((1, 4, width), key=mx.random.key(width)) for width in (64, 32)), mx.ones((1, 4)))
    latents = []
    for model in (streamed_transformer(checkpoint, "float32"), resident(checkpoint, "float32")):
        denoiser = Denoiser(model, text, compiled=model.streamed)
        *_, last = euler(denoiser, np.array([1.0, 0.8, 0.5, 0.0], np.float32), *states)
        latents.append(last.tensors["video.latent"])
    assert mx.array_equal(*latents).item()


def test_an_adapter_for_other_blocks_is_refused_before_anything_runs(tiny: Paths, tmp_path: Path) -> None:
    tensors = read_tensors(write_lora(tmp_path / "a.safetensors"))
    tensors = {k.replace("blocks.1.attn1.to_q", "blocks.7.attn1.to_q"): v for k, v in tensors.items()}
    write_safetensors(tmp_path / "part.safetensors", [Pending(k, v) for k, v in tensors.items()])
    with pytest.raises(CheckpointError, match=r"only 55 of its 56 layers.*transformer_blocks\.7\.attn1\.to_q"):
        streamed_transformer(Checkpoint.open(tiny["model"]), "float32", [Lora(str(tmp_path / "part.safetensors"))])


def test_weights_of_a_block_that_the_config_does_not_have(tiny: Paths) -> None:
    checkpoint = Checkpoint.open(tiny["model"])
    short = replace(checkpoint.config, transformer=replace(checkpoint.config.transformer, num_layers=1))
    checkpoint.located.__dict__["config"] = short
    with pytest.raises(CheckpointError, match=r"unexpected: transformer_blocks\.1\."):
        streamed_transformer(checkpoint, "float32")


def test_a_damaged_block_is_refused_when_its_turn_comes(tiny: Paths, tmp_path: Path) -> None:
    split = convert(tiny["model"], tmp_path / "split", dtype="float32").folder
    path = split / "transformer-dev.safetensors"
    tensors = read_tensors(path)
    name = "transformer.transformer_blocks.1.attn1.to_q.bias"
    tensors[name] = mx.array(np.full(tensors[name].shape, np.nan, np.float32))
    write_safetensors(tmp_path / "new", [Pending(k, v) for k, v in tensors.items()])
    (tmp_path / "new").replace(path)
    blocks = StreamedBlocks(Checkpoint.open(split), mx.float32)
    blocks.load(0)
    with pytest.raises(CheckpointError, match=r"not finite.*transformer_blocks\.1.*attn1\.to_q\.bias"):
        blocks.load(1)


def test_the_command_line_makes_the_same_video_with_low_ram(
    tiny: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed: list[bool] = []
    real = Models.__init__

    def observed(self: Models, *args: Any, **options: Any) -> None:
        streamed.append(bool(options.get("low_ram")))
        real(self, *args, **options)

    monkeypatch.setattr(Models, "__init__", observed)
    lora = ["--lora", str(write_lora(tmp_path / "a.safetensors")), "0.5"]
    files = [f"--{name}={tiny[name]}" for name in ("model", "gemma")]
    size = [
        "--width=64",
        "--height=64",
        "--frames=9",
        "--frame-rate=24",
        "--steps=1",
        "--stg-blocks",
        "1",
        "--audio-stg-blocks",
        "1",
    ]
    for name, flags in (("whole", []), ("low", ["--low-ram"])):
        out = f"--output={tmp_path / name}.mp4"
        assert main(["generate", "--prompt=a fox", "--engine=native", "--quiet", out, *files, *size, *lora, *flags]) == 0
    assert streamed == [False, True]
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "low.mp4").read_bytes()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_frames_decoded_a_few_at_a_time_are_those_of_the_whole_clip(causal: bool, frames: int) -> None:
    decoder = randomized(VideoDecoder(replace(VIDEO, causal_decoder=causal)))
    latent = normal(2, frames, 2, 3, 16)
    whole = decoder(latent)
    for latent_frames in (1, 2, 3):
        chunks = list(streamed_decode(decoder, latent, latent_frames))
        assert frames < 3 or len(chunks) > 1
        assert rel_l2(mx.concatenate(chunks, axis=1), whole) < 1e-5


def test_a_one_stage_run_streams_its_frames_and_a_literal_one_calls_the_decoder(tiny: Paths) -> None:
    models = Models(Checkpoint.open(tiny["model"], tiny["gemma"]), mx.float32, keep=True)
    size: dict[str, Any] = {"num_frames": 25, "width": 64, "height": 64, "frame_rate": 24.0}
    request = Request(
        "a fox", model=str(tiny["model"]), gemma=str(tiny["gemma"]), stg_blocks=(1,), audio_stg_blocks=(1,), **size
    )
    latent = mx.random.normal((1, 4, 2, 2, 128), key=mx.random.key(0)), mx.random.normal((1, 26, 16, 8), key=mx.random.key(1))
    pixels = {}
    for literal in (None, False):
        run = Run.of(models, request, None, literal)
        frames = [s.values["pixels"] for s in decode(run, *latent, whole=True) if s.name == "frames"]
        assert (len(frames) == 1) == (literal is False)
        pixels[literal] = mx.concatenate(frames)
    assert pixels[None].shape == (25, 64, 64, 3)
    assert rel_l2(pixels[None], pixels[False]) < 1e-5
