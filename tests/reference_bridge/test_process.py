"""However a run ends: no orphan process, no file under the final name unless it is whole, and words that help."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reference_bridge.boxes import read_movie
from reference_bridge.engine import BridgeEngine
from reference_bridge.errors import BridgeError, Cancelled, ExitError, OutputError, RunTimeout, SpawnError
from reference_bridge.job import Job

NEWEST = "0.14.19"
ROOT = Path(__file__).resolve().parents[2]
Engine = Callable[..., BridgeEngine]
MakeJob = Callable[..., Job]

# A bridge in a process of its own, to be killed: prints the error that it ended with.
BRIDGE = """
import json, os, sys
from reference_bridge.engine import BridgeEngine
from reference_bridge.errors import BridgeError
from reference_bridge.job import Job
try:
    BridgeEngine().generate_video(Job("a cat", output_path=sys.argv[1], width=64, height=64, num_frames=9))
except BridgeError as error:
    print(json.dumps([type(error).__name__, str(error)]))
    sys.exit(error.exit_status)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def pids(folder: Path) -> list[int]:
    noted = folder / "pids"
    return [int(word) for word in noted.read_text().split()] if noted.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def nothing_left(folder: Path) -> None:
    assert not (folder / "out.mp4").exists()
    assert not [entry.name for entry in folder.iterdir() if entry.name.endswith(".partial")]


@pytest.mark.parametrize("version", ["0.2.0", "0.7.1", "0.8.2", "0.13.1", NEWEST])
def test_a_crash_is_told_with_status_stderr_and_stdout(version: str, engine: Engine, job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(ExitError) as failed:
        engine(version, "crash").generate_video(job())
    assert failed.value.returncode == 1
    assert failed.value.exit_status == 1
    assert "ltx-2-mlx exited with status 1: stderr=" in str(failed.value)
    assert "[metal::malloc] Attempting to allocate" in failed.value.stderr
    assert "about to crash" in failed.value.stdout
    log = failed.value.log_path
    assert log is not None
    assert "metal::malloc" in log.read_text()
    nothing_left(tmp_path)


def test_a_signal_is_told(engine: Engine, job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(ExitError, match="was killed by signal 9"):
        engine(NEWEST, "killed").generate_video(job())
    nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("empty", "its video is unusable: the file is empty"),
        ("partial", "it is cut short"),
        ("no-moov", "it has no moov box: the writer did not finish"),
        ("nothing", "wrote no video"),
    ],
)
@pytest.mark.parametrize("version", ["0.2.0", NEWEST])
def test_a_file_that_is_no_whole_mp4_is_a_failure(
    mode: str, text: str, version: str, engine: Engine, job: MakeJob, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=text):
        engine(version, mode).generate_video(job())
    nothing_left(tmp_path)


def test_an_older_video_survives_a_failed_run(engine: Engine, job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"older")
    with pytest.raises(OutputError):
        engine(NEWEST, "partial").generate_video(job())
    assert (tmp_path / "out.mp4").read_bytes() == b"older"


def test_noise_on_both_streams_neither_blocks_nor_fills_the_memory(engine: Engine, job: MakeJob) -> None:
    seen: dict[str, int] = {"stdout": 0, "stderr": 0}
    lock = threading.Lock()

    def count(stream: str, text: str) -> None:
        with lock:
            seen[stream] += len(text)

    result = engine(NEWEST, "noise").generate_video(job(), on_output=count)
    assert seen["stdout"] > 1_000_000
    assert seen["stderr"] > 500_000
    assert result.log_path is not None
    assert result.log_path.stat().st_size > 2_000_000


@pytest.mark.parametrize("mode", ["hang", "ignore-term", "child"])
def test_a_timeout_ends_the_whole_family(mode: str, engine: Engine, job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(RunTimeout, match=r"ran past its limit of 1\.5 s.*stdout=working"):
        engine(NEWEST, mode, LTX_BRIDGE_TIMEOUT="1.5").generate_video(job())
    assert len(pids(tmp_path)) == (3 if mode == "child" else 1)
    assert not [pid for pid in pids(tmp_path) if alive(pid)]
    nothing_left(tmp_path)


def test_a_cancelled_run_ends_the_whole_family(engine: Engine, job: MakeJob, tmp_path: Path) -> None:
    cancel = threading.Event()
    threading.Timer(1.0, cancel.set).start()
    with pytest.raises(Cancelled, match="no video was written") as cancelled:
        engine(NEWEST, "child").generate_video(job(), cancel=cancel)
    assert cancelled.value.exit_status == 130
    assert not [pid for pid in pids(tmp_path) if alive(pid)]
    nothing_left(tmp_path)


def test_children_left_by_a_successful_run_are_ended_too(engine: Engine, job: MakeJob, tmp_path: Path) -> None:
    engine(NEWEST, "child-exit").generate_video(job())
    assert len(pids(tmp_path)) == 3
    assert not [pid for pid in pids(tmp_path) if alive(pid)]


@pytest.fixture
def bridge(environment: Callable[..., dict[str, str]], tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(mode: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", BRIDGE, str(tmp_path / "out.mp4")],
            env={**environment(NEWEST, mode), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        # Ready when the family is complete: the CLI, and for `child` its two children.
        wait_for(lambda: len(pids(tmp_path)) == (3 if mode == "child" else 1))
        wait_for(lambda: any((tmp_path / name / "video.mp4").exists() for name in os.listdir(tmp_path)))
        return process

    yield start
    for process in started:
        with contextlib.suppress(OSError):
            process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killing_the_bridge_leaves_nothing(
    how: signal.Signals, bridge: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = bridge("child")
    os.kill(process.pid, how)
    process.wait(20)
    wait_for(lambda: not [pid for pid in pids(tmp_path) if alive(pid)])
    wait_for(lambda: not [name for name in os.listdir(tmp_path) if name.endswith(".partial")])
    nothing_left(tmp_path)


def test_killing_the_cli_is_an_error_and_leaves_nothing(bridge: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = bridge("child")
    os.kill(pids(tmp_path)[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=20)
    kind, text = json.loads(out)
    assert (kind, process.returncode) == ("ExitError", 1)
    assert "ltx-2-mlx was killed by signal 9" in text
    assert not [pid for pid in pids(tmp_path) if alive(pid)]
    nothing_left(tmp_path)


def test_killing_the_supervisor_leaves_nothing(bridge: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = bridge("hang")
    parent = int(Path(f"/proc/{pids(tmp_path)[0]}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != process.pid
    os.kill(parent, signal.SIGKILL)
    out, _ = process.communicate(timeout=20)
    assert json.loads(out)[0] == "ExitError"
    wait_for(lambda: not [pid for pid in pids(tmp_path) if alive(pid)])
    nothing_left(tmp_path)


def test_killing_the_bridge_and_the_supervisor_at_once_ends_the_cli(
    bridge: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Nobody is left to clean up; the kernel ends the CLI because its parent died (Linux)."""
    process = bridge("hang")
    parent = int(Path(f"/proc/{pids(tmp_path)[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(parent, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not [pid for pid in pids(tmp_path) if alive(pid)])
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("mode", ["hang", "child"])
def test_ctrl_c_is_a_message_and_leaves_nothing(
    mode: str, bridge: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = bridge(mode)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    kind, text = json.loads(out)
    assert (kind, process.returncode, err) == ("Cancelled", 130, "")
    assert "its children were ended, no video was written" in text
    assert not [pid for pid in pids(tmp_path) if alive(pid)]
    nothing_left(tmp_path)


def test_a_second_ctrl_c_does_not_wait_for_a_deaf_process(bridge: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = bridge("ignore-term")
    started = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - started < 4.0  # the grace time is 5 s
    assert not [pid for pid in pids(tmp_path) if alive(pid)]


def test_two_bridges_at_once_do_not_collide(engine: Engine, job: MakeJob, tmp_path: Path) -> None:
    results: list[object] = []

    def run(seed: int, name: str) -> None:
        try:
            results.append(engine(NEWEST, "slow").generate_video(job(seed=seed, output_path=str(tmp_path / name))))
        except BridgeError as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(seed, name)) for seed, name in enumerate(["a.mp4", "b.mp4", "a.mp4"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [result for result in results if isinstance(result, BridgeError)]
    assert len({result.log_path for result in results}) == 3  # type: ignore[attr-defined]
    for name in ("a.mp4", "b.mp4"):
        assert read_movie(tmp_path / name).video.samples == 9
    nothing_left(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 1 MiB; None where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True).returncode == 0
    )
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("mode", ["enospc", "enospc-silent"])
def test_a_full_disk_is_named_and_leaves_nothing(
    mode: str, small_disk: Path | None, engine: Engine, job: MakeJob, tmp_path: Path
) -> None:
    if small_disk is not None:
        with pytest.raises((ExitError, OutputError), match=f"no space is left in {small_disk}"):
            engine(NEWEST, mode).generate_video(job(output_path=str(small_disk / "out.mp4")))
        assert os.listdir(small_disk) == []
        return
    # Without the right to mount, a limit on the file's size makes the same write fail (EFBIG for ENOSPC): the cause cannot be
    # named then, but the outcome must be the same.
    with pytest.raises((ExitError, OutputError)):
        engine(NEWEST, mode, STANDIN_FSIZE="1000000").generate_video(job())
    nothing_left(tmp_path)


def test_a_log_that_cannot_be_written_does_not_stop_the_run(
    environment: Callable[..., dict[str, str]], job: MakeJob, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = BridgeEngine({**environment(NEWEST), "LTX_BRIDGE_CACHE": str(tmp_path / "file")}).generate_video(job())
    assert result.log_path is None
    assert read_movie(tmp_path / "out.mp4").video.samples == 9


def test_a_binary_that_vanished_is_a_spawn_error_with_an_install_hint(
    environment: Callable[..., dict[str, str]], job: MakeJob, tmp_path: Path
) -> None:
    engine = BridgeEngine(environment(NEWEST))
    assert engine.is_available()
    link = tmp_path / "ltx-2-mlx"
    link.symlink_to(engine.discovery.require().binary)
    engine = BridgeEngine({**environment(NEWEST), "LTX2_MLX_BIN": str(link)})
    assert engine.is_available()
    link.unlink()
    with pytest.raises(SpawnError, match=r"failed to spawn .*No such file.*uv sync"):
        engine.generate_video(job())
    nothing_left(tmp_path)


def test_a_read_only_folder_is_refused(environment: Callable[..., dict[str, str]], job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match=r"cannot be written|no such folder"):
        BridgeEngine(environment(NEWEST)).generate_video(job(output_path="/proc/out.mp4"))
