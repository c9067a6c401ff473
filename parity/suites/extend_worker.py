"""Run BY THE REFERENCE'S interpreter: the official retake pipeline on a clip that is longer than its source.

    python extend_worker.py LATENT_FRAMES before|after generate --mode retake …

The official packages extend nothing. Their retake keeps some tokens of a clip and denoises the others, and so does an
extension: only which tokens are kept, and where the source lies in the clip, is said anew here. Everything else, from
text encoding to the file, is the official code under the adapter that records it.
"""

from __future__ import annotations

import sys
from typing import Any

from reference_bridge.adapters.official.__main__ import main

TIME_SCALE = 8


def install(added: int, before: bool) -> None:
    """Make `ltx_pipelines.retake` extend its source by `added` latent frames."""
    import torch
    from ltx_pipelines import retake

    given: dict[str, int] = {}  # tokens of the source by modality
    metadata, encode_video, encode_audio = (
        retake.get_videostream_metadata,
        retake._encode_video_for_retake,
        retake._encode_audio_for_retake,
    )

    def grown(latent: Any, length: int) -> Any:
        """Zeros before or after a latent (B, C, T, …) up to `length`."""
        new = torch.zeros_like(latent[:, :, :1]).repeat_interleave(length - latent.shape[2], dim=2)
        return torch.cat([new, latent] if before else [latent, new], dim=2)

    def grown_metadata(path: str) -> tuple[float, int, int, int]:
        rate, frames, width, height = metadata(path)
        return rate, frames + TIME_SCALE * added, width, height

    def grown_video(**arguments: Any) -> Any:
        latent = encode_video(**arguments)
        given["video"] = latent.shape[2] * latent.shape[3] * latent.shape[4]
        return grown(latent, latent.shape[2] + added)

    def grown_audio(output_shape: Any, **arguments: Any) -> Any:
        source = output_shape._replace(frames=output_shape.frames - TIME_SCALE * added)
        latent = encode_audio(output_shape=source, **arguments)
        given["audio"] = latent.shape[2]
        return grown(latent, retake.AudioLatentShape.from_video_pixel_shape(output_shape).frames)

    class KeptTokens:
        def __init__(self, **region: float) -> None:
            pass

        def apply_to(self, latent_state: Any, latent_tools: Any) -> Any:
            state = latent_state.clone()
            count = given["video" if hasattr(latent_tools.target_shape, "height") else "audio"]
            state.denoise_mask.fill_(1)
            (state.denoise_mask[:, -count:] if before else state.denoise_mask[:, :count]).fill_(0)
            return state

    retake.get_videostream_metadata = grown_metadata
    retake._encode_video_for_retake = grown_video
    retake._encode_audio_for_retake = grown_audio
    retake.TemporalRegionMask = KeptTokens


if __name__ == "__main__":
    install(int(sys.argv[1]), sys.argv[2] == "before")
    sys.exit(main(sys.argv[3:]))
