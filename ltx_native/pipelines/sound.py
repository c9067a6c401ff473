"""Sound that comes in: read, and encoded into audio latents of the clip's length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from ltx_native.errors import RequestError
from ltx_native.models import Models

if TYPE_CHECKING:
    from ltx_native.media import Audio


def read_sound(path: str, seconds: float) -> Audio:
    """The first ``seconds`` of a file, in stereo. Raises UserError when there is none."""
    from ltx_native.media import read_audio, to_stereo

    sound = read_audio(path, max_duration=seconds)
    if sound is None:
        raise RequestError("there is no sound in the file", "audio_path", path, "a file with sound", "Give another file")
    return to_stereo(sound)


def encode_sound(models: Models, sound: Audio) -> mx.array:
    """(1, T, 16, 8), about 25 latent frames per second."""
    from ltx_native.media import log_mel

    mel = log_mel(sound, models.checkpoint.config.audio_vae)
    with models.use("audio_encoder") as encoder:
        latent = encoder(mx.array(mel).astype(models.dtype))
        mx.eval(latent)
    return latent


def fitted(latent: mx.array, frames: int) -> mx.array:
    """Cut to ``frames``, or continued with zeros."""
    missing = frames - latent.shape[1]
    if missing <= 0:
        return latent[:, :frames]
    return mx.pad(latent, [(0, 0), (0, missing), (0, 0), (0, 0)])
