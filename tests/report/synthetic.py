"""Results as a run writes them, of any size, with media and tensors kept, and with texts that try to break out of the page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import av
import numpy as np

from parity.details import site_details
from parity.results import COLUMNS, write_json

HOSTILE_PROMPT = """A sign that reads "<script>alert('x')</script>" & 'more' </title><!-- {{ 7 * 7 }}"""
HOSTILE_SITE = """transformer.transformer_blocks.1."><script>window.broken=1</script><b x='"""
PASSES = ("cond", "uncond", "stg", "modality")
MODULES = (
    ("attn1", "Attention", ""),
    ("attn1.to_q", "Linear", ""),
    ("attn2", "Attention", ""),
    ("ff.net.0.proj", "Linear", ""),
    ("audio_attn1", "Attention", ""),
    ("audio_ff", "FeedForward", ""),
    ("", "BasicAVTransformerBlock", "0.x"),
)
BOUND = 1e-5


class Maker:
    """Rows with errors that look like a run's: local near 1e-7, total growing with the steps, some rows broken."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.rows: list[list[Any]] = []

    def add(
        self, site: str, kind: str, output: str = "", step: int | None = None, guidance: str | None = None, **over: Any
    ) -> int:
        depth = 0 if step is None else step
        local = float(10 ** self.random.normal(-6.8, 0.25))
        total = local + 3e-7 * (1 + depth)
        row = {
            "index": len(self.rows),
            "site": site,
            "type": kind,
            "output": output,
            "stage": "stage_1",
            "step": step,
            "pass": guidance,
            "call": 0,
            "shape": [1, 8, 64],
            "dtype": "float32",
            "local": local,
            "local_max_abs": local * 3,
            "total": total,
            "total_max_abs": total * 3,
            "cosine": 1.0,
            "bias": 1e-9,
            "inherited": total - local,
            "incoming": total,
            "incoming_name": "x",
            "gain": (total - local) / total,
            "floor": None,
            "bound": BOUND,
            "failed": False,
            "problem": "",
            **over,
        }
        self.rows.append([row[name] for name in COLUMNS])
        return len(self.rows) - 1

    def exact(self, site: str, output: str = "") -> None:
        self.add(site, "Value", output, local=None, total=0.0, bound=0.0, inherited=None, incoming=None, gain=None)


def results(blocks: int, steps: int, failing: int = 3, hostile: bool = True) -> dict[str, Any]:
    """Results of one case. `failing` rows are out of bound; the first stands in block 1 at step 0."""
    maker = Maker()
    for output in ("input_ids", "attention_mask"):
        maker.exact("tokenizer", output)
    for layer in range(4):
        maker.add(f"gemma.layers.{layer}", "Gemma3DecoderLayer")
    maker.exact("schedule")
    maker.exact("state.video", "latent")
    first: tuple[int, str] | None = None
    for step in range(steps):
        for guidance in PASSES:
            maker.add("transformer.patchify_proj", "Linear", step=step, guidance=guidance)
            for block in range(blocks):
                for module, kind, output in MODULES:
                    site = f"transformer.transformer_blocks.{block}" + (f".{module}" if module else "")
                    over: dict[str, Any] = {}
                    if block == 1 and module == "attn2" and failing and guidance == "cond":
                        over = {"local": 0.02 / (1 + step), "failed": True}
                        failing -= 1
                    if hostile and block == 1 and module == "attn1" and step == 0 and guidance == "cond":
                        over, site = {"problem": "shape (1,) for <img src=x onerror=alert(1)>", "failed": True}, HOSTILE_SITE
                    position = maker.add(site, kind, output, step, guidance, **over)
                    if over and first is None:
                        first = position, site
            maker.add("denoised", "X0Model", "video", step=step, guidance=guidance)
        maker.add("sampler.video", "EulerStep", step=step)
        maker.add("sampler.audio", "EulerStep", step=step)
    maker.exact("latent.video")
    maker.add("video_decoder.conv_out", "Conv3d")
    maker.add("vocoder", "VocoderWithBWE", local=math.inf if failing else 2e-7)
    finding = None
    if first is not None:
        key = {"site": first[1], "stage": "stage_1", "step": 0, "guidance_pass": "cond", "call": 0}
        finding = {
            "kind": "module",
            "key": key,
            "output": "",
            "component": "transformer",
            "error": 0.02,
            "bound": BOUND,
            "sentence": f"{first[1]} is off",
            "hypotheses": [
                {"edit": "RoPE interleaved <-> half", "before": 0.02, "after": 2e-7, "removed": 0.99999, "note": ""}
            ],
        }
    verdict = "fail" if first is not None else "pass"
    case = {
        "name": 'case "one" <b>' if hostile else "t2v-96x64x17",
        "request": {"name": "case", "prompt": HOSTILE_PROMPT if hostile else "A fox", "negative_prompt": "", "steps": steps},
        "dtype": "float32",
        "problem": "",
        "coverage": {
            "reference_records": len(maker.rows) + 5,
            "compared": len(maker.rows),
            "skipped": {"R1": 5},
            "unmatched_reference": [],
            "unmatched_native": [],
            "complete": True,
            "sentence": f"{len(maker.rows)} compared",
        },
        "columns": COLUMNS,
        "rows": maker.rows,
        "finding": finding,
        "end_to_end": [
            {"name": "latent.video", "metric": "rel_l2", "value": 1e-6, "bound": 1e-4, "passed": True},
            {"name": "waveform", "metric": "max_abs", "value": 1e-5, "bound": 1e-4, "passed": True},
        ],
        "media": {},
        "timings": {"native_s": 1.0},
        "provenance": {"reference": {"versions": {"torch": "2"}, "patches": ["a", "<i>b</i>"]}},
        "details": details(maker.rows),
    }
    return {
        "schema": 1,
        "verdict": verdict,
        "reasons": [finding["sentence"]] if finding else [],
        "environment": {"commit": "0" * 40, "versions": {"mlx": "0.32"}, "platform": "Linux"},
        "policy": {"latents": 1e-4},
        "cases": [case],
    }


def details(rows: list[list[Any]], count: int = 8) -> list[dict[str, Any]]:
    """Kept tensors of the failing rows."""
    random = np.random.default_rng(1)
    site, failed = COLUMNS.index("site"), COLUMNS.index("failed")
    positions = [i for i, row in enumerate(rows) if row[failed]][:count]
    found = []
    for position in positions:
        reference = random.normal(size=(1, 24, 64))
        native = reference + 1e-6 * random.normal(size=reference.shape)
        native[0, 7] += 0.3
        found.append({"row": position, "local": True, **site_details(str(rows[position][site]), native, reference)})
    return found


def fidelity(count: int = 24) -> dict[str, Any]:
    """A fidelity section as the gate writes it."""
    random = np.random.default_rng(2)

    def scores(base: float) -> dict[str, Any]:
        return {
            "clip_score": base,
            "control_score": base - 6,
            "first": bool(random.random() < 0.9),
            "lost_to": "",
            "temporal_consistency": 0.97 + 0.01 * random.random(),
            "motion": 3.0 + random.random(),
            "brightest": 255.0,
            "contrast": 40.0,
            "frames": 17,
            "finite": True,
            "audio_rms": 0.1,
            "audio_peak": 0.5,
        }

    pairs = []
    for i in range(count):
        base = 25 + 3 * random.normal()
        pairs.append({"id": f"p{i}", "problem": "", "native": scores(base + 0.2 * random.normal()), "reference": scores(base)})
    bets = {
        "clip_score": {"margin": 0.5, "bound": 2.0, "sigma": 0.5, "hard": False},
        "r_precision": {"margin": 0.05, "bound": 1.0, "sigma": 0.3, "hard": True},
        "temporal_consistency": {"margin": 0.01, "bound": 0.05, "sigma": 0.01, "hard": False},
        "motion": {"margin": 0.01, "bound": 0.5, "sigma": 0.1, "hard": False},
    }
    metric = {
        "mean": 0.01,
        "margin": 0.5,
        "wealth": 33.0,
        "passed_after": 21,
        "verdict": "pass",
        "reason": "",
        "lower_bound": -0.2,
    }
    open_ = {
        **metric,
        "verdict": "inconclusive",
        "reason": "undecided",
        "more_videos": 31,
        "passed_after": None,
        "wealth": "inf",
    }
    ladder = {
        name: {"verdict": verdict, "videos": 12, "clip_score": score, "r_precision": 0.5, "reason": ""}
        for name, verdict, score in (
            ("none", "inconclusive", 25.0),
            ("one-step", "fail", 18.0),
            ("shuffled-prompts", "fail", 15.0),
        )
    }
    return {
        "verdict": "inconclusive",
        "reasons": ["motion: undecided"],
        "seen": count,
        "size": 100,
        "metrics": {"clip_score": metric, "motion": open_},
        "pilot": {"bets": bets, "control_points": 6.0, "control_lower_bound": 5.0, "videos": 12},
        "ladder": ladder,
        "fingerprints": {"clip": "0"},
        "pairs": pairs,
    }


def shown(folder: Path) -> list[dict[str, Any]]:
    """Two prompts made by both sides, the second missed by native; media are written below ``folder``."""
    rows = []
    for i, prompt in enumerate((HOSTILE_PROMPT, "a red square standing still")):
        seen = {"colour": "red", "shape": "square", "motion": "still", "background": "grey", "right": i == 0}
        row: dict[str, Any] = {"id": f"p{i}", "prompt": prompt, "seed": i, "captions": 16, "media": {}, "oracle": {}}
        for shift, side in enumerate(("native", "reference")):
            write_movie(folder / f"p{i}" / f"{side}.mp4", size=(64, 64), shift=shift)
            row["media"][side] = f"p{i}/{side}.mp4"
            row["oracle"][side] = {**seen, "right": i == 0 or side == "reference"}
            row[side] = {"clip_score": 90.0 + shift, "first": i == 0, "lost_to": "" if i == 0 else "<b>a blue square</b>"}
        rows.append(row)
    return rows


def certificate() -> dict[str, Any]:
    rows = [
        {
            "id": "TIM-01",
            "title": "sigma",
            "component": "transformer",
            "caught": True,
            "site": "transformer:0",
            "margin": 5690.0,
        }
    ]
    return {"faults": 1, "caught": 1, "controls": 4, "false_alarms": 0, "rows": rows}


def write_movie(path: Path, frames: int = 9, size: tuple[int, int] = (64, 96), shift: int = 0, rate: int = 24) -> None:
    """A bar that moves one step a frame, with a tone; `shift` moves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.height, video.width = size
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="stereo")
        for index in range(frames):
            picture = np.full((*size, 3), 40, np.uint8)
            picture[:, (index * 8 + shift) % size[1] :][:, :6] = (220, 160, 40)
            for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        samples = np.arange(48000 * frames // rate)
        tone = 0.2 * np.sin(2 * np.pi * 440 * samples / 48000).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        for packet in [*audio.encode(frame), *audio.encode(None), *video.encode(None)]:
            container.mux(packet)


def write_run(folder: Path, content: dict[str, Any], media: bool = True) -> Path:
    """results.json and both videos of its first case; the path of the results."""
    if media:
        content["cases"][0]["media"] = {"native": "case/native.mp4", "reference": "case/reference.mp4"}
        write_movie(folder / "case" / "native.mp4", shift=1)
        write_movie(folder / "case" / "reference.mp4")
    path = folder / "results.json"
    write_json(path, content)
    json.loads(path.read_text())
    return path
