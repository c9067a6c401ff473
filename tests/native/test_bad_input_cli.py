"""Bad input of every mode through the command line: one message, status 2, nothing written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from ltx_native.cli import main
from ltx_native.convert import convert
from ltx_native.media import write_video
from parity.world.random_checkpoint import write_checkpoint
from tests.native.mode_files import write_mode_files

WHERE = ["-m", "MODEL", "--gemma", "GEMMA", "--engine", "native"]
SMALL = ["-W", "64", "-H", "64", "-f", "9", "--steps", "1", "--stg-blocks", "1", "--audio-stg-blocks", "1"]
RETAKE = ["--video", "clip.mp4", "--start", "0.2", "--end", "0.9"]
EXTEND = ["--video", "clip.mp4", "--extend-frames", "1"]

#: Name of the case: what is added to a text-to-video command, and what the message has to say.
CASES: dict[str, tuple[list[str], list[str]]] = {
    "prompt: blank": (["-p", " "], ["the prompt is empty"]),
    "size: no multiple of 32": (["-W", "100"], ["width", "100", "multiple of 32", "Use 96"]),
    "frames: not 8k + 1": (["-f", "16"], ["num_frames", "16", "Use 17"]),
    "guidance: no such block": (["--stg-blocks", "7"], ["no such block", "7", "0 to 1"]),
    "model: missing": (["-m", "nowhere.safetensors"], ["nowhere.safetensors", "does not exist"]),
    "model: truncated": (["-m", "truncated.safetensors"], ["truncated"]),
    "model: folder without a file": (["-m", "INCOMPLETE"], ["vocoder.safetensors", "cannot be read"]),
    "model: keys of nothing": (["-m", "EXTRA"], ["vocoder of EXTRA", "unexpected: vocoder.resblocks.99"]),
    "model: broken groups": (["-m", "BROKEN"], ["quantised layer does not fit", "attn1.to_q"]),
    "gemma: missing": (["--gemma", "no-folder-here/x/y/z"], ["does not exist"]),
    "gemma: of another width": (["--gemma", "OTHER_GEMMA"], ["Gemma does not fit the model"]),
    "noise: not a file of draws": (["--noise", "first.png"], ["noise", "first.png"]),
    "output: no such folder": (["-o", "absent/out.mp4"], ["no such folder", "absent"]),
    "output: not an mp4": (["-o", "out.avi"], ["out.avi", ".mp4"]),
    "i2v: no image": (["--mode", "i2v"], ["i2v", "without an image", "--image"]),
    "i2v: missing image": (["--image", "none.png"], ["none.png", "cannot be read"]),
    "i2v: unreadable image": (["--image", "voice.wav"], ["image cannot be read", "voice.wav"]),
    "i2v: outside the clip": (["--image", "first.png", "9"], ["outside the clip", "0 to 8"]),
    "i2v: strength": (["--image", "first.png", "0", "1.5"], ["strength", "1.5"]),
    "i2v: not a number": (["--image", "first.png", "zero"], ["no number", "zero"]),
    "a2v: no sound": (["--mode", "audio_ref_video"], ["without a sound", "--audio"]),
    "a2v: missing sound": (["--audio", "none.wav"], ["none.wav"]),
    "a2v: a file without sound": (["--audio", "silent.mp4"], ["no sound in the file", "silent.mp4"]),
    "a2v: unreadable sound": (["--audio", "notes.txt"], ["sound cannot be read", "notes.txt"]),
    "a2v: shorter than the clip": (["--audio", "short.mp4"], ["shorter than the clip", "seconds"]),
    "a2v: no upsampler": (["--audio", "voice.wav", "-m", "official.safetensors", "--upsampler", "none.x"], ["none.x"]),
    "retake: no video": (["--mode", "retake", "--start", "0", "--end", "1"], ["retake", "without a video"]),
    "retake: no range": (["--video", "clip.mp4"], ["range", "0 <= start < end"]),
    "retake: backwards": ([*RETAKE, "--end", "0.1"], ["range", "(0.2, 0.1)"]),
    "retake: outside the source": ([*RETAKE, "--end", "5"], ["outside the source", "1.320 seconds"]),
    "retake: unreadable video": ([*RETAKE, "--video", "notes.txt"], ["video cannot be read", "notes.txt"]),
    "retake: odd size": ([*RETAKE, "--video", "odd.mp4"], ["height", "50", "multiple of 32"]),
    "extend: no video": (["--mode", "extend", "--extend-frames", "1"], ["extend", "without a video"]),
    "extend: by nothing": ([*EXTEND, "--extend-frames", "0"], ["nothing to add", "extend_frames", "1 or more"]),
    "extend: unreadable video": ([*EXTEND, "--video", "voice.wav"], ["video cannot be read", "voice.wav"]),
    "lora: missing": (["--lora", "none.safetensors"], ["lora", "none.safetensors"]),
    "lora: not a weight file": (["--lora", "first.png"], ["first.png"]),
    "lora: keys match nothing": (["--lora", "elsewhere.safetensors"], ["LoRA", "none of its 1 layers fits the model"]),
    "lora: no pairs": (["--lora", "official.safetensors"], ["LoRA cannot be applied whole"]),
    "lora: strength": (["--lora", "style.safetensors", "strong"], ["PATH [STRENGTH]", "strong"]),
    "two-stage: no upsampler": (["--pipeline", "two-stage", "-m", "LONE"], ["No latent upsampler", "--upsampler"]),
    "two-stage: another factor": (["--pipeline", "two-stage", "--upsampler", "x1.5.safetensors"], ["1.5 times", "x2"]),
    "two-stage: more frames": (["--pipeline", "two-stage", "--upsampler", "time.safetensors"], ["more frames", "x2"]),
    "two-stage: size": (["--pipeline", "two-stage", "-W", "96"], ["width", "96", "multiple of 64"]),
    "two-stages-hq: no upsampler": (["--pipeline", "two-stages-hq", "-m", "LONE"], ["No latent upsampler"]),
    "two-stages-hq: lora": (["--pipeline", "two-stages-hq", "--distilled-lora", "elsewhere.safetensors"], ["LoRA", "none of"]),
    "distilled: no upsampler": (["--pipeline", "distilled", "-m", "LONE"], ["No latent upsampler"]),
    "distilled: no such variant": (["--pipeline", "distilled", "-m", "SPLIT_DEV"], ["variant", "transformer-distilled"]),
    "keyframes: no images": (["--pipeline", "keyframes"], ["keyframes need images"]),
    "ic-lora: missing reference": (["--pipeline", "ic-lora", "--reference", "none.mp4"], ["reference", "none.mp4"]),
    "ic-lora: unreadable": (["--pipeline", "ic-lora", "--reference", "notes.txt"], ["video cannot be read", "notes.txt"]),
    "ic-lora: size": (
        ["--pipeline", "ic-lora", "--reference", "clip.mp4", "--lora", "half.safetensors"], ["adapter", "multiples of 128"]
    ),
}  # fmt: skip

CONVERSIONS: dict[str, tuple[list[str], list[str]]] = {
    "no such file": (["none.safetensors", "NEW"], ["none.safetensors"]),
    "output exists": (["official.safetensors", "GEMMA"], ["output exists"]),
    "a split folder": (["DISTILLED", "NEW"], ["official single file"]),
    "unknown format": (["official.safetensors", "NEW", "--dtype", "q3"], ["q3", "q4"]),
    "group size": (["official.safetensors", "NEW", "--dtype", "q8", "--group-size", "48"], ["48", "64"]),
    "not an upsampler": (["official.safetensors", "NEW", "--upsampler", "first.png"], ["first.png"]),
}


@pytest.fixture(scope="module")
def files(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's files, and one damaged or unfitting file for each mistake."""
    folder = write_mode_files(tmp_path_factory.mktemp("bad"), tiny)
    (folder / "notes.txt").write_text("nothing to see or hear\n")
    (folder / "truncated.safetensors").write_bytes((folder / "official.safetensors").read_bytes()[:-100])
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    write_video(folder / "silent.mp4", [frames], 24.0)
    write_video(folder / "short.mp4", [frames], 24.0, np.full((2, 2400), 0.1, np.float32), 48000)
    write_video(folder / "odd.mp4", [frames[:, :50]], 24.0)
    rng = np.random.default_rng(0)
    for name, layer in (("elsewhere", "transformer_blocks.99.attn1.to_q"), ("half", "transformer_blocks.0.attn1.to_q")):
        factors = {f"diffusion_model.{layer}.lora_{side}.weight": shape for side, shape in (("A", (2, 64)), ("B", (64, 2)))}
        tensors = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in factors.items()}
        save_file(tensors, folder / f"{name}.safetensors", {"reference_downscale_factor": "2"} if name == "half" else None)
    (folder / "LONE").mkdir()
    shutil.copy(tiny["model"], folder / "LONE")
    stems = ("ltx-2.3-spatial-upscaler-x1.5", "ltx-2.3-temporal-upscaler-x2")
    made = write_checkpoint(folder / "others", name="tiny", upsamplers=stems, split=False)["model"].parent
    for stem, name in zip(stems, ("x1.5", "time"), strict=True):
        shutil.move(made / f"{stem}.safetensors", folder / f"{name}.safetensors")
    shutil.rmtree(made)
    for name in ("INCOMPLETE", "EXTRA", "SPLIT_DEV"):
        shutil.copytree(tiny["split"], folder / name)
    (folder / "INCOMPLETE" / "vocoder.safetensors").unlink()
    change(folder / "EXTRA" / "vocoder.safetensors", {"vocoder.resblocks.99.weight": mx.zeros((1,))})
    convert(tiny["model"], folder / "BROKEN", dtype="q8", group_size=32)
    layer = "transformer.transformer_blocks.0.attn1.to_q"
    wrong = {f"{layer}.{part}": mx.zeros((64, 3), mx.bfloat16) for part in ("scales", "biases")}
    change(folder / "BROKEN" / "transformer-dev.safetensors", wrong)
    shutil.copytree(tiny["gemma"], folder / "OTHER_GEMMA")
    config = (folder / "OTHER_GEMMA" / "config.json").read_text()
    assert '"num_hidden_layers": 6' in config
    (folder / "OTHER_GEMMA" / "config.json").write_text(config.replace('"num_hidden_layers": 6', '"num_hidden_layers": 7'))
    return folder


def change(path: Path, tensors: dict[str, mx.array]) -> None:
    """Put tensors into a safetensors file."""
    found = mx.load(str(path))
    assert isinstance(found, dict)
    mx.eval(found)
    mx.save_safetensors(str(path), found | tensors)


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(words: list[str], expected: list[str], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(files)
    status = main(words)
    said = capsys.readouterr()
    assert status == 2, said
    assert said.out == ""
    message = said.err.strip()
    assert message.startswith("ltx-native: ")
    assert "\n" not in message, "one message"
    assert "Traceback" not in message
    for word in expected:
        assert word in message, f"{word!r} is not in {message!r}"
    assert contents(files) == before, "something was written"


@pytest.mark.parametrize("name", CASES)
def test_a_request_that_cannot_be_served(
    name: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = CASES[name]
    monkeypatch.chdir(files)
    refused(["generate", "-p", "a fox", "-o", "out.mp4", *WHERE, *SMALL, *words], expected, files, capsys)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_conversion_that_cannot_be_made(
    name: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = CONVERSIONS[name]
    monkeypatch.chdir(files)
    refused(["convert", *words], expected, files, capsys)


def test_the_process_says_the_same_and_ends_with_status_2(files: Path) -> None:
    before = contents(files)
    words = ["generate", "-p", "a fox", "-o", "out.mp4", *WHERE, *SMALL, *CASES["extend: by nothing"][0]]
    command = [sys.executable, "-m", "ltx_native.cli", *words]
    done = subprocess.run(command, cwd=files, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ltx-native: there is nothing to add")
    assert contents(files) == before
