"""Judge an exported checkpoint by the official one-stage pipeline (fp32, CPU), the pixel oracle and the world's CLIP."""

from __future__ import annotations

import argparse
import atexit
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.world.suite import load_suite
from parity.world.train.export import CHECKPOINT
from parity.world.train.sample import contact_sheet, score
from parity.world.train.state import without_gradients
from parity.world.train.transformer import set_gemma_sizes

Generate = Callable[[str, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def official(checkpoint: Path, gemma: Path, steps: int, cfg: float, frames: int, side: int) -> Generate:
    """The official pipeline as a function of prompt and noise seed, patched to run in fp32 without a GPU.

    It fixes bfloat16 as its precision in several places, so the name itself has to mean float32 from here on, and no
    bfloat16 file can be read or written any more: the weights go through a float32 copy, their values unchanged.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import Gemma3ForConditionalGeneration

    set_gemma_sizes()
    model = Gemma3ForConditionalGeneration.from_pretrained(gemma, dtype=torch.float32).eval()
    wide = Path(tempfile.mkdtemp(prefix="world-")) / checkpoint.name
    atexit.register(shutil.rmtree, wide.parent)
    with safe_open(checkpoint, "pt") as file:
        save_file({key: file.get_tensor(key).float() for key in file.keys()}, wide, metadata=file.metadata())  # noqa: SIM118
    torch.bfloat16 = torch.float32
    torch.cuda.synchronize = lambda *_args, **_kwargs: None
    from ltx_core.components.guiders import MultiModalGuiderParams
    from ltx_core.text_encoders.gemma import GemmaTextEncoder
    from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer
    from ltx_pipelines.ti2vid_one_stage import TI2VidOneStagePipeline

    pipeline = TI2VidOneStagePipeline(str(wide), str(gemma), [], device=torch.device("cpu"))
    encoder = GemmaTextEncoder(model, LTXVGemmaTokenizer(str(gemma), 1024), None, torch.float32)
    pipeline.model_ledger.text_encoder = lambda: encoder
    params = MultiModalGuiderParams(
        cfg_scale=cfg, stg_scale=0.0, rescale_scale=0.0, modality_scale=1.0, skip_step=0, stg_blocks=[]
    )

    @without_gradients
    def generate(prompt: str, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        video, audio = pipeline(
            prompt=prompt,
            negative_prompt="",
            seed=seed,
            height=side,
            width=side,
            num_frames=frames,
            frame_rate=24.0,
            num_inference_steps=steps,
            video_guider_params=params,
            audio_guider_params=params,
            images=[],
        )
        return torch.cat(list(video)).numpy(), audio.waveform.numpy()

    return generate


def main(argv: list[str] | None = None) -> int:
    """Generate the first captions of the suite, print and write the figures, save a contact sheet."""
    parser = argparse.ArgumentParser(prog="python -m parity.world.train.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder written by `python -m parity.world.train export`")
    parser.add_argument("--count", type=int, default=100, help="captions of the frozen suite, in its order")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--clip", type=Path, help="folder of the world's CLIP; adds R-precision among 16")
    parser.add_argument("--out", type=Path, required=True, help="folder for evaluation.json and sheet.png")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    prompts = load_suite()[: args.count]
    generate = official(args.checkpoint / CHECKPOINT, args.checkpoint / "gemma", args.steps, args.cfg, args.frames, args.side)
    clips, peaks, levels = [], [], []
    started = time.time()
    for number, prompt in enumerate(prompts, 1):
        video, sound = generate(prompt.text, prompt.seed)
        clips.append(video)
        peaks.append(float(np.abs(sound).max()))
        levels.append(float(np.sqrt(np.square(sound).mean())))
        left = (time.time() - started) / number * (len(prompts) - number)
        print(f"evaluate {number}/{len(prompts)} {left / 60:.1f} min left", file=sys.stderr, flush=True)
    captions = [prompt.caption for prompt in prompts]
    videos = np.stack(clips)
    shares, readings = score(videos, captions)
    record: dict[str, Any] = {
        "pipeline": "TI2VidOneStagePipeline, fp32",
        "count": len(prompts),
        "steps": args.steps,
        "cfg": args.cfg,
        "frames": args.frames,
        "side": args.side,
        "seconds_per_video": (time.time() - started) / len(prompts),
        "oracle": shares,
        "sound_peak_max": max(peaks),
        "sound_rms_min": min(levels),
        "wrong": [
            {"caption": c.text, "read": [r.colour, r.shape, r.motion, r.background, round(r.misfit, 3)]}
            for c, r in zip(captions, readings, strict=True)
            if not r.matches(c)
        ],
    }
    if args.clip is not None:
        from parity.world.train.clip import r_precision

        record["clip_r_precision_16"] = r_precision(args.clip, videos / 255.0, captions, [p.negatives for p in prompts])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    contact_sheet(videos[:32] / 255.0, args.out / "sheet.png")
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
