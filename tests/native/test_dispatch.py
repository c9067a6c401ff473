"""Who serves: the verdict decides, and every way in which it can be less than whole leads to the bridge with a reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ltx_native import dispatch, verdict
from ltx_native.cli import join_text, main, parser, request_of
from ltx_native.dispatch import BridgeFailed, InferenceEngine, job_fields
from ltx_native.errors import UserError
from ltx_native.locate import CheckpointFiles
from ltx_native.request import Anchor, Request, ResolvedRequest

ROOT = Path(__file__).parents[2]
PROMPT = "--a cat that begins with dashes"


@pytest.fixture
def request_(tiny: dict[str, Path], tmp_path: Path) -> ResolvedRequest:
    return Request(
        PROMPT,
        output_path=str(tmp_path / "out.mp4"),
        model=str(tiny["model"]),
        gemma=str(tiny["gemma"]),
        upsampler=str(tiny["upsampler"]),
        width=64,
        height=64,
        num_frames=9,
        steps=1,
        stg_blocks=(1,),
        audio_stg_blocks=(1,),
    ).resolved()


def content(request: ResolvedRequest, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A verdict that lets the native engine serve this request, with changes made before it is sealed."""
    results = tmp_path / "results.json"
    results.write_text("{}")
    checkpoint = CheckpointFiles.find(request.model, request.gemma, request.upsampler).fingerprint()
    made: dict[str, Any] = {
        "schema": 1,
        "verdict": "pass",
        "reasons": [],
        "created": "2026-01-01T00:00:00+00:00",
        "commit": None,
        "fingerprints": verdict.current_fingerprints(checkpoint),
        "evidence": {"results": {"path": "results.json", "sha256": verdict.file_sha256(results)}, "sites_compared": 10},
    }
    made.update(changes)
    return {**made, "digest": verdict.digest(made)}


def write(path: Path, made: dict[str, Any]) -> Path:
    path.write_text(json.dumps(made))
    return path


def choose(request: ResolvedRequest, path: Path, engine: str | None = None) -> dispatch.Choice:
    return InferenceEngine(engine, path).choose(request)


def test_a_whole_fresh_pass_lets_native_serve(request_: ResolvedRequest, tmp_path: Path) -> None:
    choice = choose(request_, write(tmp_path / "verdict.json", content(request_, tmp_path)))
    assert choice.engine == "native"
    assert "pass" in choice.reason


def fingerprints(name: str, value: str) -> Any:
    return lambda made: made["fingerprints"].update({name: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: made.update(verdict="fail", reasons=["video: rel_l2 3"]), "video: rel_l2 3"),
        (lambda made: made.update(verdict="inconclusive"), "the verdict is inconclusive"),
        (lambda made: made.update(verdict="fine"), "says 'fine'"),
        (lambda made: made.update(schema=2), "schema 2"),
        (lambda made: made.pop("evidence"), "no usable field 'evidence'"),
        (fingerprints("native_code", "0" * 64), "the native code changed"),
        (fingerprints("checkpoint", "0" * 64), "the checkpoint changed"),
        (fingerprints("reference", "absent"), "no fingerprint of the reference"),
        (fingerprints("mlx", "0.1"), "MLX changed"),
        (fingerprints("policy", "0" * 64), "the parity policy changed"),
        (lambda made: made["evidence"].update(sites_compared=0), "no compared sites"),
        (lambda made: made["evidence"].update(results={}), "names no results"),
    ],
)
def test_anything_less_leads_to_the_bridge(request_: ResolvedRequest, tmp_path: Path, change: Any, reason: str) -> None:
    made = content(request_, tmp_path)
    change(made)
    made["digest"] = verdict.digest(made)
    choice = choose(request_, write(tmp_path / "verdict.json", made))
    assert choice.engine == "bridge"
    assert reason in choice.reason


def test_files_that_are_not_what_was_written(request_: ResolvedRequest, tmp_path: Path) -> None:
    made = content(request_, tmp_path)
    path = tmp_path / "verdict.json"
    assert "there is no verdict" in choose(request_, path).reason
    path.write_text(json.dumps(made)[:-40])
    assert "cannot be read" in choose(request_, path).reason
    path.write_text("[]")
    assert "not a JSON object" in choose(request_, path).reason
    write(path, {**made, "created": "2027-01-01"})
    assert "altered" in choose(request_, path).reason
    write(path, made)
    (tmp_path / "results.json").write_text("{ }")
    assert "results behind the verdict were altered" in choose(request_, path).reason
    (tmp_path / "results.json").unlink()
    assert "results behind the verdict are gone" in choose(request_, path).reason


def test_a_changed_weight_makes_the_verdict_stale(request_: ResolvedRequest, tmp_path: Path) -> None:
    path = write(tmp_path / "verdict.json", content(request_, tmp_path))
    copy = tmp_path / "copy.safetensors"
    data = bytearray(Path(request_.model).read_bytes())
    data[-3] ^= 1
    copy.write_bytes(data)
    changed = Request(**{**vars(request_), "model": str(copy)}).resolved()
    choice = choose(changed, path)
    assert choice.engine == "bridge"
    assert "the checkpoint changed" in choice.reason


def test_overrides_are_loud(request_: ResolvedRequest, tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    native = choose(request_, missing, "native")
    assert native.engine == "native"
    assert "demanded although there is no verdict" in native.reason
    assert native.warnings
    path = write(tmp_path / "verdict.json", content(request_, tmp_path))
    assert choose(request_, path, "bridge").warnings
    assert not choose(request_, path, "native").warnings
    with pytest.raises(UserError, match="engine"):
        InferenceEngine("fast")


def test_a_damaged_local_checkpoint_is_refused_whoever_would_serve(request_: ResolvedRequest, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(Path(request_.model).read_bytes()[:1000])
    damaged = Request(**{**vars(request_), "model": str(broken)}).resolved()
    for engine in (None, "native", "bridge"):
        with pytest.raises(UserError):
            choose(damaged, tmp_path / "none.json", engine)


def test_jobs_carry_the_request(request_: ResolvedRequest) -> None:
    job = job_fields(Request(**{**vars(request_), "images": (Anchor("a", 8),)}).resolved())
    assert job["prompt"] == PROMPT
    assert job["mode"] == "i2v"
    assert job["steps"] == 1
    extended = job_fields(Request("a", source_video_path="v", extend_frames=1).resolved())
    assert extended["mode"] == "extend"
    assert extended["width"] is None


def test_native_serves_and_says_so(request_: ResolvedRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "verdict.json", content(request_, tmp_path))
    status = main([*arguments(request_), "--verdict", str(path)])
    assert status == 0
    assert Path(request_.output_path).stat().st_size > 1000
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "made by native" in last
    assert "pass" in last


def arguments(request: ResolvedRequest) -> list[str]:
    """The request on the command line, the prompt as a word of its own."""
    return [
        *("generate", "--prompt", request.prompt, "--output", request.output_path, "--model", request.model),
        *("--gemma", str(request.gemma), "--width", "64", "--height", "64", "--frames", "9", "--steps", "1"),
        *("--stg-blocks", "1", "--audio-stg-blocks", "1"),
    ]


def test_prompts_that_begin_with_dashes_are_prompts() -> None:
    for words in (["--prompt", "--x y"], ["--prompt=--x y"], ["-p", "--x y"]):
        args = parser().parse_args(join_text(["generate", *words, "--negative-prompt", "-blurry"]))
        assert request_of(args).prompt == "--x y"
        assert request_of(args).negative_prompt == "-blurry"


def test_options_reach_the_request() -> None:
    words = ["--image", "a.png", "8", "0.5", "--image", "b.png", "--lora", "l", "0.3", "--lora", "m", "--reference", "v", "0.5"]
    request = request_of(parser().parse_args(["generate", "-p", "x", *words, "--stg-blocks", "1", "--stg-blocks", "2"]))
    assert request.images == (Anchor("a.png", 8, 0.5), Anchor("b.png"))
    assert [(lora.path, lora.strength) for lora in request.loras] == [("l", 0.3), ("m", 1.0)]
    assert request.reference_videos == (("v", 0.5),)
    assert request.stg_blocks == (1, 2)
    assert request_of(parser().parse_args(["generate", "-p", "x", "--image", "a.png"])).image_path == "a.png"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "10"], "num_frames"),
        (["--width", "50"], "width"),
        (["--steps", "-1"], "steps"),
        (["--seed", "-1"], "seed"),
        (["--prompt", " "], "prompt is empty"),
        (["--stg-blocks", "9"], "no such block"),
        (["--image", "a.png", "x"], "no number"),
        (["--image", "/no/file.png"], "cannot be read"),
        (["--lora", "a", "b"], "PATH [STRENGTH]"),
        (["--model", "/no/model.safetensors"], "/no/model.safetensors"),
        (["--output", "/no/folder/x.mp4"], "folder"),
        (["--output", "x.avi"], ".mp4"),
        (["--audio", "AUDIO", "--height", "64"], "sound"),
        (["--video", "AUDIO", "--start", "0", "--end", "1"], "AUDIO"),
        (["--noise", "/no/noise"], "noise file"),
    ],
)
def test_bad_input_is_one_message_status_2_and_no_file(
    request_: ResolvedRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    text = tmp_path / "AUDIO"
    text.write_text("this is neither sound nor picture")
    words = [str(text) if word == "AUDIO" else word for word in words]
    status = main([*arguments(request_), "--engine", "native", *words])
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert "Traceback" not in error
    assert error.strip().count("\n") == 0
    assert not list(tmp_path.glob("*.mp4"))
    assert not list(tmp_path.glob(".*"))


def test_the_bridge_fails_with_its_reason(request_: ResolvedRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LTX2_MLX_BIN", "LTX_REFERENCE_PYTHON"):
        monkeypatch.setenv(name, "/no/such/program")
    monkeypatch.setenv("LTX_BRIDGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BridgeFailed, match="there is no verdict"):
        InferenceEngine(verdict=tmp_path / "none.json").generate_video(request_)
    assert not Path(request_.output_path).exists()


def test_native_works_without_the_bridge_s_folder(request_: ResolvedRequest, tmp_path: Path) -> None:
    """The bridge is temporary: a copy of the native package alone serves, and says that there is no bridge."""
    shutil.copytree(ROOT / "ltx_native", tmp_path / "ltx_native", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-S", "-c", BARE, str(tmp_path), *arguments(request_)]
    packages = [path for path in sys.path if path.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *packages])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "there is no bridge" in done.stdout
    assert Path(request_.output_path).is_file()


#: Without the finders of an editable installation, which would bring the bridge back.
BARE = """
import sys
root, *argv = sys.argv[1:]
from ltx_native.cli import main
import ltx_native, importlib.util
assert ltx_native.__file__.startswith(root), ltx_native.__file__
assert importlib.util.find_spec("reference_bridge") is None
sys.exit(main(argv))
"""


def test_help_and_validation_need_no_mlx() -> None:
    code = (
        "import sys; sys.modules['mlx'] = None; sys.modules['mlx.core'] = None\n"
        "from ltx_native.cli import main\n"
        "status = main(['generate', '--prompt', 'a', '--frames', '10'])\n"
        "assert status == 2, status\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "num_frames" in done.stderr


def test_doctor_tells_what_is_in_force(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx_native.dispatch.reference_versions", dict)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert float(found["mlx"]["float32 matmul error"]) < 1e-5
    assert found["blas"]["in force"]
    assert found["verdict"]["state"]
    assert main(["doctor"]) == 0
    assert "in force" in capsys.readouterr().out
