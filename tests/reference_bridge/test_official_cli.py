"""The official adapter's command line: what it accepts, and how it refuses, without PyTorch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reference_bridge.adapters.official import arguments, install
from reference_bridge.adapters.official.checks import BadInput
from reference_bridge.probe_trace import write_safetensors

ROOT = Path(__file__).resolve().parents[2]


def weights(path: Path, config: object | None) -> Path:
    """A safetensors file with one tensor, and a config in the metadata where one is given."""
    with path.open("wb") as file:
        write_safetensors(file, {"x": ("float32", [2], bytes(8))})
    if config is not None:
        body = path.read_bytes()
        length = int.from_bytes(body[:8], "little")
        header = {"__metadata__": {"config": json.dumps(config)}, **json.loads(body[8 : 8 + length])}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + body[8 + length :])
    return path


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    """Flags of a command that passes every check."""
    weights(tmp_path / "model.safetensors", {"transformer": {"num_layers": 2}})
    weights(tmp_path / "upsampler.safetensors", None)
    weights(tmp_path / "lora.safetensors", None)
    (tmp_path / "gemma").mkdir()
    weights(tmp_path / "gemma" / "model.safetensors", None)
    (tmp_path / "gemma" / "config.json").write_text("{}")
    (tmp_path / "gemma" / "tokenizer.json").write_text("{}")
    for name in ("image.png", "sound.wav", "source.mp4"):
        (tmp_path / name).touch()
    return {
        "--prompt": "a fox",
        "--output": str(tmp_path / "out.mp4"),
        "--model": str(tmp_path / "model.safetensors"),
        "--gemma": str(tmp_path / "gemma"),
        "--height": "64",
        "--width": "64",
        "--frames": "9",
        "--steps": "2",
    }


def command(flags: dict[str, str], *more: str) -> list[str]:
    return ["generate", *(f"{flag}={value}" for flag, value in flags.items()), *more]


def check(flags: dict[str, str], *more: str) -> None:
    arguments.check_generate(arguments.parser().parse_args(command(flags, *more)))


def test_a_good_command_passes(good: dict[str, str]) -> None:
    check(good)


@pytest.mark.parametrize("prompt", ["--x", "-1", "--steps", "-"])
def test_a_prompt_may_begin_with_dashes(good: dict[str, str], prompt: str) -> None:
    args = arguments.parser().parse_args(command({**good, "--prompt": prompt}))
    arguments.check_generate(args)
    assert args.prompt == prompt


def test_blocks_and_sites_can_be_repeated_or_listed(good: dict[str, str]) -> None:
    more = ["--stg-blocks=0", "--stg-blocks=1", "--audio-stg-blocks", "0", "1", "--sites=a.*", "--sites", "b", "c"]
    args = arguments.parser().parse_args(command(good, *more))
    assert (args.stg_blocks, args.audio_stg_blocks, args.sites) == ([0, 1], [0, 1], ["a.*", "b", "c"])


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--prompt", "  ", r"empty prompt.*--prompt"),
        ("--frames", "10", r"frame count.*--frames.*10.*8k\+1.*Use 9"),
        ("--frames", "0", r"frame count.*--frames"),
        ("--height", "48", r"--height.*48.*multiple of 32"),
        ("--width", "-64", r"--width.*-64.*multiple of 32"),
        ("--steps", "-2", r"--steps.*-2.*at least 1"),
        ("--frame-rate", "nan", r"--frame-rate.*nan"),
        ("--seed", "-1", r"seed.*--seed.*-1"),
        ("--seed", str(2**63), r"seed.*--seed"),
        ("--steps", "two", r"bad arguments.*two"),
        ("--mode", "three-stage", r"bad arguments.*three-stage"),
        ("--stg-blocks", "-3", r"--stg-blocks.*-3"),
        ("--output", "out.avi", r"--output.*out\.avi.*\.mp4"),
        ("--output", "nowhere/out.mp4", r"no such folder.*--output.*nowhere"),
        ("--model", "missing.safetensors", r"no such file.*--model.*missing"),
        ("--gemma", "missing", r"no such folder.*--gemma.*missing"),
        ("--noise", "missing.safetensors", r"no such file.*--noise"),
        ("--threads", "0", r"--threads.*0"),
        ("--heigth", "64", r"bad arguments.*heigth"),
    ],
)
def test_bad_input_is_refused_in_words(good: dict[str, str], flag: str, value: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        check({**good, flag: value})
    assert re.search(said, str(refused.value))


def test_a_truncated_checkpoint_is_refused(good: dict[str, str]) -> None:
    path = Path(good["--model"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="wrong length"):
        check(good)
    path.write_bytes(b"\0" * 5)
    with pytest.raises(BadInput, match="unreadable safetensors header"):
        check(good)


def test_a_checkpoint_without_config_and_a_half_gemma_folder_are_refused(good: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="without a configuration"):
        check({**good, "--model": str(tmp_path / "lora.safetensors")})
    (tmp_path / "gemma" / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="incomplete Gemma folder"):
        check(good)


def test_an_existing_trace_is_not_overwritten(good: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir()
    with pytest.raises(BadInput, match="the trace exists"):
        check({**good, "--trace": str(tmp_path / "trace")})


MODE_FLAGS = {
    "one-stage": [],
    "distilled": ["--upsampler=U"],
    "two-stage": ["--upsampler=U", "--distilled-lora=L"],
    "two-stage-hq": ["--upsampler=U", "--distilled-lora=L"],
    "a2v": ["--upsampler=U", "--distilled-lora=L", "--audio=A"],
    "keyframe": ["--upsampler=U", "--distilled-lora=L", "--image I 0 1.0"],
    "ic-lora": ["--upsampler=U", "--video=V"],
    "retake": ["--video=V", "--start=0.2", "--end=0.6"],
}


def mode_flags(mode: str, folder: Path) -> list[list[str]]:
    """The flags a mode needs, each as a list of words, files filled in."""
    files = {"U": "upsampler.safetensors", "L": "lora.safetensors", "A": "sound.wav", "V": "source.mp4", "I": "image.png"}
    return [
        re.sub(r"(?<=[= ])([ULAVI])\b", lambda found: str(folder / files[found[1]]), flag).split() for flag in MODE_FLAGS[mode]
    ]


@pytest.mark.parametrize("mode", arguments.MODES)
def test_every_mode_passes_with_its_flags_and_names_a_missing_one(good: dict[str, str], tmp_path: Path, mode: str) -> None:
    flags = mode_flags(mode, tmp_path)
    check({**good, "--mode": mode}, *(word for flag in flags for word in flag))
    for missing in flags:
        name = missing[0].split("=")[0]
        with pytest.raises(BadInput, match=rf"missing flag.*{name}"):
            check({**good, "--mode": mode}, *(word for flag in flags if flag != missing for word in flag))


def test_a_flag_of_another_mode_and_bad_values_are_refused(good: dict[str, str], tmp_path: Path) -> None:
    image = str(tmp_path / "image.png")
    with pytest.raises(BadInput, match="flag without use"):
        check(good, f"--audio={tmp_path / 'sound.wav'}")
    with pytest.raises(BadInput, match="frame outside the clip"):
        check(good, "--image", image, "9", "1.0")
    with pytest.raises(BadInput, match="bad image"):
        check(good, "--image", image, "first", "1.0")
    with pytest.raises(BadInput, match="multiple of 64"):
        check({**good, "--height": "32"}, "--mode=distilled", f"--upsampler={tmp_path / 'upsampler.safetensors'}")
    with pytest.raises(BadInput, match="empty region"):
        check(good, "--mode=retake", f"--video={tmp_path / 'source.mp4'}", "--start=1", "--end=1")


@pytest.mark.parametrize("flag", ["--frames=10", "--nonsense", "--model=missing.safetensors"])
def test_the_process_says_one_line_and_exits_with_2(good: dict[str, str], tmp_path: Path, flag: str) -> None:
    before = sorted(tmp_path.iterdir())
    words = [sys.executable, "-m", "reference_bridge.adapters.official", *command(good, flag)]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_requirements_are_exact() -> None:
    lines = [line for line in install.REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+==[0-9.]+", line) for line in lines)
    assert {"torch", "ltx-core", "ltx-pipelines", "torchaudio", "transformers"} <= {line.split("==")[0] for line in lines}


def test_a_finished_environment_is_left_alone_and_any_other_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    venv = tmp_path / "venv"
    install.python_of(venv).parent.mkdir(parents=True)
    install.python_of(venv).touch()
    assert not install.is_finished(venv)
    (venv / install.STAMP).write_text(json.dumps(install.wanted_stamp()))
    assert install.is_finished(venv)
    assert install.main(["--venv", str(venv)]) == 0
    assert "ready" in capsys.readouterr().out
    (venv / install.STAMP).write_text(json.dumps({**install.wanted_stamp(), "requirements": "other"}))
    assert not install.is_finished(venv)
    (venv / install.STAMP).write_text("{")
    assert not install.is_finished(venv)


def test_torchaudio_loses_its_compiled_extension_and_nothing_else(tmp_path: Path) -> None:
    lib = tmp_path / "lib" / "python3.11" / "site-packages" / "torchaudio" / "lib"
    lib.mkdir(parents=True)
    for name in ("_torchaudio.abi3.so", "libtorchaudio.abi3.so"):
        (lib / name).touch()
    assert install.remove_torchaudio_extension(tmp_path) == ["_torchaudio.abi3.so"]
    assert [path.name for path in lib.iterdir()] == ["libtorchaudio.abi3.so"]


def test_a_failing_step_is_reported_with_the_command_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main(["--venv", str(tmp_path / "venv"), "--python", "/nonexistent/python"]) == 1
    assert "Run the same command again" in capsys.readouterr().err
