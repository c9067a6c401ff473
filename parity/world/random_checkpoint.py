"""Writes a complete small LTX-2.3: official single file, Gemma 3 with tokenizer, upsamplers, and the split MLX layout.

    python -m parity.world.random_checkpoint OUT [--seed N] [--preset tiny|mid] [--upsampler STEM ...] [--no-split]

Every tensor is drawn from its own generator, keyed by the seed and the tensor's name, so adding one changes no other.
All values are representable in bfloat16, as published weights are; the split layout is stored in bfloat16 and therefore
means exactly the same model. In the single file the two encoders' and the audio VAE's tensors are stored in bfloat16
(size), all others in float32 (the official LoRA fusion in float32 wants them so).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.world import layout, signal_bases, tokenizer_files
from parity.world.presets import MODEL_VERSION, UPSAMPLERS, preset

SINGLE_FILE = "ltx-2.3-tiny.safetensors"
BF16_PREFIXES = ("vae.encoder.", "audio_vae.")
LORA_PREFIX = "diffusion_model."


def write_checkpoint(
    out: Path,
    *,
    seed: int = 0,
    name: str = "tiny",
    upsamplers: Sequence[str] = ("ltx-2.3-spatial-upscaler-x2",),
    split: bool = True,
) -> dict[str, Path]:
    """Write the checkpoint to the folder `out`, replacing it whole; returns the paths by role."""
    config, gemma = preset(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        states = gemma["text_config"]["num_hidden_layers"] + 1
        metadata = {"config": json.dumps(config), "model_version": MODEL_VERSION}
        write_file(temporary / SINGLE_FILE, layout.official(config, states), seed, metadata)
        for stem in upsamplers:
            tensors = layout.upsampler(UPSAMPLERS[stem])
            write_file(temporary / f"{stem}.safetensors", tensors, seed, {"config": json.dumps(UPSAMPLERS[stem])})
        write_gemma(temporary / "gemma", gemma, seed)
        if split:
            write_split(temporary, upsamplers)
        if out.exists():
            shutil.rmtree(out)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    os.chmod(out, 0o755)
    return paths(out)


def paths(out: Path) -> dict[str, Path]:
    """Where the parts of a written checkpoint lie."""
    found = {"model": out / SINGLE_FILE, "gemma": out / "gemma", "split": out / "split"}
    return found | {"upsampler": out / "ltx-2.3-spatial-upscaler-x2.safetensors"}


def write_split(folder: Path, upsamplers: Sequence[str]) -> None:
    from ltx_native.convert import convert

    convert(
        folder / SINGLE_FILE,
        folder / "split",
        dtype="bfloat16",
        upsamplers=[folder / f"{stem}.safetensors" for stem in upsamplers],
    )


def write_gemma(folder: Path, config: dict[str, Any], seed: int) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_file(folder / "model.safetensors", layout.gemma(config), seed, {"format": "pt"})
    tokenizer_files.write(folder)


def write_lora(path: Path, *, rank: int = 4, seed: int = 1, name: str = "tiny", only: str = "") -> Path:
    """Write a LoRA for the attentions and feed-forwards of the transformer blocks (keys that contain `only`)."""
    config, _ = preset(name)
    tensors = layout.transformer(config["transformer"], prefix=LORA_PREFIX)
    write_file(path, lora_pairs(tensors, rank, only), seed, {"format": "pt"})
    return path


def lora_pairs(tensors: Iterable[layout.Tensor], rank: int, only: str = "") -> Iterator[layout.Tensor]:
    """The table of a LoRA for these tensors of a transformer, as `write_lora` picks them."""
    for tensor in tensors:
        key = tensor.key.removesuffix(".weight")
        wanted = ".transformer_blocks." in key and (".to_" in key or ".net." in key) and "to_gate" not in key
        if len(tensor.shape) == 2 and wanted and only in key:
            out, inp = tensor.shape
            yield layout.Tensor(f"{key}.lora_A.weight", (rank, inp), "weight", inp)
            yield layout.Tensor(f"{key}.lora_B.weight", (out, rank), "weight", rank, 0.3)


def draw(tensor: layout.Tensor, seed: int) -> NDArray[np.float32]:
    """The values of one tensor, float32 and exactly representable in bfloat16."""
    rng = np.random.default_rng([seed, zlib.crc32(tensor.key.encode())])
    normal = rng.standard_normal(tensor.shape, dtype=np.float64)
    match tensor.kind:
        case "weight":
            values = normal * tensor.gain / np.sqrt(tensor.fan_in)
        case "bias":
            values = 0.1 * tensor.gain * normal
        case "norm":
            values = 1 + 0.2 * normal
        case "norm_offset":
            values = 0.2 * normal
        case "table":
            values = 0.4 * normal
        case "registers":
            values = rng.uniform(-1, 1, tensor.shape)
        case "mean":
            values = 0.3 * normal
        case "std":
            values = rng.uniform(0.6, 1.4, tensor.shape)
        case "log":
            values = 0.3 * normal
        case "taps":  # no response at 0 Hz (snake's output is never negative on average), a norm that no seed moves
            values = normal - normal.mean(-1, keepdims=True)
            values *= tensor.gain / np.linalg.norm(values, axis=(1, 2), keepdims=True)
        case "fixed":
            values = fixed(tensor)
    return round_to_bfloat16(np.asarray(values, np.float32))


def fixed(tensor: layout.Tensor) -> NDArray[np.float64]:
    """Buffers that are computed, not learned."""
    size = tensor.shape[-1]
    if tensor.key.endswith(".filter"):
        return signal_bases.kaiser_sinc(2, size)
    if tensor.key.endswith(".kernel"):
        return signal_bases.binomial_blur()
    if tensor.key.endswith(".mel_basis"):
        return signal_bases.slaney_mels(16000, 2 * (size - 1), tensor.shape[0])
    forward, inverse = signal_bases.dft_bases(size, 80)
    return inverse if tensor.key.endswith("inverse_basis") else forward


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to nearest, ties to even, kept in float32."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).reshape(values.shape)


def write_file(path: Path, tensors: Iterable[layout.Tensor], seed: int, metadata: dict[str, str]) -> None:
    """A safetensors file, tensors in the table's order (so that the bytes depend on nothing else)."""
    header: dict[str, Any] = {"__metadata__": metadata}
    blobs: list[bytes] = []
    offset = 0
    for tensor in tensors:
        if tensor.key in header:
            raise ValueError(f"{tensor.key} stands twice in the table of {path.name}")
        values = draw(tensor, seed)
        half = tensor.key.startswith(BF16_PREFIXES)
        blob = (values.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes() if half else values.tobytes()
        header[tensor.key] = {
            "dtype": "BF16" if half else "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for blob in blobs:
            file.write(blob)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=("tiny", "mid"), default="tiny")
    parser.add_argument(
        "--upsampler", nargs="+", choices=sorted(UPSAMPLERS), default=["ltx-2.3-spatial-upscaler-x2"], metavar="STEM"
    )
    parser.add_argument("--no-split", action="store_true", help="leave out the split MLX layout")
    args = parser.parse_args(argv)
    write_checkpoint(args.out, seed=args.seed, name=args.preset, upsamplers=args.upsampler, split=not args.no_split)
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
