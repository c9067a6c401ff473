"""What all modes are made of: prompts to contexts, states, denoising, decoding. Each part yields named stages."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ltx_native.conditioning import AudioTarget, ConditioningItem, LatentState, Target, VideoTarget, with_conditionings
from ltx_native.models import Models
from ltx_native.noise import Draws, Noise, add_noise
from ltx_native.patchify import SPACE_SCALE, TIME_SCALE, VideoLatentShape, audio_latent_frames
from ltx_native.pipelines.sound import read_sound
from ltx_native.request import Request, ResolvedRequest
from ltx_native.text_encoder.encoder import hidden_states_of_tail
from ltx_native.video_vae.streamed import streamed_decode
from ltx_native.video_vae.tiled import tiled_decode
from ltx_native.video_vae.tiling import TilingConfig

if TYPE_CHECKING:
    from ltx_native.media import Audio

#: Pixels of all frames up to which every layer may hold a whole clip: 768x512x121 has 48 million of them. An activation of
#: the decoder's last blocks then takes a gibibyte in bfloat16.
WHOLE_PIXELS = 2**26


@dataclass(frozen=True)
class Stage:
    """Something that is finished: its tensors by name, plain values beside them, and the step where there is one."""

    name: str
    tensors: Mapping[str, mx.array]
    step: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """A prompt as the transformer reads it."""

    video: mx.array  # (1, S, video width)
    audio: mx.array  # (1, S, audio width)
    mask: mx.array  # (1, S)


@dataclass(frozen=True)
class Run:
    """What a mode needs all the time.
    ``batch_guidance`` None batches the guidance passes when they fit into memory; False runs them one after the other
    with a timestep per token, exactly as the official code does (what a capture wants).
    """

    models: Models
    request: ResolvedRequest
    draws: Draws
    batch_guidance: bool | None = None
    sound: Audio | None = None  # stereo, as long as the clip at most

    @classmethod
    def of(cls, models: Models, request: Request, noise: Noise | None, batch_guidance: bool | None) -> Run:
        r = request.resolved()
        sound = None
        if r.effective_mode == "audio_ref_video":
            assert r.audio_path is not None
            sound = read_sound(r.audio_path, r.num_frames / r.frame_rate)
        return cls(models, r, Draws(r.seed, noise), batch_guidance, sound)

    @property
    def dtype(self) -> mx.Dtype:
        return self.models.dtype

    def video_target(self, factor: int = 1) -> VideoTarget:
        """The clip at 1/factor of the size asked for."""
        r = self.request
        return VideoTarget(VideoLatentShape.from_pixels(r.num_frames, r.height // factor, r.width // factor), r.frame_rate)

    def audio_target(self) -> AudioTarget:
        r = self.request
        return AudioTarget(audio_latent_frames(r.num_frames, r.frame_rate))


def encode_prompts(run: Run, prompts: Mapping[str, str]) -> Generator[Stage, None, dict[str, Context]]:
    """Tokens, hidden states and contexts of the prompts by name (positive, negative); returns them.

    Gemma is gone from memory before the embeddings processor is loaded.
    """
    with run.models.use("tokenizer") as tokenizer:
        tokens = {name: tokenizer(text, allow_empty=name != "positive") for name, text in prompts.items()}
    named = {f"{n}.{kind}": getattr(t, kind) for n, t in tokens.items() for kind in ("input_ids", "attention_mask")}
    yield Stage("tokens", named)

    states: dict[str, Sequence[mx.array]] = {}
    with run.models.use("gemma") as gemma:
        for name, one in tokens.items():
            # A capture wants all columns, the padding too; the contexts are the same either way.
            forward = gemma if run.batch_guidance is False else partial(hidden_states_of_tail, gemma)
            states[name] = forward(one.input_ids, one.attention_mask)
            mx.eval(states[name])
        del gemma, forward  # a name left behind would keep the weights in memory

    contexts: dict[str, Context] = {}
    with run.models.use("embeddings_processor") as processor:
        for name, one in tokens.items():
            contexts[name] = Context(*processor(states.pop(name), one.attention_mask))
            mx.eval(contexts[name].video, contexts[name].audio, contexts[name].mask)
        del processor
    yield Stage("context", {f"{n}.{k}": getattr(c, k) for n, c in contexts.items() for k in ("video", "audio", "mask")})
    return contexts


def noised_state(
    run: Run,
    target: Target,
    conditionings: Sequence[ConditioningItem] = (),
    initial: mx.array | None = None,
    noise_scale: float = 1.0,
    seed_offset: int = 0,
) -> LatentState:
    """Initial state of one modality: ``initial`` (or zeros), conditioned, then noised where the mask says so."""
    state = with_conditionings(target.initial_state(run.dtype, initial), list(conditionings), target)
    noise = run.draws.initial(tuple(state.latent.shape), run.dtype, seed_offset)
    return replace(state, latent=add_noise(noise, state.latent, state.denoise_mask, noise_scale))


def state_stage(video: LatentState, audio: LatentState, part: str) -> Stage:
    names = ("latent", "positions", "denoise_mask", "clean_latent")
    both = {"video": video, "audio": audio}
    return Stage("state", {f"{m}.{n}": getattr(s, n) for m, s in both.items() for n in names}, values={"stage": part})


def decoder_tiling(video: mx.array, whole: bool) -> TilingConfig | None:
    """How a latent (1, F, H, W, 128) is cut where modules are called as wholes: as officially (one stage in one go, all
    others in tiles), but a large clip always in tiles."""
    _, frames, height, width, _ = video.shape
    pixels = ((frames - 1) * TIME_SCALE + 1) * height * width * SPACE_SCALE**2
    return None if whole and pixels <= WHOLE_PIXELS else TilingConfig.default()


def decode(run: Run, video: mx.array, audio: mx.array, whole: bool = False) -> Iterator[Stage]:
    """Latents (1, F, H, W, 128) and (1, T, 16, 8) to frames, chunk by chunk, and the waveform.

    Tiles overlap and show in the picture, so each mode cuts as its official pipeline does. What is decoded ``whole`` goes
    through the decoder a few frames at a time, which gives the same picture; a literal run calls its modules as wholes
    (``decoder_tiling``). A sound that the request gives takes the decoded one's place: it is better than its own
    reconstruction.
    """
    rate = run.models.checkpoint.config.bwe.output_sampling_rate if run.sound is None else run.sound.sampling_rate
    yield Stage("latent", {"video": video, "audio": audio}, values={"sample_rate": rate, "frame_rate": run.request.frame_rate})
    with run.models.use("video_decoder") as decoder:
        streams = whole and run.batch_guidance is not False
        chunks = streamed_decode(decoder, video) if streams else tiled_decode(decoder, video, decoder_tiling(video, whole))
        for chunk in chunks:
            pixels = chunk[0]  # (n, H, W, 3)
            yield Stage("frames", {"frames": to_uint8(pixels)}, values={"pixels": pixels})
        del decoder, chunk, chunks, pixels
    if run.sound is not None:
        yield Stage("waveform", {"audio": mx.array(run.sound.waveform)}, values={"sample_rate": rate})
        return
    with run.models.use("audio_decoder") as decoder:
        mel = decoder(audio)
        mx.eval(mel)
        del decoder
    with run.models.use("vocoder") as vocoder:
        waveform = vocoder(mel)[0].astype(mx.float32).T  # (channels, samples)
        mx.eval(waveform)
        yield Stage("waveform", {"audio": waveform}, values={"sample_rate": rate})


def to_uint8(pixels: mx.array) -> mx.array:
    """[-1, 1] to 0..255 by truncation, as the official code writes frames."""
    return (mx.clip((pixels + 1.0) / 2.0, 0.0, 1.0) * 255.0).astype(mx.uint8)


def schedule_stage(sigmas: np.ndarray, part: str) -> Stage:
    return Stage("schedule", {"sigmas": mx.array(sigmas)}, values={"stage": part})
