"""One block of the true size (1,650 video and 101 audio tokens): error, time and memory, in float32 and quantised."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from parity.bench.clock import Sample, interleave, summary
from parity.bench.sides import Size, native
from parity.capture.service import official
from parity.metrics import measure as compare

#: rel_l2 on equal inputs, and peak resident bytes of either side.
TARGETS = {"rel_l2": 1e-5, "peak_bytes": 8e9}
TRUE_SIZE = Size(480, 320, 81, 20.0)


def measure(model: Path, config: dict[str, Any], rounds: int, size: Size = TRUE_SIZE, index: int = 0) -> dict[str, Any]:
    """By `float32` and `quantised`: rel_l2 per modality on equal weights and inputs, spreads, peak bytes.

    `quantised` computes with the checkpoint's own layers, whatever they are. Files of 2 GB go to the temporary folder.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-block-") as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for variant in ("float32", "quantised"):
            found[variant] = _one(folder, model, variant == "float32", rounds, size, index)
    return found


def _one(folder: Path, model: Path, plain: bool, rounds: int, size: Size, index: int) -> dict[str, Any]:
    files = {name: folder / f"{name}.safetensors" for name in ("weights", "inputs", "native", "official")}
    with native("block", model) as ours, official("blocks", [f"--config={folder / 'config.json'}"]) as theirs:
        given = {name: getattr(size, name) for name in ("width", "height", "frames", "frame_rate", "text_tokens")}
        told = ours.ask("load", index=index, weights=files["weights"], inputs=files["inputs"], plain=plain, **given)
        theirs.ask("begin", inputs=files["inputs"])
        ours.ask("run", output=files["native"])
        theirs.ask("block", index=index, weights=files["weights"], output=files["official"])
        first, second = load_file(files["native"]), load_file(files["official"])
        samples = interleave(
            {"native": lambda: Sample.of(ours.ask("run")), "official": lambda: Sample.of(theirs.ask("again"))}, rounds, 0
        )
        peaks = {"native": ours.peak_bytes, "official": theirs.peak_bytes}
    errors = {name.partition(".")[0]: compare(first[name], second[name]).rel_l2 for name in second}
    return {**summary(samples), "tokens": told["tokens"], "rel_l2": errors, "peak_bytes": peaks, "rounds": rounds}
