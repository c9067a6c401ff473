"""Run one of the official pipelines, as its own `main` would, and write the mp4; record the run where asked."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official import draws, patches, provenance
from reference_bridge.adapters.official.checks import BadInput, gemma_config, model_config
from reference_bridge.adapters.official.inputs import check_files
from reference_bridge.adapters.official.sites import OfficialSites
from reference_bridge.probe import Recorder
from reference_bridge.probe_sketch import SKETCH_SEED, SKETCH_SUMS
from reference_bridge.probe_trace import TorchBackend, TraceWriter


def run(args: argparse.Namespace) -> int:
    """Generate as `args` (checked by `arguments.check_generate`) say; prints one JSON line with times and paths."""
    started = time.perf_counter()
    request = {name: _plain(value) for name, value in sorted(vars(args).items())}
    import torch

    check_files(args)
    torch.set_num_threads(args.threads)
    gemma = gemma_config(args.gemma)
    applied = patches.apply(args.dtype, args.gemma, gemma, _frozen(args))
    noise = draws.read_noise(args.noise) if args.noise is not None else None
    with _recorder(args, request, applied) as recorder:
        drawn = draws.Draws(recorder, noise)
        draws.install(drawn)
        sites = OfficialSites(recorder) if recorder is not None else None
        if sites is not None:
            sites.install()
        imported = time.perf_counter()
        with torch.inference_mode():
            pipeline, call = build(args)
            video, audio = pipeline(**call)
            _check_draws(noise, drawn)
            if sites is not None:
                sites.waveform(audio)
            if args.width < 128:
                patches.encoder_without_mbtree()
                applied.append("x264-no-mbtree-below-128")
            _encode(args, video, audio)
        generated = time.perf_counter()
    summary = {
        "output": str(args.output),
        "trace": None if args.trace is None else str(args.trace),
        "records": None if recorder is None else recorder.writer.records,
        "import_s": round(imported - started, 3),
        "generate_s": round(generated - imported, 3),
        "probe_s": None if recorder is None else round(recorder.seconds, 3),
        "total_s": round(time.perf_counter() - started, 3),
    }
    if not args.quiet:
        print(json.dumps(summary))
    return 0


def _frozen(args: argparse.Namespace) -> frozenset[str]:
    """The modalities that are given and stay as they are."""
    kept = {"video": args.keep_video, "audio": args.keep_audio or args.mode == "a2v"}
    return frozenset(name for name, is_kept in kept.items() if is_kept)


def build(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The official pipeline of this mode and the arguments of its call."""
    from ltx_core.model.video_vae import TilingConfig
    from ltx_pipelines.utils.constants import DEFAULT_NEGATIVE_PROMPT, LTX_2_3_HQ_PARAMS, detect_params

    mode = args.mode
    params = LTX_2_3_HQ_PARAMS if mode == "two-stage-hq" else detect_params(str(args.model))
    loras = tuple(_lora(path, strength) for path, strength in args.lora)
    distilled_lora = [_lora(*args.distilled_lora)] if args.distilled_lora else []
    clip = {"height": args.height, "width": args.width, "num_frames": args.frames, "frame_rate": args.frame_rate}
    common = {"prompt": args.prompt, "seed": args.seed}
    guided: dict[str, Any] = {}
    if mode not in ("distilled", "ic-lora"):
        guided = {
            "negative_prompt": DEFAULT_NEGATIVE_PROMPT if args.negative_prompt is None else args.negative_prompt,
            "num_inference_steps": params.num_inference_steps if args.steps is None else args.steps,
            "video_guider_params": guider_params(args, "", params.video_guider_params),
            "audio_guider_params": guider_params(args, "audio_", params.audio_guider_params),
        }
    images = {"images": _images(args.image)}
    tiling = {"tiling_config": TilingConfig.default() if args.tiling == "official" else None}
    weights: dict[str, Any] = {"gemma_root": str(args.gemma), "loras": loras}
    upsampled = {**weights, "spatial_upsampler_path": str(args.upsampler)}
    full, distilled = {"checkpoint_path": str(args.model)}, {"distilled_checkpoint_path": str(args.model)}

    if mode == "one-stage":
        from ltx_pipelines.ti2vid_one_stage import TI2VidOneStagePipeline

        return TI2VidOneStagePipeline(**full, **weights), {**common, **clip, **guided, **images}
    if mode == "distilled":
        from ltx_pipelines.distilled import DistilledPipeline

        return DistilledPipeline(**distilled, **upsampled), {**common, **clip, **images, **tiling}
    if mode == "ic-lora":
        from ltx_pipelines.ic_lora import ICLoraPipeline

        conditioning = [(str(path), strength) for path, strength in args.video]
        call = {**common, **clip, **images, **tiling, "video_conditioning": conditioning}
        return ICLoraPipeline(**distilled, **upsampled), call
    if mode == "retake":
        from ltx_pipelines.retake import RetakePipeline

        region = {"video_path": str(args.video[0][0]), "start_time": args.start, "end_time": args.end}
        keep = {"regenerate_video": not args.keep_video, "regenerate_audio": not args.keep_audio}
        return RetakePipeline(**full, **weights), {**common, **guided, **region, **keep, **tiling}
    whole = {**full, **upsampled, "distilled_lora": distilled_lora}
    call = {**common, **clip, **guided, **images, **tiling}
    if mode == "two-stage":
        from ltx_pipelines.ti2vid_two_stages import TI2VidTwoStagesPipeline

        return TI2VidTwoStagesPipeline(**whole), call
    if mode == "keyframe":
        from ltx_pipelines.keyframe_interpolation import KeyframeInterpolationPipeline

        return KeyframeInterpolationPipeline(**whole), call
    if mode == "two-stage-hq":
        from ltx_pipelines.ti2vid_two_stages_hq import TI2VidTwoStagesHQPipeline

        # The official command's strengths; one given with the LoRA scales both.
        strength = args.distilled_lora[1]
        stages = {f"distilled_lora_strength_stage_{i}": s * strength for i, s in ((1, 0.25), (2, 0.5))}
        return TI2VidTwoStagesHQPipeline(**whole, **stages), call
    from ltx_pipelines.a2vid_two_stage import A2VidPipelineTwoStage

    del call["audio_guider_params"]
    sound = {"audio_path": str(args.audio), "audio_start_time": args.audio_start}
    return A2VidPipelineTwoStage(**whole), {**call, **sound, "audio_max_duration": args.frames / args.frame_rate}


def guider_params(args: argparse.Namespace, prefix: str, default: Any) -> Any:
    """Guidance of one modality: the official default, changed by the flags that were given. Raises `BadInput`."""
    from dataclasses import fields, replace

    given = {field.name: getattr(args, prefix + field.name) for field in fields(default)}
    params = replace(default, **{name: value for name, value in given.items() if value is not None})
    layers = model_config(args.model, "--model").get("transformer", {}).get("num_layers", 48)
    absent = [block for block in params.stg_blocks or () if not 0 <= block < layers]
    # Perturbing a block that is not there would be no guidance at all, without a word.
    if params.stg_scale != 0 and absent:
        flag = f"--{prefix.replace('_', '-')}stg-blocks"
        raise BadInput("no such block", flag, absent[0], f"0 to {layers - 1}", "Name blocks of this model.")
    return params


def _images(images: list[tuple[Path, int, float, int | None]]) -> list[Any]:
    from ltx_pipelines.utils.args import ImageConditioningInput

    return [
        ImageConditioningInput(str(path), frame, strength, *([] if crf is None else [crf]))
        for path, frame, strength, crf in images
    ]


def _lora(path: Path, strength: float) -> Any:
    from ltx_core.loader import LTXV_LORA_COMFY_RENAMING_MAP, LoraPathStrengthAndSDOps

    return LoraPathStrengthAndSDOps(str(path), strength, LTXV_LORA_COMFY_RENAMING_MAP)


def _check_draws(given: dict[str, Any] | None, drawn: draws.Draws) -> None:
    if given is not None and len(given) > drawn.count:
        what = f"{drawn.count} draws"
        raise BadInput("the noise file holds more than the run draws", "--noise", len(given), what, "Check the mode.")


def _encode(args: argparse.Namespace, video: Any, audio: Any) -> None:
    """Encode with the official muxer under a temporary name, so that the final name is a whole file or none."""
    from ltx_core.model.video_vae import TilingConfig, get_video_chunks_number
    from ltx_pipelines.utils.media_io import encode_video

    partial = args.output.with_name(f".{args.output.stem}.{os.getpid()}.partial.mp4")
    tiled = args.tiling == "official" and args.mode != "one-stage"
    chunks = get_video_chunks_number(args.frames, TilingConfig.default()) if tiled else 1
    try:
        encode_video(video=video, fps=args.frame_rate, audio=audio, output_path=str(partial), video_chunks_number=chunks)
        os.replace(partial, args.output)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _recorder(args: argparse.Namespace, request: dict[str, Any], applied: list[str]) -> Iterator[Recorder | None]:
    """A recorder whose trace is finished when the block ends and removed when it fails."""
    if args.trace is None:
        yield None
        return
    writer = TraceWriter(args.trace, TorchBackend())
    recorder = Recorder(writer, tuple(args.sites), args.outputs_only, args.sketch)
    try:
        yield recorder
        others = [path for path in (args.upsampler, *(path for path, _ in args.lora)) if path is not None]
        others += [args.distilled_lora[0]] if args.distilled_lora else []
        writer.close(
            {
                "side": "reference",
                "engine": "official",
                "dtype": args.dtype,
                "device": "cpu",
                "versions": provenance.versions(),
                "commit": None,
                "code": provenance.code_sha256(),
                "checkpoint": provenance.checkpoint_sha256(args.model, args.gemma, others),
                "request": request,
                "patches": applied,
                "probe_seconds": round(recorder.seconds, 3),
                **({"sketch": {"sums": SKETCH_SUMS, "seed": SKETCH_SEED}} if args.sketch else {}),
            }
        )
    except BaseException:
        writer.abort()
        raise


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
