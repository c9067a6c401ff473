"""The video that retake and extend start from: what it is, and its latents."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from ltx_native.errors import RequestError
from ltx_native.models import Models
from ltx_native.patchify import SPACE_SCALE, TIME_SCALE, audio_latent_frames
from ltx_native.pipelines.sound import encode_sound, fitted
from ltx_native.request import Request


@dataclass(frozen=True)
class Source:
    """Latents of a source video; ``audio`` is None when the file has no sound."""

    video: mx.array  # (1, F, H, W, 128)
    audio: mx.array | None  # (1, T, 16, 8), T as long as the picture


def sized_by_source(request: Request) -> Request:
    """The request with the source's size, length (cut to 8k + 1 frames) and rate. Raises UserError when it cannot be used."""
    from ltx_native.media import video_metadata

    path = request.source_video_path
    assert path is not None
    found = video_metadata(path)
    for name, value in (("width", found.width), ("height", found.height)):
        if value % SPACE_SCALE:
            raise RequestError(
                f"the source's {name} does not fit the video VAE",
                path,
                value,
                f"a multiple of {SPACE_SCALE}",
                "Scale or crop the source",
            )
    frames = (found.num_frames - 1) // TIME_SCALE * TIME_SCALE + 1
    if request.effective_mode == "retake":
        seconds = found.num_frames / found.frame_rate
        assert request.retake_start is not None
        assert request.retake_end is not None
        if request.retake_start >= seconds or request.retake_end > seconds + 0.5 / found.frame_rate:
            raise RequestError(
                "the range lies outside the source",
                "retake_start, retake_end",
                (request.retake_start, request.retake_end),
                f"0 to {seconds:.3f} seconds",
                "Choose a range inside the video",
            )
    return replace(request, width=found.width, height=found.height, num_frames=frames, frame_rate=found.frame_rate)


def encode_source(models: Models, request: Request) -> Source:
    """Latents of the source of a request that ``sized_by_source`` has made."""
    from ltx_native.media import load_video, read_audio, to_stereo

    path = request.source_video_path
    assert path is not None
    assert request.height is not None
    assert request.width is not None
    assert request.num_frames is not None
    assert request.frame_rate is not None
    pixels = load_video(path, request.height, request.width, request.num_frames)
    with models.use("video_encoder") as encoder:
        video = encoder(mx.array(pixels).astype(models.dtype))
        mx.eval(video)
        del encoder, pixels  # a name left behind would keep the weights in memory beside the next component's
    sound = read_audio(path)
    if sound is None:
        return Source(video, None)
    frames = audio_latent_frames(request.num_frames, request.frame_rate)
    return Source(video, fitted(encode_sound(models, to_stereo(sound)), frames))
