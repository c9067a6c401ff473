"""Finding a copy that runs, asking it what it is, and reading a version that is not in the table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reference_bridge import survey as survey_module
from reference_bridge.adapters.ltx_2_mlx.interpreter import find_interpreter
from reference_bridge.engine import BridgeEngine
from reference_bridge.environment import find_cli
from reference_bridge.errors import JobError, NotInstalled, UnsupportedMode
from reference_bridge.job import Job
from reference_bridge.surface import Help, parse_help, parse_version, released

Standin = Callable[..., Path]
MakeJob = Callable[..., Job]


def env_for(folder: Path, path: str, **more: str) -> dict[str, str]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    cache = str(folder / "cache")
    return {"PATH": path, "HOME": str(home), "LTX_BRIDGE_CACHE": cache, "LTX_REFERENCE_PYTHON": "/nowhere/python", **more}


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_any_copy_the_hint_says_how_to_install(tmp_path: Path, job: MakeJob) -> None:
    engine = BridgeEngine(env_for(tmp_path, "/usr/bin:/bin"))
    assert not engine.is_available()
    assert "it is not installed" in engine.describe()
    with pytest.raises(NotInstalled, match=r"uv sync.*https://github\.com/dgrauet/ltx-2-mlx") as missing:
        engine.generate_video(job())
    assert missing.value.exit_status == 2


def test_a_copy_that_cannot_run_is_reported_and_not_chosen(tmp_path: Path, standin: Standin) -> None:
    broken = {
        "no-interpreter": "#!/nowhere/python3\nprint()\n",
        "crashes": f"#!{sys.executable}\nraise ImportError('dlopen(libmlx.dylib): no such file')\n",
        "other-program": "#!/bin/sh\necho 'usage: something else'\n",
        "no-shebang": "\x7fELF not really",
    }
    folders = [script(tmp_path / name / "ltx-2-mlx", text).parent for name, text in broken.items()]
    folders.append(script(tmp_path / "not-executable" / "ltx-2-mlx", "#!/bin/sh\n", 0o644).parent)
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/ltx-2-mlx").symlink_to("/nowhere/ltx-2-mlx")
    folders += [tmp_path / "dangling", standin("0.14.19").parent]
    engine = BridgeEngine(env_for(tmp_path, os.pathsep.join(map(str, folders))))
    assert engine.is_available()
    assert engine.discovery.require().binary == standin("0.14.19")
    reasons = {path.parent.name: reason for path, reason in engine.discovery.rejected}
    assert list(reasons) == [*broken, "not-executable", "dangling"]
    assert "cannot be started: No such file" in reasons["no-interpreter"]
    assert "ImportError: dlopen(libmlx.dylib): no such file" in reasons["crashes"]
    assert "not the expected program" in reasons["other-program"]
    assert "Exec format error" in reasons["no-shebang"]
    assert reasons["not-executable"] == "it is not executable"
    assert reasons["dangling"] == "a link to a file that is gone"
    assert "not used:" in engine.describe()
    alone = BridgeEngine(env_for(tmp_path, str(folders[1])))
    assert not alone.is_available()
    with pytest.raises(NotInstalled, match=r"no copy of it that runs\n  not used: .*crashes/ltx-2-mlx.*dlopen"):
        alone.discovery.require()


def test_the_variable_is_an_order(tmp_path: Path, standin: Standin) -> None:
    path = str(standin("0.2.0").parent)
    named = BridgeEngine(env_for(tmp_path, path, LTX2_MLX_BIN=str(standin("0.14.19"))))
    assert named.discovery.require().version == "0.14.19"
    wrong = BridgeEngine(env_for(tmp_path, path, LTX2_MLX_BIN=str(tmp_path / "typo")))
    assert not wrong.is_available()
    assert "typo: no such file" in wrong.describe()


@pytest.mark.parametrize(
    "place", ["home/ltx-2-mlx/.venv/bin", "home/.local/bin", "home/.local/share/uv/tools/ltx-2-mlx/bin", "v/bin"]
)
def test_a_clone_a_uv_tool_and_an_active_environment_are_found(place: str, tmp_path: Path, standin: Standin) -> None:
    env = env_for(tmp_path, "/usr/bin:/bin", VIRTUAL_ENV=str(tmp_path / "v"))
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "ltx-2-mlx").symlink_to(standin("0.8.2"))
    found = find_cli(env).require()
    assert found.binary == tmp_path / place / "ltx-2-mlx"
    assert found.version == "0.8.2"


def test_the_survey_is_kept_until_a_file_of_the_copy_changes(
    tmp_path: Path, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(standin("0.13.1").parents[1], copy, symlinks=True)
    binary = script(copy / "bin/ltx-2-mlx", standin("0.13.1").read_text().replace(str(standin("0.13.1").parents[1]), str(copy)))
    env = env_for(tmp_path, str(binary.parent))
    asked: list[list[str]] = []
    real = survey_module._run
    monkeypatch.setattr(survey_module, "_run", lambda argv, env: (asked.append(argv), real(argv, env))[1])
    cache = tmp_path / "cache"
    first = survey_module.survey(binary, env, cache)
    assert first.version == "0.13.1"
    assert first.version_source == "package metadata"
    assert len(asked) == 7  # --help, --version, the metadata, four subcommands
    assert survey_module.survey(binary, env, cache) == first
    assert len(asked) == 7
    info = next(copy.glob("lib/*/site-packages/*.dist-info"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ltx-pipelines-mlx\nVersion: 0.14.19\n")
    assert survey_module.survey(binary, env, cache).version == "0.14.19"
    assert len(asked) == 14
    source = next(copy.glob("lib/*/site-packages/ltx_pipelines_mlx/cli.py"))  # a `git pull` in an editable clone
    source.write_text(source.read_text() + "\n# changed\n")
    survey_module.survey(binary, env, cache)
    assert len(asked) == 21
    next(cache.iterdir()).write_text("{ not json")
    assert survey_module.survey(binary, env, cache).version == "0.14.19"


def test_a_newer_version_is_used_when_its_help_fits(
    standin: Standin, tmp_path: Path, job: MakeJob, inputs: dict[str, str]
) -> None:
    binary = standin("0.15.2")
    engine = BridgeEngine(env_for(tmp_path, str(binary.parent)))
    result = engine.generate_video(job())
    assert any("0.15.2 is not in the table of known versions" in warning for warning in result.warnings)
    retake = job(source_video_path=inputs["source_video_path"], retake_start=0.0, retake_end=0.04)
    with pytest.raises(UnsupportedMode, match="its source does not show that the crash"):
        engine.generate_video(retake)
    repaired = standin("0.15.3", repaired=True)
    engine = BridgeEngine(env_for(tmp_path, str(repaired.parent), STANDIN_REPAIRED="1"))
    assert engine.generate_video(retake).media_type == "video/mp4"


def test_a_newer_version_that_does_not_fit_is_refused_with_the_difference(
    standin: Standin, tmp_path: Path, job: MakeJob
) -> None:
    # As 0.16 might be: --frames is called otherwise, and a new option is compulsory.
    extra = "    _real = argparse.ArgumentParser.add_argument\n"
    extra += "    def add(self, *names, **kw):\n"
    extra += "        names = tuple('--num-frames' if n == '--frames' else n for n in names if n != '-f')\n"
    extra += "        if names[0] == '--num-frames': _real(self, '--licence', required=True)\n"
    extra += "        return _real(self, *names, **kw)\n    argparse.ArgumentParser.add_argument = add\n"
    binary = standin("0.16.0", extra=extra)
    engine = BridgeEngine(env_for(tmp_path, str(binary.parent)))
    with pytest.raises(
        UnsupportedMode, match=r"0\.16\.0 does not fit: `generate`: it does not know --frames and it wants --licence"
    ):
        engine.generate_video(job())


@pytest.mark.parametrize(
    ("version", "flags"), [("0.2.0", set()), ("0.8.2", {"--one-stage"}), ("0.14.19", {"--one-stage", "--frame-rate=24.0"})]
)
def test_a_copy_without_metadata_is_read_from_its_help(
    version: str, flags: set[str], standin: Standin, tmp_path: Path, job: MakeJob
) -> None:
    # Started by a wrapper, so that the interpreter cannot be read from the script either.
    launcher = script(tmp_path / "wrapper/ltx-2-mlx", f'#!/bin/bash\nexec "{standin(version, metadata=False)}" "$@"\n')
    engine = BridgeEngine(env_for(tmp_path, f"{launcher.parent}:/usr/bin:/bin"))
    found = engine.discovery.require()
    assert (found.version, found.interpreter, found.version_source) == (None, None, "unknown")
    assert {word for word in engine.plan(job(), Path("/o/o.mp4")).argv if word.startswith(("--one", "--frame-"))} == flags
    assert engine.generate_video(job()).media_type == "video/mp4"


@pytest.mark.parametrize(
    ("version", "flag"), [("0.2.0", None), ("0.7.1", "--one-stage"), ("0.8.2", "--one-stage"), ("0.14.19", "--one-stage")]
)
def test_an_unknown_version_is_inferred_as_the_table_has_it(
    version: str, flag: str | None, standin: Standin, tmp_path: Path
) -> None:
    found = survey_module.survey(standin(version), env_for(tmp_path, "/usr/bin"), None)
    known = found.surface()
    guessed = survey_module.surface(None, found.helps, found.saves_with_frame_rate)
    assert not guessed.known
    assert guessed.generate_rate_flag == known.generate_rate_flag
    assert guessed.a2v_rate_flag == known.a2v_rate_flag
    for pipeline, expected in guessed.pipelines.items():
        assert known.pipelines[pipeline] == expected
    assert guessed.pipelines.get("one-stage") == flag
    assert set(guessed.broken) == set(known.broken)


def test_the_table_agrees_with_the_recorded_changes() -> None:
    """references: the argument parsers of all 47 tags. One row where something the bridge uses changed."""
    rate, edits = "--frame-rate", {"retake", "extend"}
    rows: dict[str, tuple[object, ...]] = {
        "0.2.0": ("--hq", None, None, None, "--fps", 0.0, set()),
        "0.5.0": ("--hq", None, None, None, "--fps", 0.0, set()),
        "0.6.0": ("--hq", "--distilled", None, None, "--fps", 0.0, set()),
        "0.7.0": ("--hq", "--distilled", "--dev", None, "--fps", 0.0, set()),
        "0.7.1": ("--hq", "--distilled", "--one-stage", None, "--fps", 0.0, set()),
        "0.8.1": ("--hq", "--distilled", "--one-stage", None, "--fps", 0.0, set()),
        "0.8.2": ("--two-stages-hq", "--distilled", "--one-stage", None, "--fps", 0.0, set()),
        "0.11.1": ("--two-stages-hq", "--distilled", "--one-stage", None, "--fps", 1.0, set()),
        "0.13.1": ("--two-stages-hq", "--distilled", "--one-stage", None, "--fps", 1.0, set()),
        "0.14.0": ("--two-stages-hq", "--distilled", "--one-stage", rate, rate, 1.0, {"generate"} | edits),
        "0.14.1": ("--two-stages-hq", "--distilled", "--one-stage", rate, rate, 1.0, edits),
        "0.14.19": ("--two-stages-hq", "--distilled", "--one-stage", rate, rate, 1.0, edits),
    }  # fmt: skip
    for text, row in rows.items():
        version = parse_version(text)
        assert version is not None
        s = released(version, text)
        flags = s.pipelines
        found = (flags["two-stages-hq"], flags.get("distilled"), flags.get("one-stage"), s.generate_rate_flag, s.a2v_rate_flag)
        assert (*found, s.default_stg_scale, set(s.broken)) == row
        assert s.flagless is (version < (0, 8, 0))


def test_help_is_read_with_its_required_options() -> None:
    text = """usage: ltx-2-mlx generate [-h] --prompt PROMPT --output OUTPUT [--image ARG [ARG ...]]
                          [--direction {before,after}] --frame-rate FRAME_RATE [--lora PATH STRENGTH]

options:
  -h, --help            show this help message and exit
  --prompt PROMPT, -p PROMPT
                        Text prompt, not to be confused with --negative
  --low-ram             as --two-stage does
"""
    found = parse_help(text)
    assert found.required == {"--prompt", "--output", "--frame-rate"}
    assert {"--image", "--direction", "--lora", "--low-ram", "-p", "--prompt"} <= found.options
    assert not {"--negative", "--two-stage"} & found.options
    with pytest.raises(ValueError, match="no usage line"):
        parse_help("Traceback (most recent call last):")
    assert isinstance(found, Help)


def test_the_interpreter_of_every_form_of_script(tmp_path: Path) -> None:
    python = Path(sys.executable)
    spaced = tmp_path / "a folder with spaces"
    spaced.mkdir()
    (spaced / "python3").symlink_to(python)
    pip = f"#!/bin/sh\n'''exec' \"{spaced}/python3\" \"$0\" \"$@\"\n' '''\nimport sys; print(sys.executable, sys.argv[1:])\n"
    uv = (
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python3' \"$0\" \"$@\"\n' '''\n"
        "import sys; print(sys.executable, sys.argv[1:])\n"
    )
    forms = {
        "plain": f"#!{python}\nimport sys; print(sys.executable, sys.argv[1:])\n",
        "env": "#!/usr/bin/env python3\nimport sys; print(sys.executable, sys.argv[1:])\n",
        "pip-long": pip,
        "uv-relocatable": uv,
    }
    env = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    for name, text in forms.items():
        made = script((spaced if name == "uv-relocatable" else tmp_path) / name, text)
        found = find_interpreter(made, env["PATH"])
        assert found is not None, name
        ran = subprocess.run([made, "--x"], env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        by_hand = subprocess.run([found, made, "--x"], env=env, capture_output=True, text=True)
        assert by_hand.stdout == ran.stdout, name
    linked = tmp_path / "bin/ltx-2-mlx"
    linked.parent.mkdir()
    linked.symlink_to(spaced / "uv-relocatable")
    assert find_interpreter(linked) == spaced / "python3"
    assert find_interpreter(script(spaced / "wrapper", "#!/bin/sh\nexec something\n")) == spaced / "python3"
    assert find_interpreter(script(tmp_path / "lonely", "#!/bin/bash\nexec something\n")) is None
    assert find_interpreter(tmp_path / "absent") is None


def test_the_official_code_is_the_bridge_when_asked_or_alone(tmp_path: Path, standin: Standin, job: MakeJob) -> None:
    python = script(tmp_path / "reference/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    path = f"{standin('0.14.19').parent}:/usr/bin:/bin"
    both = env_for(tmp_path, path, LTX_REFERENCE_PYTHON=str(python))
    assert BridgeEngine(both).backend == "external-ltx-2-mlx"
    assert BridgeEngine({**both, "LTX_BRIDGE": "official"}).backend == "official"
    alone = BridgeEngine({**both, "PATH": "/usr/bin:/bin"})
    assert alone.backend == "official"
    assert alone.describe() == f"official PyTorch code, run by {python}"
    assert not BridgeEngine({**both, "PATH": "/usr/bin:/bin", "LTX_BRIDGE": "external"}).is_available()
    with pytest.raises(NotInstalled, match="make reference"):
        _ = BridgeEngine({**both, "LTX_BRIDGE": "official", "LTX_REFERENCE_PYTHON": "/nowhere"}).backend
    with pytest.raises(JobError, match="unknown bridge"):
        _ = BridgeEngine({**both, "LTX_BRIDGE": "both"}).backend
    with pytest.raises(UnsupportedMode, match="mode `t2v` is not supported by backend `official`: gemma is not given"):
        alone.plan(job(model="m.safetensors"), Path("o.mp4"))
    plan = alone.plan(job(model="m.safetensors", gemma="g", prompt="--x", stg_blocks=(1, 2)), Path("/o/o.mp4"))
    assert plan.argv[:4] == (str(python), "-m", "reference_bridge.adapters.official", "generate")
    assert "--prompt=--x" in plan.argv
    assert plan.argv[-3:] == ("--stg-blocks", "1", "2")
