"""Behaves as `ltx-2-mlx` of the version in its package metadata: arguments, exit statuses, crashes. No model, no MLX.

STANDIN_MODE makes it misbehave: hang, ignore-term, crash, killed, partial, empty, nothing, no-moov, noise, child, child-exit,
enospc, enospc-silent, slow, cannot-run. STANDIN_PIDS is a file that gets the process ids it lives under. With STANDIN_OFFICIAL
(a Python that has the official code), STANDIN_MODEL, STANDIN_GEMMA and STANDIN_UPSAMPLER the video comes from the real official
pipeline on those weights; STANDIN_KEPT is a folder where the video of each official command is kept.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import wave
from pathlib import Path

from ltx_pipelines_mlx.movie import write_movie

DEFAULT_MODEL = "dgrauet/ltx-2.3-mlx-q8"


def version() -> tuple[int, ...]:
    try:
        text = importlib.metadata.version("ltx-pipelines-mlx")
    except importlib.metadata.PackageNotFoundError:
        text = (Path(__file__).parent / "VERSION").read_text()
    return tuple(int(part) for part in text.split(".")[:3])


class Image(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        values = values if isinstance(values, list) else [values]
        if len(values) not in (1, 3, 4):
            parser.error(f"{option_string}: 1, 3 or 4 values are wanted, got {values}")
        frame, strength = (int(values[1]), float(values[2])) if len(values) > 1 else (0, 1.0)
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), (values[0], frame, strength)])


def _base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", "-p", required=True)
    parser.add_argument("--output", "-o", required=True)
    parser.add_argument("--model", "-m", default=DEFAULT_MODEL)
    parser.add_argument("--gemma", default="mlx-community/gemma-3-12b-it-4bit")
    parser.add_argument("--seed", "-s", type=int, default=-1)
    parser.add_argument("--quiet", "-q", action="store_true")


def _size(parser: argparse.ArgumentParser, v: tuple[int, ...]) -> None:
    _base(parser)
    parser.add_argument("--height", "-H", type=int, default=480)
    parser.add_argument("--width", "-W", type=int, default=704)
    parser.add_argument("--frames", "-f", type=int, default=97)
    if v >= (0, 14, 0):
        parser.add_argument("--frame-rate", type=float, required=True)
    if v >= (0, 3, 0):
        parser.add_argument("--low-ram", action="store_true", help="stream the blocks, e.g. with --two-stage on 16 GB")
    if v >= (0, 4, 0):
        for name, default in (("--tile-frames", 1), ("--tile-spatial", 1), ("--tile-overlap", 2)):
            parser.add_argument(name, type=int, default=default)


def _guidance(parser: argparse.ArgumentParser, *steps: str) -> None:
    for name in steps:
        parser.add_argument(name, type=int, default=None)
    parser.add_argument("--cfg-scale", type=float, default=None)
    parser.add_argument("--stg-scale", type=float, default=None)


def _image(parser: argparse.ArgumentParser, v: tuple[int, ...]) -> None:
    many = {"nargs": "+", "metavar": "ARG"} if v >= (0, 11, 1) else {}
    parser.add_argument("--image", "-i", action=Image, dest="images", default=None, **many)  # type: ignore[arg-type]


def build_parser(v: tuple[int, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ltx-2-mlx", description="LTX-2.3 video generation on Apple Silicon (MLX)")
    sub = parser.add_subparsers(dest="command")
    generate = sub.add_parser("generate")
    _size(generate, v)
    _image(generate, v)
    _guidance(generate, "--steps", "--stage1-steps", "--stage2-steps")
    generate.add_argument("--two-stage", action="store_true")
    generate.add_argument("--two-stages-hq" if v >= (0, 8, 2) else "--hq", action="store_true", dest="hq")
    if v >= (0, 6, 0):
        generate.add_argument("--distilled", action="store_true")
    if v >= (0, 7, 0):
        generate.add_argument("--one-stage" if v >= (0, 7, 1) else "--dev", action="store_true", dest="one_stage")
    generate.add_argument("--dev-transformer", default="transformer-dev.safetensors")
    generate.add_argument("--lora", action="append", nargs=2, metavar=("PATH", "STRENGTH"))
    a2v = sub.add_parser("a2v")
    _size(a2v, v)
    a2v.add_argument("--audio", "-a", required=True)
    if v < (0, 14, 0):
        a2v.add_argument("--fps", type=float, default=24.0)
    a2v.add_argument("--audio-start", type=float, default=0.0)
    _guidance(a2v, "--stage1-steps", "--stage2-steps")
    _image(a2v, v)
    if v < (0, 8, 1):
        a2v.add_argument("--hq", action="store_true")
    retake = sub.add_parser("retake")
    _base(retake)
    retake.add_argument("--video", "-v", required=True)
    retake.add_argument("--start", type=int, required=True)
    retake.add_argument("--end", type=int, required=True)
    _guidance(retake, "--steps")
    retake.add_argument("--no-regen-audio", action="store_true")
    extend = sub.add_parser("extend")
    _base(extend)
    extend.add_argument("--video", "-v", required=True)
    extend.add_argument("--extend-frames", type=int, required=True)
    extend.add_argument("--direction", choices=["before", "after"], default="after")
    _guidance(extend, "--steps")
    return parser


def main() -> None:
    v = version()
    mode = os.environ.get("STANDIN_MODE", "")
    if mode == "cannot-run":
        raise ImportError("dlopen(libmlx.dylib): no such file")
    parser = build_parser(v)
    args = parser.parse_args()
    if args.command is None:
        parser.print_help()
        sys.exit(1)
    if args.seed < 0:
        args.seed = random.randint(0, 2**31 - 1)
    _note_pid()
    if args.command == "generate":
        _check_pipeline(args, v)
    for path, *_ in getattr(args, "images", None) or []:
        open(path, "rb").close()
    _misbehave(mode, Path(args.output))
    print(f"Mode: {args.command}", flush=True)
    print("\r 50%|#####     | 15/30 [00:10<00:10]", end="", file=sys.stderr, flush=True)
    if args.command == "a2v":
        _check_audio(args, v)
    if args.command in ("retake", "extend") and v >= (0, 14, 0) and os.environ.get("STANDIN_REPAIRED") != "1":
        raise TypeError("BasePipeline._decode_and_save_video() missing 1 required keyword-only argument: 'frame_rate'")
    if args.command == "generate" and v == (0, 14, 0):
        raise TypeError("VideoDecoder.decode_and_stream() got an unexpected keyword argument 'frame_rate'")
    _make(args)
    if mode == "child-exit":
        _spawn_child()
    print(f"\nSaved to: {args.output}\nTime: 0.1s")


def _check_pipeline(args: argparse.Namespace, v: tuple[int, ...]) -> None:
    chosen = [getattr(args, name, False) for name in ("hq", "two_stage", "distilled", "one_stage")]
    if sum(chosen) > 1 and v >= (0, 6, 0):
        raise SystemExit("Choose at most one of the pipeline flags.")
    if not any(chosen) and v >= (0, 8, 0):
        raise SystemExit("generate requires one of --one-stage, --two-stage, --two-stages-hq, --distilled.")


def _check_audio(args: argparse.Namespace, v: tuple[int, ...]) -> None:
    with wave.open(args.audio, "rb") as file:
        seconds = file.getnframes() / file.getframerate()
    rate = args.frame_rate if v >= (0, 14, 0) else args.fps
    need, have = round(args.frames / rate * 25), round(seconds * 25)
    if have < need:
        raise ValueError(f"[broadcast_shapes] Shapes (1,4,{have},8) and (1,4,{need},8) cannot be broadcast.")


def _misbehave(mode: str, output: Path) -> None:
    if mode == "noise":
        sys.stdout.buffer.write(b"\xff\xfe\0noise\n" * 200_000)
        sys.stderr.buffer.write("ühé ".encode("latin-1") * 200_000)
    elif mode in ("hang", "ignore-term", "child"):
        if mode == "ignore-term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if mode == "child":
            _spawn_child()
        output.write_bytes(b"\0\0\0\x18ftypisom")
        print("working", flush=True)
        time.sleep(600)
    elif mode == "crash":
        print("about to crash", flush=True)
        raise RuntimeError("[metal::malloc] Attempting to allocate 1099511627776 bytes")
    elif mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "empty":
        output.touch()
        sys.exit(0)
    elif mode == "nothing":
        sys.exit(0)
    elif mode in ("partial", "no-moov"):
        write_movie(output, width=64, height=64, frames=9, rate=24.0, seed=1)
        data = output.read_bytes()
        # `partial` stops within the moov box, `no-moov` after the media: a writer that died early, and one that never finished.
        end = len(data) - 200 if mode == "partial" else data.index(b"moov") - 4
        output.write_bytes(data[:end])
        sys.exit(0)
    elif mode in ("enospc", "enospc-silent"):
        if os.environ.get("STANDIN_FSIZE"):  # where no small disk can be mounted: the write fails alike, with EFBIG
            limit = int(os.environ["STANDIN_FSIZE"])
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            with output.open("wb") as file:
                file.write(b"\0\0\0\x14ftypisom\0\0\2\0isom")
                while True:
                    file.write(struct.pack(">I4s", 1 << 20, b"mdat") + b"\0" * ((1 << 20) - 8))
                    file.flush()
        except OSError:
            if mode == "enospc":
                raise
            sys.exit(0)
    elif mode == "slow":
        time.sleep(1.0)


def _spawn_child() -> None:
    """Two children as an encoder would be: one in our group, one that left for a session of its own; neither wants to go."""
    code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    for own_session in (False, True):
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=own_session)
        _note_pid(child.pid)


def _note_pid(pid: int | None = None) -> None:
    if os.environ.get("STANDIN_PIDS"):
        with open(os.environ["STANDIN_PIDS"], "a") as file:
            file.write(f"{pid or os.getpid()}\n")


def _make(args: argparse.Namespace) -> None:
    two_stage = args.command == "a2v" or any(getattr(args, name, False) for name in ("two_stage", "hq", "distilled"))
    rate = getattr(args, "frame_rate", None) or getattr(args, "fps", None) or 24.0
    width, height, frames = getattr(args, "width", 64), getattr(args, "height", 64), getattr(args, "frames", 9)
    if two_stage:
        width, height = max(64, width // 64 * 64), max(64, height // 64 * 64)
    if args.command == "extend":
        frames = 9 + 8 * args.extend_frames
    if os.environ.get("STANDIN_OFFICIAL") and args.command in ("generate", "a2v", "retake"):
        _official(args, width, height, frames, rate)
    else:
        write_movie(Path(args.output), width=width, height=height, frames=frames, rate=rate, seed=args.seed)


def _official(args: argparse.Namespace, width: int, height: int, frames: int, rate: float) -> None:
    env = os.environ
    mode = "one-stage"
    if args.command == "generate":
        names = {"hq": "two-stage-hq", "two_stage": "two-stage", "distilled": "distilled"}
        mode = next((name for flag, name in names.items() if getattr(args, flag, False)), mode)
    mode = {"a2v": "a2v", "retake": "retake"}.get(args.command, mode)
    argv = [env["STANDIN_OFFICIAL"], "-m", "reference_bridge.adapters.official", "generate", f"--prompt={args.prompt}"]
    argv += [f"--output={args.output}", f"--model={env['STANDIN_MODEL']}", f"--gemma={env['STANDIN_GEMMA']}", f"--mode={mode}"]
    argv += [f"--seed={args.seed}", "--stg-blocks", "1", "--audio-stg-blocks", "1"]
    steps = getattr(args, "stage1_steps", None) or getattr(args, "steps", None)
    if steps and mode != "distilled":
        argv.append(f"--steps={steps}")
    if mode != "retake":
        argv += [f"--width={width}", f"--height={height}", f"--frames={frames}", f"--frame-rate={rate}"]
    else:
        argv += ["--video", args.video, f"--start={max(0, args.start * 8 - 7) / 24}", f"--end={(args.end * 8 - 7) / 24}"]
    if mode == "a2v":
        argv.append(f"--audio={args.audio}")
    if mode in ("two-stage", "two-stage-hq", "distilled", "a2v"):
        argv.append(f"--upsampler={env['STANDIN_UPSAMPLER']}")
    if mode in ("two-stage", "two-stage-hq", "a2v") and env.get("STANDIN_DISTILLED_LORA"):
        argv += ["--distilled-lora", env["STANDIN_DISTILLED_LORA"], "1.0"]
    for path, frame, strength in getattr(args, "images", None) or []:
        argv += ["--image", path, str(frame), str(strength)]
    for name in ("cfg_scale", "stg_scale"):
        if getattr(args, name, None) is not None and mode != "distilled":
            argv.append(f"--{name.replace('_', '-')}={getattr(args, name)}")
    kept = env.get("STANDIN_KEPT")
    if kept:
        _once(argv, args.output, Path(kept))
    else:
        subprocess.run(argv, check=True)


def _once(argv: list[str], output: str, folder: Path) -> None:
    """The video of this command, made the first time it is asked for; files count by their content."""
    words = [word for word in argv if not word.startswith("--output=")]
    paths = [Path(word.partition("=")[2] if word.startswith("--") else word) for word in words[1:]]
    content = [path.read_bytes() if path.is_file() and path.stat().st_size < 1 << 20 else b"" for path in paths]
    named = [data or word.encode() for word, data in zip(words[1:], content, strict=True)]
    digest = hashlib.sha256(b"\0".join(named)).hexdigest()
    video = folder / f"{digest}.mp4"
    with video.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not video.exists():
            making = video.with_suffix(".making.mp4")
            subprocess.run([*words, f"--output={making}"], check=True)
            os.replace(making, video)
    shutil.copyfile(video, output)


if __name__ == "__main__":
    main()
