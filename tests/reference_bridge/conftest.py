"""A stand-in CLI of each version, an environment in which it is the one on PATH, and inputs for every mode."""

from __future__ import annotations

import importlib.util
import os
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reference_bridge.engine import BridgeEngine
from reference_bridge.job import Job

STANDIN = Path(__file__).parent / "standin"
sys.path.insert(0, str(Path(__file__).parent))  # for cli_matrix


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"standin_{name}", STANDIN / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


install_module, movie_module = _load("install"), _load("movie")


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`standin("0.14.19")` is the console script of an installed stand-in of that version."""
    made: dict[tuple[Any, ...], Path] = {}

    def get(version: str, **options: Any) -> Path:
        key = (version, *sorted(options.items()))
        if key not in made:
            made[key] = install_module.install(tmp_path_factory.mktemp("cli"), version, **options)
        return made[key]

    return get


@pytest.fixture(scope="session")
def bridge_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bridge-cache")


@pytest.fixture
def environment(tmp_path: Path, bridge_cache: Path, standin: Callable[..., Path]) -> Callable[..., dict[str, str]]:
    """The variables under which the stand-in of a version is what the bridge finds; nothing of the user's own is seen."""

    def make(version: str, mode: str = "", **more: str) -> dict[str, str]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        path = f"{standin(version).parent}{os.pathsep}{os.environ['PATH']}"
        base = {
            "PATH": path,
            "HOME": str(home),
            "LTX_BRIDGE_CACHE": str(bridge_cache),
            "LTX_REFERENCE_PYTHON": "/nowhere/python",
        }
        return {**base, "STANDIN_MODE": mode, "STANDIN_PIDS": str(tmp_path / "pids"), **more}

    return make


@pytest.fixture
def engine(environment: Callable[..., dict[str, str]]) -> Callable[..., BridgeEngine]:
    return lambda version, mode="", **more: BridgeEngine(environment(version, mode, **more))


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    """An image, a second of audio and a source video."""
    image, audio, video = tmp_path / "photo.png", tmp_path / "tone.wav", tmp_path / "source.mp4"
    image.write_bytes(movie_module._png(64, 64, b"\x10\x80\xf0"))
    write_wav(audio, 1.0)
    movie_module.write_movie(video, width=64, height=64, frames=17, rate=24.0, seed=5)
    return {"image_path": str(image), "audio_path": str(audio), "source_video_path": str(video)}


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    small = {"width": 64, "height": 64, "num_frames": 9, "steps": 2, "seed": 7, "guidance": 3.0}
    return lambda **fields: Job(**{"prompt": "a cat", "output_path": str(tmp_path / "out.mp4"), **small, **fields})


@pytest.fixture(autouse=True)
def no_orphans(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, none of the stand-in's processes may outlive it."""
    yield
    left = living(tmp_path)
    for pid in left:
        os.kill(pid, 9)
    assert not left, f"processes left behind: {left}"


def write_wav(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(b"\0\0\0\0" * round(16000 * seconds))


def living(folder: Path) -> list[int]:
    """The stand-in's noted processes that are still alive (a zombie is not)."""
    noted = folder / "pids"
    alive = []
    for pid in map(int, noted.read_text().split()) if noted.exists() else ():
        try:
            os.kill(pid, 0)
            stat = Path(f"/proc/{pid}/stat")
            if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z":
                alive.append(pid)
        except OSError:
            pass
    return alive
