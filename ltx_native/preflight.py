"""What a request needs of its checkpoint and its files, checked before anything heavy is loaded."""

from __future__ import annotations

from ltx_native.checkpoint import Checkpoint
from ltx_native.errors import RequestError
from ltx_native.lora import LoRA, check_layers
from ltx_native.request import ResolvedRequest


def check(request: ResolvedRequest, checkpoint: Checkpoint) -> None:
    """Raise UserError for what would otherwise only show after minutes: blocks, upsampler, LoRAs, pictures, clips."""
    _check_blocks(request, checkpoint)
    if request.two_stage:
        _check_upsampler(checkpoint)
    _check_loras(request, checkpoint)
    _check_media(request)


def unused(request: ResolvedRequest) -> tuple[str, ...]:
    """A warning for everything that was given and does nothing in this mode."""
    mode = request.effective_mode
    given = {
        "images": bool(request.anchors) and not request.steering_anchors,
        "the sound": request.audio_path is not None and mode != "audio_ref_video",
        "the source video": request.source_video_path is not None and mode not in ("retake", "extend"),
        "reference videos": bool(request.reference_videos) and request.effective_pipeline != "ic-lora",
    }
    found = [
        f"{name} given but not used in mode {mode} ({request.effective_pipeline})" for name, is_so in given.items() if is_so
    ]
    if mode == "audio_ref_video" and request.audio_passthrough:
        found.append(f"{request.audio_path} is in the file but did not steer the picture (audio_passthrough)")
    return tuple(found)


def _check_blocks(request: ResolvedRequest, checkpoint: Checkpoint) -> None:
    layers = checkpoint.config.transformer.num_layers
    guiders = ("stg_blocks", request.video_guider()), ("audio_stg_blocks", request.audio_guider())
    for name, guider in guiders:
        for block in guider.stg_blocks or ():
            if guider.wants_stg and block >= layers:
                raise RequestError(
                    "the model has no such block", name, block, f"0 to {layers - 1}", "Name a block of this model"
                )


def _check_upsampler(checkpoint: Checkpoint) -> None:
    """The second stage works at twice the size of the first."""
    config = checkpoint.upsampler_config
    if config.temporal_upsample or not config.spatial_upsample or config.spatial_scale != 2.0:
        found = "more frames" if config.temporal_upsample else f"{config.spatial_scale} times the size"
        raise RequestError(
            "the upsampler does not suit two stages", "upsampler", found, "twice the size", "Give a spatial x2 upscaler"
        )


def _check_loras(request: ResolvedRequest, checkpoint: Checkpoint) -> None:
    loras = [LoRA.open(lora.path, lora.strength) for lora in (*request.loras, *request.distilled_loras)]
    if loras:
        check_layers(loras, checkpoint.weights("transformer", request.dtype))


def _check_media(request: ResolvedRequest) -> None:
    from ltx_native.media import read_image, video_metadata

    for anchor in request.steering_anchors:
        read_image(anchor.path)
    if request.effective_pipeline == "ic-lora":
        for path, _ in request.reference_videos:
            video_metadata(path)
