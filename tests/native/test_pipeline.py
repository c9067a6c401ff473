"""Every mode on the tiny checkpoint: its stages in order, what it keeps, and the mp4 it leaves, decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ltx_native.checkpoint import Checkpoint
from ltx_native.dispatch import InferenceEngine
from ltx_native.errors import RequestError, UserError
from ltx_native.media import read_audio, read_frames, video_metadata, write_video
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.one_stage import one_stage
from ltx_native.pipelines.select import select
from ltx_native.pipelines.stages import Stage
from ltx_native.preflight import unused
from ltx_native.request import Anchor, Lora, Request

RATE, FRAMES, SIZE = 24.0, 9, 64


@pytest.fixture(scope="module")
def files(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An image, a sound of one second, a short sound, a source video of 17 frames, one without sound, and a LoRA."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (48, 80, 3), dtype=np.uint8)).save(folder / "image.png")
    time = np.arange(48000, dtype=np.float32) / 48000
    tone = np.stack([0.4 * np.sin(2 * np.pi * hertz * time) for hertz in (440, 660)]).astype(np.float32)
    ramp = np.linspace(0, 255, 17 * SIZE * SIZE * 3).reshape(17, SIZE, SIZE, 3).astype(np.uint8)
    for name, length, sound in (("source", 17, tone), ("silent", 17, None), ("sound", 9, tone), ("short", 1, tone[:, :2400])):
        write_video(folder / f"{name}.mp4", [ramp[:length]], RATE, sound, 48000)
    width = 64
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    factors = {f"{layer}.lora_A.weight": (2, width), f"{layer}.lora_B.weight": (width, 2)}
    save_file({k: rng.standard_normal(s).astype(np.float32) for k, s in factors.items()}, folder / "lora.safetensors")
    found = {path.stem: str(path) for path in folder.iterdir()}
    return {**found, **{name: str(path) for name, path in tiny.items()}}


@pytest.fixture(scope="module")
def models(files: dict[str, str]) -> Models:
    return Models(Checkpoint.open(files["model"], files["gemma"], files["upsampler"]), mx.float32, keep=True)


def request(files: dict[str, str], **fields: Any) -> Request:
    base = {
        "prompt": "a red fox",
        "negative_prompt": "blurry",
        "model": files["model"],
        "gemma": files["gemma"],
        "upsampler": files["upsampler"],
        "num_frames": FRAMES,
        "frame_rate": RATE,
        "width": SIZE,
        "height": SIZE,
        "steps": 1,
        "stg_blocks": (1,),
        "audio_stg_blocks": (1,),
        "seed": 3,
        "dtype": "float32",
    }
    return Request(**{**base, **fields})


def run(models: Models, asked: Request, **options: Any) -> list[Stage]:
    asked.validate()
    return list(select(asked)(models, asked, **options))


def named(stages: list[Stage], name: str) -> list[Stage]:
    return [stage for stage in stages if stage.name == name]


def test_stages_come_in_their_order_with_their_tensors(models: Models, files: dict[str, str]) -> None:
    stages = run(models, request(files, steps=2), batch_guidance=False)
    names = ["tokens", "context", "schedule", "state", "step", "step", "stage_latent", "latent", "frames", "waveform"]
    assert [stage.name for stage in stages] == names
    step = stages[4]
    passes = ("cond", "uncond", "stg", "modality")
    expected = {f"{m}.denoised.{p}" for m in ("video", "audio") for p in passes}
    expected |= {f"{m}.{k}" for m in ("video", "audio") for k in ("guided", "post_processed", "latent")}
    assert set(step.tensors) == expected
    assert step.step == 0
    assert step.values["sigma"] == pytest.approx(1.0, abs=1e-6)
    assert stages[0].tensors["positive.input_ids"].shape == (1, 1024)
    assert stages[1].tensors["negative.audio"].shape == (1, 1024, 32)
    assert stages[7].tensors["video"].shape == (1, 2, 2, 2, 128)
    assert stages[7].tensors["audio"].shape == (1, 9, 16, 8)
    assert stages[8].tensors["frames"].shape == (FRAMES, SIZE, SIZE, 3)
    assert stages[9].tensors["audio"].shape == (2, 9 * 4 * 480 - 1440)
    assert stages[9].values["sample_rate"] == 48000


def test_batched_run_agrees_with_the_literal_one(models: Models, files: dict[str, str]) -> None:
    for literal, batched in zip(
        named(run(models, request(files, steps=2), batch_guidance=False), "latent"),
        named(run(models, request(files, steps=2), batch_guidance=True), "latent"),
        strict=True,
    ):
        for modality in ("video", "audio"):
            difference = literal.tensors[modality] - batched.tensors[modality]
            assert mx.linalg.norm(difference) < 3e-5 * mx.linalg.norm(literal.tensors[modality])


def test_two_runs_agree_bit_for_bit_and_two_seeds_do_not(models: Models, files: dict[str, str]) -> None:
    first, again, other = (named(run(models, request(files, seed=s)), "latent")[0].tensors["video"] for s in (3, 3, 4))
    assert mx.array_equal(first, again)
    assert not mx.allclose(first, other, atol=1e-2)


def test_a_longer_prompt_reaches_the_picture(models: Models, files: dict[str, str]) -> None:
    one, two = (named(run(models, request(files, prompt=p)), "latent")[0].tensors["video"] for p in ("a fox", "a red fox"))
    assert not mx.allclose(one, two, atol=1e-3)


def test_bfloat16_runs_end_to_end(files: dict[str, str]) -> None:
    models = Models(Checkpoint.open(files["model"], files["gemma"], files["upsampler"]), mx.bfloat16)
    stages = run(models, request(files))
    assert named(stages, "latent")[0].tensors["video"].dtype == mx.bfloat16
    assert named(stages, "context")[0].tensors["positive.video"].dtype == mx.bfloat16
    assert models._kept == {}, "components must not stay loaded"


def test_the_split_layout_makes_the_same_video(files: dict[str, str], models: Models) -> None:
    split = Models(Checkpoint.open(files["split"], files["gemma"]), mx.bfloat16)
    official = Models(models.checkpoint, mx.bfloat16)
    one, two = (run(m, request(files)) for m in (split, official))
    for stage, tensor in (("context", "positive.video"), ("latent", "video"), ("frames", "frames"), ("waveform", "audio")):
        ours, theirs = (named(stages, stage)[0].tensors[tensor] for stages in (one, two))
        assert mx.array_equal(ours, theirs), stage


def test_injected_noise_is_where_the_run_starts(models: Models, files: dict[str, str]) -> None:
    noise = Noise(mx.random.normal((1, 8, 128)), mx.random.normal((1, 9, 128)))
    state = next(s for s in one_stage(models, request(files), noise=noise) if s.name == "state")
    assert mx.array_equal(state.tensors["video.latent"], noise.video)
    assert mx.array_equal(state.tensors["audio.latent"], noise.audio)


def test_a_wholly_given_first_frame_stays(models: Models, files: dict[str, str]) -> None:
    stages = run(models, request(files, images=(Anchor(files["image"], 0, 1.0, 0), Anchor(files["image"], 8, 0.5, 0))))
    state, latent = named(stages, "state")[0], named(stages, "latent")[0].tensors["video"]
    assert state.tensors["video.latent"].shape[1] == 8 + 4, "the second image adds its tokens"
    assert mx.allclose(latent.reshape(1, 8, 128)[:, :4], state.tensors["video.clean_latent"][:, :4], atol=1e-6)
    assert latent.shape == (1, 2, 2, 2, 128)


@pytest.mark.parametrize("direction", ["before", "after"])
def test_extend_keeps_the_source_s_latents(models: Models, files: dict[str, str], direction: str) -> None:
    asked = request(files, source_video_path=files["source"], extend_frames=2, extend_direction=direction)
    stages = run(models, asked)
    clean, latent = named(stages, "state")[0].tensors, named(stages, "latent")[0].tensors
    kept = slice(2, 5) if direction == "before" else slice(0, 3)
    new = slice(0, 2) if direction == "before" else slice(3, 5)
    source = clean["video.clean_latent"].reshape(1, 5, 2, 2, 128)
    assert mx.allclose(latent["video"][:, kept], source[:, kept], atol=1e-6)
    assert source[:, new].abs().max() == 0
    assert latent["video"][:, new].abs().min() > 0
    assert sum(stage.tensors["frames"].shape[0] for stage in named(stages, "frames")) == 33


@pytest.mark.parametrize("keep_audio", [False, True])
def test_retake_changes_its_range_only(models: Models, files: dict[str, str], keep_audio: bool) -> None:
    asked = request(files, source_video_path=files["source"], retake_start=0.4, retake_end=0.7, regenerate_audio=not keep_audio)
    stages = run(models, asked)
    state, latent = named(stages, "state")[0].tensors, named(stages, "latent")[0].tensors
    source = state["video.clean_latent"].reshape(1, 3, 2, 2, 128)
    assert mx.allclose(latent["video"][:, :2], source[:, :2], atol=1e-6)
    assert not mx.allclose(latent["video"][:, 2], source[:, 2], atol=1e-2)
    audio = latent["audio"].swapaxes(2, 3).reshape(1, -1, 128) - state["audio.clean_latent"]
    changed = np.abs(np.array(audio))[0].max(axis=-1) > 1e-3
    assert changed.any() != keep_audio
    assert not changed[:10].any()


def test_a_retake_of_a_silent_video_makes_sound(models: Models, files: dict[str, str]) -> None:
    stages = run(models, request(files, source_video_path=files["silent"], retake_start=0.0, retake_end=0.3))
    assert named(stages, "state")[0].tensors["audio.denoise_mask"].min() == 1


def test_audio_to_video_holds_the_sound(models: Models, files: dict[str, str]) -> None:
    asked = request(files, audio_path=files["sound"], width=128, height=128)
    stages = run(models, asked)
    given = named(stages, "state")[0].tensors["audio.clean_latent"]
    final = named(stages, "latent")[0].tensors["audio"].swapaxes(2, 3).reshape(1, -1, 128)
    assert mx.allclose(final, given, atol=1e-6)
    heard = read_audio(files["sound"], max_duration=FRAMES / RATE)
    assert heard is not None
    assert np.array_equal(np.array(named(stages, "waveform")[0].tensors["audio"]), heard.waveform)


def test_a_lora_changes_the_video_by_its_strength(models: Models, files: dict[str, str]) -> None:
    def latent(*loras: Lora) -> mx.array:
        return named(run(models, request(files, loras=loras)), "latent")[0].tensors["video"]

    plain, none, some = latent(), latent(Lora(files["lora"], 0.0)), latent(Lora(files["lora"], 0.8))
    both = latent(Lora(files["lora"], 0.5), Lora(files["lora"], 0.3))
    assert mx.allclose(plain, none, atol=1e-6)
    assert not mx.allclose(plain, some, atol=1e-3)
    assert mx.allclose(some, both, atol=1e-3)


MODES: dict[str, dict[str, Any]] = {
    "t2v": {},
    "wide": {"width": 96, "num_frames": 17, "frame_rate": 25.0},
    "i2v": {"image_path": "image"},
    "two-stage": {"pipeline": "two-stage", "image_path": "image", "distilled_loras": "lora"},
    "two-stages-hq": {"pipeline": "two-stages-hq", "distilled_loras": "lora"},
    "distilled": {"pipeline": "distilled"},
    "keyframes": {"pipeline": "keyframes", "image_path": "image"},
    "ic-lora": {"pipeline": "ic-lora", "reference_videos": "source", "loras": "lora"},
    "audio": {"audio_path": "sound"},
    "passthrough": {"audio_path": "sound", "audio_passthrough": True},
    "retake": {"source_video_path": "source", "retake_start": 0.1, "retake_end": 0.4},
    "extend": {"source_video_path": "source", "extend_frames": 1},
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked_for(mode: str, files: dict[str, str]) -> Request:
    fields = dict(MODES[mode])
    if mode in ("two-stage", "two-stages-hq", "distilled", "keyframes", "ic-lora", "audio"):
        fields = {"width": 128, "height": 128, **fields}
    for name in ("image_path", "audio_path", "source_video_path"):
        if name in fields:
            fields[name] = files[fields[name]]
    for name in ("loras", "distilled_loras"):
        if name in fields:
            fields[name] = (Lora(files[fields[name]]),)
    if "reference_videos" in fields:
        fields["reference_videos"] = ((files[fields["reference_videos"]], 1.0),)
    return request(files, **fields)


def test_the_mp4_of_every_mode_is_what_was_asked(mode: str, files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    asked = replace(asked_for(mode, files), output_path=str(out))
    result = InferenceEngine("native").generate_video(asked)
    frames, size, rate = asked.num_frames, (asked.width, asked.height), asked.frame_rate
    if mode in ("retake", "extend"):
        frames, size, rate = 17 + 8 * (asked.extend_frames or 0), (SIZE, SIZE), RATE
    found = video_metadata(out)
    assert (found.width, found.height) == size
    assert found.frame_rate == rate
    assert len(list(read_frames(out))) == frames
    sound = read_audio(out)
    assert sound is not None
    assert sound.waveform.shape[0] == 2
    assert sound.sampling_rate == 48000
    assert abs(sound.duration - frames / rate) < 0.08
    assert bool(result.warnings[1:]) == (mode == "passthrough")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_path": "a", "audio_path": "b"}, []),
        ({"image_path": "a", "mode": "t2v"}, ["images"]),
        ({"audio_path": "b", "mode": "i2v", "image_path": "a"}, ["the sound"]),
        ({"audio_path": "b", "audio_passthrough": True, "image_path": "a"}, ["images", "did not steer"]),
        ({"source_video_path": "c", "mode": "t2v"}, ["the source video"]),
        ({"source_video_path": "c", "extend_frames": 1, "image_path": "a"}, ["images"]),
        ({"reference_videos": (("c", 1.0),)}, ["reference videos"]),
        ({"reference_videos": (("c", 1.0),), "pipeline": "ic-lora"}, []),
    ],
)
def test_what_is_given_and_does_nothing_is_said(fields: dict[str, Any], words: list[str]) -> None:
    warnings = unused(Request("a fox", **fields).resolved())
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


def test_an_image_steers_nothing_in_text_to_video(models: Models, files: dict[str, str]) -> None:
    plain, told = (run(models, request(files, mode="t2v", image_path=image)) for image in (None, files["image"]))
    assert mx.array_equal(*(named(stages, "latent")[0].tensors["video"] for stages in (plain, told)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source_video_path": "source", "retake_start": 0.2, "retake_end": 5.0}, "outside the source"),
        ({"source_video_path": "source", "retake_start": 3.0, "retake_end": 4.0}, "outside the source"),
        ({"audio_path": "short", "width": 128, "height": 128}, "shorter than the clip"),
        ({"audio_path": "silent", "width": 128, "height": 128}, "no sound in the file"),
        ({"image_path": "sound"}, "image"),
        ({"loras": "upsampler"}, "LoRA"),
    ],
)
def test_inputs_that_do_not_fit_leave_nothing(
    files: dict[str, str], tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    given = {name: files.get(value, value) if isinstance(value, str) else value for name, value in fields.items()}
    if "loras" in given:
        given["loras"] = (Lora(given["loras"]),)
    with pytest.raises(UserError, match=message):
        InferenceEngine("native").generate_video(request(files, output_path=str(tmp_path / "out.mp4"), **given))
    assert not list(tmp_path.iterdir())


def test_a_source_of_an_odd_size_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", [np.zeros((9, 50, 64, 3), np.uint8)], RATE)
    asked = request(files, source_video_path=str(tmp_path / "odd.mp4"), extend_frames=1)
    with pytest.raises(RequestError, match="multiple of 32"):
        InferenceEngine("native").generate_video(replace(asked, output_path=str(tmp_path / "out.mp4")))
