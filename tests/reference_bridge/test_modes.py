"""Every mode of a request with every version: the video, or the documented error."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from cli_matrix import EVERY, REFUSED, VERSIONS, fields_of

from ltx_native import request as request_module
from ltx_native.dispatch import InferenceEngine
from ltx_native.request import DEFAULT_NEGATIVE_PROMPT, Lora, Request
from ltx_native.request import Anchor as NativeAnchor
from reference_bridge import job as job_module
from reference_bridge.boxes import read_movie
from reference_bridge.command import NEGATIVE_PROMPT_SHA256, official
from reference_bridge.engine import BridgeEngine
from reference_bridge.errors import JobError, UnsupportedMode
from reference_bridge.job import MODES, Anchor, Job


@pytest.mark.parametrize(("mode", "version"), EVERY)
def test_mode_gives_the_video_or_the_documented_error(
    mode: str,
    version: str,
    engine: Callable[..., BridgeEngine],
    job: Callable[..., Job],
    inputs: dict[str, Any],
    tmp_path: Path,
) -> None:
    asked = job(**fields_of(mode, inputs))
    final = tmp_path / "out.mp4"
    if (mode, version) in REFUSED:
        with pytest.raises(UnsupportedMode) as refused:
            engine(version).generate_video(asked)
        assert (refused.value.mode, refused.value.backend) == (mode, "external-ltx-2-mlx")
        assert REFUSED[mode, version] in refused.value.reason
        assert version in refused.value.reason
        assert not final.exists()
        return
    result = engine(version).generate_video(asked)
    assert result.video_path == str(final)
    assert result.media_type == "video/mp4"
    assert result.model_used == "external:dgrauet/ltx-2.3-mlx-q4"
    with av.open(str(final)) as file:
        frames = sum(1 for _ in file.decode(video=0))
    assert frames == (17 if mode == "extend" else 9)
    assert read_movie(final).audio is not None
    assert [entry for entry in tmp_path.iterdir() if entry.name.endswith(".partial")] == []


def argv_of(engine: BridgeEngine, job: Job) -> list[str]:
    return list(engine.plan(job, Path("/out/video.mp4")).argv[1:])


def test_a_pipeline_flag_and_a_frame_rate_are_given_from_the_version_that_wants_them(
    engine: Callable[..., BridgeEngine], job: Callable[..., Job]
) -> None:
    flags = {version: argv_of(engine(version), job()) for version in VERSIONS if version != "0.14.0"}
    assert [version for version, argv in flags.items() if "--one-stage" in argv] == ["0.7.1", "0.8.2", "0.13.1", "0.14.19"]
    assert [version for version, argv in flags.items() if "--frame-rate=24.0" in argv] == ["0.14.19"]
    assert flags["0.2.0"] == [
        "generate", "--prompt=a cat", "--output=/out/video.mp4", "--model=dgrauet/ltx-2.3-mlx-q4", "--width=64", "--height=64",
        "--frames=9", "--steps=2", "--cfg-scale=3.0", "--seed=7",
    ]  # fmt: skip


def test_a_prompt_that_looks_like_a_flag_is_a_prompt(engine: Callable[..., BridgeEngine], job: Callable[..., Job]) -> None:
    for prompt in ("--version", "-o", "--prompt=x", "-- --help", "$(rm -rf ~)", "line\nbreak", "‮日本語"):
        for version in ("0.2.0", "0.14.19"):
            result = engine(version).generate_video(job(prompt=prompt))
            log = Path(result.log_path or "").read_text()
            assert repr(f"--prompt={prompt}") in log


def test_audio_steers_the_picture_with_stage_1_steps_and_says_that_stage_2_runs(
    engine: Callable[..., BridgeEngine], job: Callable[..., Job], inputs: dict[str, Any]
) -> None:
    asked = job(audio_path=inputs["audio_path"], image_path=inputs["image_path"])
    plan = engine("0.14.19").plan(asked, Path("/out/video.mp4"))
    assert plan.argv[1] == "a2v"
    assert "--stage1-steps=2" in plan.argv
    assert f"--audio={inputs['audio_path']}" in plan.argv
    assert f"--image={inputs['image_path']}" in plan.argv
    assert not [word for word in plan.argv if word.startswith("--stage2-steps")]
    assert any("stage 2 runs in full" in warning for warning in plan.warnings)
    older = engine("0.8.2").plan(job(audio_path=inputs["audio_path"], frame_rate=12.0), Path("/out/video.mp4"))
    assert "--fps=12.0" in older.argv
    assert any("as if at 24 frames per second" in warning for warning in older.warnings)


def test_audio_passthrough_is_text_to_video_with_a_warning(
    engine: Callable[..., BridgeEngine], job: Callable[..., Job], inputs: dict[str, Any]
) -> None:
    asked = job(audio_path=inputs["audio_path"], audio_passthrough=True, image_path=inputs["image_path"])
    plan = engine("0.14.19").plan(asked, Path("/out/video.mp4"))
    assert plan.argv[1] == "generate"
    assert not [word for word in plan.argv if word.startswith(("--audio", "--image"))]
    assert any("muxing only" in warning and "images are not used" in warning for warning in plan.warnings)


def test_audio_shorter_than_the_clip_is_refused_before_anything_starts(
    engine: Callable[..., BridgeEngine], job: Callable[..., Job], inputs: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=r"shorter than the clip.*1\.000 s.*1\.042 s or more"):
        engine("0.14.19").generate_video(job(audio_path=inputs["audio_path"], num_frames=25))
    assert not (tmp_path / "pids").exists()
    engine("0.14.19").generate_video(job(audio_path=inputs["audio_path"], num_frames=17))


def test_what_would_make_another_video_is_refused_or_said(
    engine: Callable[..., BridgeEngine], job: Callable[..., Job], inputs: dict[str, Any]
) -> None:
    out = Path("/out/video.mp4")
    for version, fields, reason in (
        ("0.13.1", {"frame_rate": 30.0}, "always makes 24 frames per second"),
        ("0.2.0", {"pipeline": "distilled"}, "has no pipeline distilled"),
        ("0.14.19", {"pipeline": "keyframes"}, "has no pipeline keyframes"),
        ("0.8.2", {"mode": "i2v", "images": ((inputs["image_path"], 8, 0.5, 33),)}, "takes one image"),
        ("0.14.19", {"audio_path": inputs["audio_path"], "loras": ((inputs["image_path"], 1.0),)}, "takes no LoRA"),
    ):
        with pytest.raises(UnsupportedMode, match=reason):
            engine(version).plan(Job.from_mapping({**vars(job()), **fields}), out)
    said = engine("0.14.19").plan(job(negative_prompt="blurry", rescale_scale=0.5, audio_guidance=7.0), out).warnings
    assert [word for word in said if word.startswith(("negative_prompt", "rescale_scale=0.5"))] == list(said)
    hq = engine("0.14.19").plan(job(pipeline="two-stages-hq", rescale_scale=0.45, width=96), out)
    assert "--two-stages-hq" in hq.argv
    assert hq.warnings == ("width 96 becomes 64: two stages need a multiple of 64",)
    assert "--hq" in engine("0.7.1").plan(job(pipeline="two-stages-hq"), out).argv


def test_several_images_are_passed_where_the_version_takes_them(
    engine: Callable[..., BridgeEngine], job: Callable[..., Job], inputs: dict[str, Any], tmp_path: Path
) -> None:
    image = inputs["image_path"]
    asked = Job.from_mapping({**vars(job()), "image_path": image, "images": ((image, 8, 0.5, 33),)})
    argv = argv_of(engine("0.14.19"), asked)
    assert argv[-10:] == ["--image", image, "0", "1.0", "33", "--image", image, "8", "0.5", "33"]
    assert engine("0.14.19").generate_video(asked).video_path == str(tmp_path / "out.mp4")


@pytest.mark.parametrize(
    ("seconds", "latent", "rounded"),
    [((0.0, 1 / 24), (0, 1), False), ((1 / 24, 9 / 24), (1, 2), False), ((0.1, 0.2), (1, 2), True), ((0.0, 0.5), (0, 3), True)],
)
def test_seconds_of_a_retake_become_whole_latent_frames(
    seconds: tuple[float, float], latent: tuple[int, int], rounded: bool, engine: Callable[..., BridgeEngine],
    job: Callable[..., Job], inputs: dict[str, Any],
) -> None:  # fmt: skip
    video = inputs["source_video_path"]
    asked = job(
        source_video_path=video, retake_start=seconds[0], retake_end=seconds[1], width=None, height=None, num_frames=None
    )
    plan = engine("0.13.1").plan(asked, Path("/out/video.mp4"))
    assert [f"--start={latent[0]}", f"--end={latent[1]}"] == list(plan.argv[-2:])
    assert any("whole latent frames" in warning for warning in plan.warnings) is rounded


def test_the_effective_mode_follows_from_the_inputs(job: Callable[..., Job]) -> None:
    assert job().effective_mode == "t2v"
    assert job(image_path="i").effective_mode == "i2v"
    assert job(image_path="i", audio_path="a").effective_mode == "audio_ref_video"
    assert job(source_video_path="v", audio_path="a").effective_mode == "retake"
    assert job(source_video_path="v", extend_frames=1).effective_mode == "extend"
    assert job(mode="t2v", image_path="i").effective_mode == "t2v"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"num_frames": 10}, r"num_frames is out of range.*8·k \+ 1"),
        ({"width": 65}, "width is out of range.*multiple of 32"),
        ({"steps": 0}, "steps is out of range"),
        ({"seed": -1}, "seed is out of range"),
        ({"guidance": float("nan")}, "not a finite number"),
        ({"mode": "i2v"}, "i2v requested but image_path is empty"),
        ({"mode": "audio_ref_video"}, "audio_ref_video requested but audio_path is empty"),
        ({"mode": "i2v", "image_path": "/no/such.png"}, "cannot be read"),
        ({"mode": "retake", "source_video_path": __file__}, "no range to retake"),
        ({"mode": "extend", "source_video_path": __file__}, "nothing to add"),
        ({"mode": "cinema"}, "unknown mode"),
        ({"output_path": "/no/such/folder/o.mp4"}, "no such folder"),
        ({"output_path": "/tmp"}, "the output is a folder"),
        ({"model": __file__}, "cannot read a single-file checkpoint"),
    ],
)
def test_bad_input_is_refused_in_words_with_exit_status_2(
    fields: dict[str, Any], text: str, engine: Callable[..., BridgeEngine], job: Callable[..., Job], tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=text) as refused:
        engine("0.14.19").generate_video(job(**fields))
    assert refused.value.exit_status == 2
    assert not (tmp_path / "pids").exists()
    assert not (tmp_path / "out.mp4").exists()


def test_a_request_of_the_native_engine_becomes_a_job() -> None:
    anchor = NativeAnchor("b.png", 8, 0.5)
    asked = Request(prompt="p", image_path="a.png", images=(anchor,), stg_blocks=(1,), loras=(Lora("l", 0.5),))
    job = Job.from_request(asked.resolved())
    assert [(each.path, each.frame, each.strength) for each in job.anchors] == [("a.png", 0, 1.0), ("b.png", 8, 0.5)]
    assert job.loras == (("l", 0.5),)
    assert job.stg_blocks == (1,)
    with pytest.raises(JobError, match="does not know"):
        Job.from_mapping({"prompt": "p", "camera": "dolly"})


def test_a_job_and_a_request_say_the_same(inputs: dict[str, Any]) -> None:
    """The bridge may not import the engine, and the engine runs without the bridge: both say this; here they meet."""
    names = [{field.name for field in dataclasses.fields(kind)} for kind in (Job, Request)]
    assert names[0] == names[1]
    for name in ("DEFAULT_MODEL", "DEFAULT_OUTPUT", "DEFAULT_FRAMES", "MODES", "PIPELINES", "MAX_SEED"):
        assert getattr(job_module, name) == getattr(request_module, name)
    assert [(f.name, f.default) for f in dataclasses.fields(Anchor)] == [
        (f.name, f.default) for f in dataclasses.fields(NativeAnchor)
    ]
    given = {**inputs, "extend_frames": 1, "mode": "t2v", "audio_passthrough": True}
    for size in range(len(given) + 1):
        for chosen in itertools.combinations(given.items(), size):
            one, other = Job("p", **dict(chosen)), Request("p", **dict(chosen))
            assert (one.effective_mode, one.audio_conditioning) == (other.effective_mode, other.audio_conditioning)


def test_an_absent_negative_prompt_is_the_same_text_everywhere(
    engine: Callable[..., BridgeEngine], job: Callable[..., Job]
) -> None:
    """No version has an option for it; the text that all of them use is native's default, too, so nothing is warned of."""
    assert hashlib.sha256(DEFAULT_NEGATIVE_PROMPT.encode()).hexdigest() == NEGATIVE_PROMPT_SHA256
    for negative in (None, DEFAULT_NEGATIVE_PROMPT):
        plan = engine("0.14.19").plan(job(negative_prompt=negative), Path("/out/video.mp4"))
        assert not [word for word in (*plan.argv, *plan.warnings) if "negative" in word]
    given = official(job(model="m", gemma="g", negative_prompt=DEFAULT_NEGATIVE_PROMPT), "o").argv
    assert f"--negative-prompt={DEFAULT_NEGATIVE_PROMPT}" in given
    assert not [word for word in official(job(model="m", gemma="g"), "o").argv if "negative" in word]


def test_the_stand_in_refuses_what_the_real_versions_refuse(standin: Callable[..., Path], inputs: dict[str, Any]) -> None:
    """The rules the bridge works around hold in the stand-in, or the tests above would prove nothing."""

    def run(version: str, *argv: str) -> tuple[int, str]:
        done = subprocess.run([standin(version), *argv], capture_output=True, text=True)
        return done.returncode, done.stderr

    base = ("--prompt=x", "--output=/dev/null/x.mp4")
    assert run("0.14.19", "generate", *base, "--one-stage")[0] == 2  # no --frame-rate
    code, err = run("0.8.2", "generate", *base)
    assert (code, "generate requires one of" in err) == (1, True)
    assert run("0.13.1", "generate", *base, "--one-stage", "--frame-rate=24")[0] == 2
    assert run("0.8.2", "a2v", *base, f"--audio={inputs['audio_path']}", "--hq")[0] == 2
    assert run("0.8.2", "generate", *base, "--hq")[0] == 2
    assert run("0.8.2", "generate", "--prompt", "-x", "--output=o", "--one-stage")[0] == 2  # why values are joined by `=`
    short = ("a2v", *base, f"--audio={inputs['audio_path']}", "--frames=97", "--frame-rate=24")
    assert "broadcast_shapes" in run("0.14.19", *short)[1]
    code, err = run("0.14.19", "retake", *base, f"--video={inputs['source_video_path']}", "--start=0", "--end=1")
    assert (code, "missing 1 required keyword-only argument: 'frame_rate'" in err) == (1, True)


def test_dispatch_hands_every_mode_to_the_bridge(
    environment: Callable[..., dict[str, str]], inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the native engine's own request, resolved with all its defaults, to a video of the stand-in."""
    for name, value in environment("0.13.1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LTX_BRIDGE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for mode in MODES:
        out = str(tmp_path / f"{mode}.mp4")
        small = {"width": 64, "height": 64, "num_frames": 9, "steps": 2, **fields_of(mode, inputs)}
        asked = Request(prompt="--a cat", output_path=out, model="nobody/none", **small)
        result = InferenceEngine(engine="bridge").generate_video(asked)
        assert (result.engine, result.video_path) == ("bridge", out)
        assert read_movie(Path(out)).video.samples == (17 if mode == "extend" else 9)
    logs = sorted(
        (Path(environment("0.13.1")["LTX_BRIDGE_CACHE"]) / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )
    (retake,) = [text for log in logs[-len(MODES) :] if "'retake'" in (text := log.read_text())]
    assert "'--start=1'" in retake
    assert "'--end=2'" in retake
