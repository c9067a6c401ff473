"""What the external CLI computes outside modules: draws, schedules, states, guidance, sampling. Named as the official code's.

Functions are replaced in every loaded module that holds them, because the CLI imports them by name. Runs under the CLI's
interpreter. A function that a version lacks is left out and its name goes to `missing`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

from reference_bridge.adapters.ltx_2_mlx.tap import Taps
from reference_bridge.probe import bound

AUDIO_CHANNELS = 8  # of an audio latent (B, 8, T, 16), whose tokens are (B, T, 128)
_LOOPS = ("denoise_loop", "guided_denoise_loop", "res2s_denoise_loop")


class Functions:
    """Installs the function sites of one run and keeps track of its stage, step and guidance pass."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps
        self.recorder = taps.recorder
        self.missing: list[str] = []
        self._context: Any = None
        self._step = -1
        self._turn = {"guidance": 0, "post_process": 0, "sampler": 0}
        self._drawing: str | None = None
        self._draws = 0
        self._seed: int | None = None
        self._denoised_tokens: Any = None  # what the last loop gave

    def install(self) -> None:
        self._wrap("ltx_pipelines_mlx.scheduler", "ltx2_schedule", self._schedule)
        self._wrap("ltx_pipelines_mlx.utils.helpers", "create_noised_state", self._state)
        self._wrap("ltx_core_mlx.conditioning.types.latent_cond", "create_initial_state", self._state)
        self._wrap("ltx_core_mlx.conditioning.types.latent_cond", "noise_latent_state", self._state)
        self._wrap("ltx_core_mlx.conditioning.types.latent_cond", "apply_denoise_mask", self._turned("post_process"))
        self._wrap("ltx_pipelines_mlx.utils.samplers", "euler_step", self._turned("sampler"))
        for name in _LOOPS:
            self._wrap("ltx_pipelines_mlx.utils.samplers", name, self._loop)
        self._method("ltx_core_mlx.components.guiders", "MultiModalGuider", "calculate", self._turned("guidance"))
        self._method("ltx_core_mlx.model.transformer.model", "X0Model", "__call__", self._denoised)
        self._method("ltx_core_mlx.model.upsampler.model", "LatentUpsampler", "__call__", self._upsampled)
        encoder = "ltx_core_mlx.text_encoders.gemma.encoders.base_encoder"
        self._method(encoder, "GemmaLanguageModel", "tokenize", self._tokenizer)
        self._method(encoder, "GemmaLanguageModel", "get_all_hidden_states", self._gemma)
        self._method("ltx_pipelines_mlx._base", "BasePipeline", "_decode_and_save_video", self._latents)
        self._random()

    # Where in the run ---------------------------------------------------------------------------------------------

    def _loop(self, real: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(real)

        def looped(*args: Any, **kwargs: Any) -> Any:
            self._context, self._step, self._turn = None, -1, dict.fromkeys(self._turn, 0)
            sigmas = bound(signature, args, kwargs).get("sigmas")
            if not self.recorder.seen("schedule") and sigmas is not None:
                self.taps.record("schedule", "value", "list", {}, self.taps._mx.array(list(sigmas)))
            try:
                self._denoised_tokens = real(*args, **kwargs)
                return self._denoised_tokens
            finally:
                self.recorder.step = self.recorder.guidance_pass = None

        return looped

    def _enter_pass(self, context: Any, perturbations: Any) -> None:
        """Which guidance pass this call of the X0 model is: the first one of a step has the prompt and no perturbation."""
        if perturbations is not None:
            kinds = {p.type.name for config in perturbations.perturbations for p in config.perturbations}
            self.recorder.guidance_pass = "stg" if any("SELF_ATTN" in kind for kind in kinds) else "modality"
            return
        if self._context is None:
            self._context = context
        first = context is self._context
        self.recorder.guidance_pass = "cond" if first else "uncond"
        if first:
            self._step += 1
            self._turn = dict.fromkeys(self._turn, 0)
            self.recorder.step = self._step

    def _denoised(self, real: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(real)

        def denoised(model: Any, *args: Any, **kwargs: Any) -> Any:
            named = bound(signature, (model, *args), kwargs)
            self._enter_pass(named.get("video_text_embeds"), named.get("perturbations"))
            video, audio = real(model, *args, **kwargs)
            inputs: dict[str, Any] = {n: named[n] for n in ("video_latent", "audio_latent", "sigma") if n in named}
            self.taps.record("denoised", "function", "X0Model", inputs, {"video": video, "audio": audio})
            self.recorder.guidance_pass = None
            return video, audio

        return denoised

    def _upsampled(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def upsampled(model: Any, latent: Any, *args: Any, **kwargs: Any) -> Any:
            if self.recorder.stage != "stage_2":
                self._first_stage(latent.shape)
            self.recorder.stage = "stage_2"
            return real(model, latent, *args, **kwargs)

        return upsampled

    def _first_stage(self, shape: tuple[int, ...]) -> None:
        """The latents that the first stage ends with, from its tokens; `shape` is that of the video latent, (B, C, F, H, W).

        A loop gives appended keyframes after the clip's own tokens. Nothing comes through the CLI's own unpatchifier here
        for audio: a second stage goes on with the tokens.
        """
        tokens, output = math.prod(shape[2:]), self._denoised_tokens
        video, audio = getattr(output, "video_latent", None), getattr(output, "audio_latent", None)
        if video is not None:
            latent = video[:, :tokens].swapaxes(1, 2).reshape(shape)
            self.taps.record("latent.video", "value", "array", {}, latent)
        if audio is not None:
            latent = audio.reshape(*audio.shape[:2], AUDIO_CHANNELS, -1).swapaxes(1, 2)
            self.taps.record("latent.audio", "value", "array", {}, latent)

    # Sites --------------------------------------------------------------------------------------------------------

    def _turned(self, site: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A function that is called for video and then for audio in every step."""

        def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(real)

            def called(*args: Any, **kwargs: Any) -> Any:
                result = real(*args, **kwargs)
                modality = ("video", "audio")[self._turn[site] % 2]
                self._turn[site] += 1
                inputs = {n: v for n, v in bound(signature, args, kwargs).items() if n != "self"}
                if site == "guidance" and args:
                    inputs["params"] = args[0].params
                self.taps.record(f"{site}.{modality}", "function", real.__qualname__.split(".")[0], inputs, result)
                return result

            return called

        return wrap

    def _schedule(self, real: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(real)

        def scheduled(*args: Any, **kwargs: Any) -> Any:
            sigmas = real(*args, **kwargs)
            # Python floats are doubles; MLX has no use for them beyond float32.
            self.taps.record(
                "schedule", "function", "ltx2_schedule", bound(signature, args, kwargs), self.taps._mx.array(sigmas)
            )
            return sigmas

        return scheduled

    def _state(self, real: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(real)

        def noised(*args: Any, **kwargs: Any) -> Any:
            named = bound(signature, args, kwargs)
            positions = named.get("positions")
            if positions is None:
                positions = getattr(named.get("state"), "positions", None)
            previous, self._drawing = self._drawing, _modality(positions) or self._drawing
            try:
                state = real(*args, **kwargs)
                if previous is None and self._drawing:
                    fields = ("latent", "positions", "denoise_mask", "clean_latent")
                    outputs = {n: getattr(state, n) for n in fields if getattr(state, n, None) is not None}
                    inputs: dict[str, Any] = {n: named[n] for n in ("seed", "sigma") if n in named}
                    self.taps.record(f"state.{self._drawing}", "value", "LatentState", inputs, outputs)
                return state
            finally:
                self._drawing = previous

        return noised

    def _tokenizer(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def tokenized(encoder: Any, text: str, *args: Any, **kwargs: Any) -> Any:
            ids, mask = real(encoder, text, *args, **kwargs)
            outputs = {"input_ids": ids, "attention_mask": mask}
            self.taps.record("tokenizer", "function", "GemmaLanguageModel", {"text": text}, outputs)
            return ids, mask

        return tokenized

    def _gemma(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def states(encoder: Any, token_ids: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
            result = real(encoder, token_ids, attention_mask, **kwargs)
            inputs = {"input_ids": token_ids, "attention_mask": attention_mask}
            self.taps.record("gemma", "function", "GemmaLanguageModel", inputs, list(result))
            return result

        return states

    def _latents(self, real: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(real)

        def saved(*args: Any, **kwargs: Any) -> Any:
            named = bound(signature, args, kwargs)
            for modality in ("video", "audio"):
                self.taps.record(f"latent.{modality}", "value", "array", {}, named[f"{modality}_latent"])
            return real(*args, **kwargs)

        return saved

    def _random(self) -> None:
        """Every draw with its shape, type, order and the last seed before it."""
        import mlx.core as mx

        seed, normal = mx.random.seed, mx.random.normal

        def seeded(value: int) -> None:
            self._seed = value
            seed(value)

        def drawn(*args: Any, **kwargs: Any) -> Any:
            noise = normal(*args, **kwargs)
            if self._seed is not None:  # before the first seed MLX's layers initialise themselves, which nobody reads
                inputs = {"seed": self._seed, "draw": self._draws, "shape": list(noise.shape), "dtype": str(noise.dtype)}
                self._draws += 1
                self.taps.record(f"noise.{self._drawing or 'unknown'}", "value", "normal", inputs, noise)
            return noise

        setattr(mx.random, "seed", seeded)  # noqa: B010
        setattr(mx.random, "normal", drawn)  # noqa: B010

    # Replacing ----------------------------------------------------------------------------------------------------

    def _wrap(self, module: str, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        try:
            real = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            self.missing.append(f"{module}.{name}")
            return
        replace_everywhere(real, functools.wraps(real)(wrapper(real)))

    def _method(self, module: str, cls: str, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        try:
            owner = getattr(importlib.import_module(module), cls)
            real = getattr(owner, name)
        except (ImportError, AttributeError):
            self.missing.append(f"{module}.{cls}.{name}")
            return
        setattr(owner, name, functools.wraps(real)(wrapper(real)))


def replace_everywhere(old: Any, new: Any) -> None:
    """Put `new` where any loaded module of the CLI holds `old` under a name."""
    for loaded in list(sys.modules.values()):
        if getattr(loaded, "__name__", "").startswith(("ltx_core_mlx", "ltx_pipelines_mlx")):
            for attribute, value in list(vars(loaded).items()):
                if value is old:
                    setattr(loaded, attribute, new)


def _modality(positions: Any) -> str | None:
    """Positions of video tokens have three axes, those of audio tokens one."""
    return None if positions is None else "video" if positions.shape[-1] == 3 else "audio"
