"""The places of the official pipelines that the probe records: modules as they are built, functions as they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from reference_bridge.adapters.official.draws import modality_of
from reference_bridge.adapters.official.patches import replace_everywhere
from reference_bridge.probe import Recorder, bound, tap_torch
from reference_bridge.probe_trace import Tree

# Which method of a ModelLedger builds which component.
BUILDERS = {
    "transformer": "transformer",
    "video_encoder": "video_encoder",
    "video_decoder": "video_decoder",
    "audio_encoder": "audio_encoder",
    "audio_decoder": "audio_decoder",
    "vocoder": "vocoder",
    "text_encoder": "gemma",
    "gemma_embeddings_processor": "embeddings_processor",
    "spatial_upsampler": "upsampler",
}
# Modules that are entered by another method than `forward`, or, when decoding in tiles, by `forward` past the hooks.
ENTRIES = {"EmbeddingsProcessor": "process_hidden_states", "MelSTFT": "mel_spectrogram", "VideoDecoder": "forward"}


def _tokens_of_block(output: Any) -> Any:
    """What a transformer block made of the arguments that it hands on: the tokens of each modality."""
    return tuple(None if arguments is None else {"x": arguments.x} for arguments in output)


OWN_OUTPUTS: dict[str, Callable[[Any], Any]] = {"BasicAVTransformerBlock": _tokens_of_block}


class OfficialSites:
    """Installs taps and function sites for one run; `finish` records what a pipeline returns without passing a site."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._states: dict[str, Any] = {}
        self._guiders: dict[int, str] = {}
        self._passes: Iterator[str] = iter(())
        self._modality: str | None = None
        self._velocity: Any = None
        self._pixels: Any = None

    def install(self) -> None:
        self._tap_builders()
        self._text()
        self._schedule_and_stages()
        self._noising()
        self._denoising()
        self._sampling()
        self._decoding()

    # Components ---------------------------------------------------------------------------------------------------

    def _tap_builders(self) -> None:
        from ltx_pipelines.utils.model_ledger import ModelLedger

        for method, component in BUILDERS.items():
            setattr(ModelLedger, method, self._tapping(component, getattr(ModelLedger, method)))

    def _tapping(self, component: str, build: Callable[..., Any]) -> Callable[..., Any]:
        def built(ledger: Any) -> Any:
            model = build(ledger)
            if component == "gemma":
                self._tap_gemma(model.model.model)
            elif component == "transformer":
                tap_torch(self.recorder, component, model.velocity_model, own=OWN_OUTPUTS)
                self._tap_denoiser(model)
            else:
                tap_torch(self.recorder, component, model, ENTRIES)
            if component == "video_decoder":
                self._watch_pixels(model)
            return model

        return built

    def _tap_gemma(self, model: Any) -> None:
        """The root's record holds what the encoder takes and gives: ids, mask, and all hidden states."""
        language_model = getattr(model, "language_model", model)
        model.register_forward_pre_hook(self._valid_tokens, with_kwargs=True)
        tap_torch(self.recorder, "gemma", language_model, skip_root=True)
        if self.recorder.wants("gemma"):
            recorder, waiting = self.recorder, list[dict[str, Tree]]()

            def before(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
                with recorder.timed():
                    waiting.append(recorder.inputs({n: kwargs[n] for n in ("input_ids", "attention_mask")}))

            def after(_: Any, args: Any, kwargs: Any, output: Any) -> None:
                with recorder.timed():
                    name = type(language_model).__name__
                    recorder.emit("gemma", "module", name, waiting.pop(), list(output.hidden_states))

            model.register_forward_pre_hook(before, with_kwargs=True)
            model.register_forward_hook(after, with_kwargs=True)

    def _valid_tokens(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.recorder.masks["gemma"] = kwargs["attention_mask"]

    def _tap_denoiser(self, x0_model: Any) -> None:
        """One call of the X0 model is one guidance pass."""

        def before(_: Any, args: Any) -> None:
            self.recorder.guidance_pass = next(self._passes, None)

        def velocity(_: Any, args: Any, output: Any) -> None:
            self._velocity = output

        def after(_: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            modalities = {"video": kwargs["video"], "audio": kwargs["audio"]}
            inputs = {
                name: {"sample": m.latent, "velocity": v, "sigma": m.timesteps}
                for (name, m), v in zip(modalities.items(), self._velocity, strict=True)
                if m is not None
            }
            outputs = dict(zip(modalities, output, strict=True))
            self.recorder.value("denoised", "function", "X0Model", inputs, outputs)
            self.recorder.guidance_pass, self._velocity = None, None

        x0_model.register_forward_pre_hook(before)
        x0_model.velocity_model.register_forward_hook(velocity)
        x0_model.register_forward_hook(after, with_kwargs=True)

    def _watch_pixels(self, decoder: Any) -> None:
        """Keep the float pixels of the chunk that is about to be converted to 8 bits."""

        def seen(_: Any, args: Any, output: Any) -> None:
            self._pixels = output

        def tiled_decode(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for chunk in tiled(*args, **kwargs):
                self._pixels = chunk
                yield chunk

        tiled = decoder.tiled_decode
        decoder.tiled_decode = tiled_decode
        decoder.register_forward_hook(seen)

    # Functions ----------------------------------------------------------------------------------------------------

    def _text(self) -> None:
        import torch
        from ltx_core.model.audio_vae.ops import AudioProcessor
        from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer

        tokenize, waveform_to_mel = LTXVGemmaTokenizer.tokenize_with_weights, AudioProcessor.waveform_to_mel

        def tokenized(tokenizer: Any, text: str, *args: Any, **kwargs: Any) -> Any:
            pairs = tokenize(tokenizer, text, *args, **kwargs)
            ids, mask = (torch.tensor([[int(pair[i]) for pair in pairs["gemma"]]]) for i in (0, 1))
            outputs = {"input_ids": ids, "attention_mask": mask}
            self.recorder.value("tokenizer", "function", "LTXVGemmaTokenizer", {"text": text}, outputs)
            return pairs

        def mel(processor: Any, audio: Any) -> Any:
            result = waveform_to_mel(processor, audio)
            self.recorder.value("audio_processor", "function", "AudioProcessor", {"audio": audio}, result)
            return result

        LTXVGemmaTokenizer.tokenize_with_weights = tokenized
        AudioProcessor.waveform_to_mel = mel

    def _schedule_and_stages(self) -> None:
        import inspect

        from ltx_core.components.schedulers import LTX2Scheduler
        from ltx_core.model.upsampler import upsample_video
        from ltx_pipelines.utils import helpers

        execute = LTX2Scheduler.execute
        signature = inspect.signature(execute)

        def executed(*args: Any, **kwargs: Any) -> Any:
            sigmas = execute(*args, **kwargs)
            inputs = {n: v for n, v in bound(signature, args, kwargs).items() if n != "self"}
            # Only the shape of a latent matters here, and the official code leaves its memory uninitialised.
            inputs["latent"] = None if inputs["latent"] is None else list(inputs["latent"].shape)
            self.recorder.value("schedule", "function", "LTX2Scheduler", inputs, sigmas)
            return sigmas

        def upsampled(*args: Any, **kwargs: Any) -> Any:
            self.recorder.stage = "stage_2"
            return upsample_video(*args, **kwargs)

        LTX2Scheduler.execute = executed
        replace_everywhere(upsample_video, upsampled)
        for denoise in (helpers.denoise_audio_video, helpers.denoise_video_only):
            replace_everywhere(denoise, self._stage_of(denoise))

    def _stage_of(self, denoise: Callable[..., Any]) -> Callable[..., Any]:
        def denoised(*args: Any, **kwargs: Any) -> Any:
            if not self.recorder.seen("schedule"):
                self.recorder.value("schedule", "value", "list", {}, kwargs["sigmas"])
            result = denoise(*args, **kwargs)
            for name, state in zip(("video", "audio"), result if isinstance(result, tuple) else (result,), strict=False):
                self._final(name, state.latent)
            return result

        return denoised

    def _final(self, modality: str, latent: Any) -> None:
        if not self.recorder.seen(f"latent.{modality}"):
            self.recorder.value(f"latent.{modality}", "value", "Tensor", {}, latent)

    def _noising(self) -> None:
        from ltx_core.components.noisers import GaussianNoiser

        noise = GaussianNoiser.__call__

        def noised(noiser: Any, latent_state: Any, noise_scale: Any = 1.0) -> Any:
            state = noise(noiser, latent_state, noise_scale)
            fields = {name: value for name, value in vars(state).items() if value is not None}
            inputs = {"latent": latent_state.latent, "noise_scale": float(noise_scale)}
            self.recorder.value(f"state.{modality_of(state)}", "value", "LatentState", inputs, fields)
            return state

        GaussianNoiser.__call__ = noised

    def _denoising(self) -> None:
        from ltx_core.components.guiders import MultiModalGuider
        from ltx_pipelines.utils import helpers

        guided, simple, calculate = (
            helpers.multi_modal_guider_denoising_func,
            helpers.simple_denoising_func,
            MultiModalGuider.calculate,
        )

        def guided_func(video_guider: Any, audio_guider: Any, *args: Any, **kwargs: Any) -> Any:
            pair = (video_guider, audio_guider)
            passes = ["cond"]
            passes += ["uncond"] * any(g.do_unconditional_generation() for g in pair)
            passes += ["stg"] * any(g.do_perturbed_generation() for g in pair)
            passes += ["modality"] * any(g.do_isolated_modality_generation() for g in pair)
            guiders = {id(video_guider): "video", id(audio_guider): "audio"}
            return self._step_of(guided(video_guider, audio_guider, *args, **kwargs), passes, guiders)

        def simple_func(*args: Any, **kwargs: Any) -> Any:
            return self._step_of(simple(*args, **kwargs), ["cond"], {})

        def calculated(guider: Any, cond: Any, uncond_text: Any, uncond_perturbed: Any, uncond_modality: Any) -> Any:
            result = calculate(guider, cond, uncond_text, uncond_perturbed, uncond_modality)
            inputs = {
                "cond": cond,
                "uncond_text": uncond_text,
                "uncond_perturbed": uncond_perturbed,
                "uncond_modality": uncond_modality,
                "params": guider.params,
            }
            site = f"guidance.{self._guiders[id(guider)]}"
            self.recorder.value(site, "function", "MultiModalGuider", inputs, result)
            return result

        replace_everywhere(guided, guided_func)
        replace_everywhere(simple, simple_func)
        MultiModalGuider.calculate = calculated

    def _step_of(self, denoise: Callable[..., Any], passes: list[str], guiders: dict[int, str]) -> Callable[..., Any]:
        def step(video_state: Any, audio_state: Any, sigmas: Any, step_index: int) -> Any:
            # The res_2s sampler evaluates its midpoint with a one-entry schedule: still the same step.
            if sigmas.numel() > 1:
                self.recorder.step = int(step_index)
            self._states = {"video": video_state, "audio": audio_state}
            self._passes, self._guiders = iter(passes), guiders
            return denoise(video_state, audio_state, sigmas, step_index)

        return step

    def _modality_of(self, tensor: Any, field: str) -> str:
        """The modality of a tensor that is a field of one of the two states of this step."""
        if self._modality is not None:
            return self._modality
        return next(name for name, state in self._states.items() if getattr(state, field) is tensor)

    def _sampling(self) -> None:
        from ltx_core.components.diffusion_steps import EulerDiffusionStep, Res2sDiffusionStep
        from ltx_pipelines.utils import helpers, samplers

        blend, inject = helpers.post_process_latent, samplers._inject_sde_noise

        def post_processed(denoised: Any, denoise_mask: Any, clean: Any) -> Any:
            result = blend(denoised, denoise_mask, clean)
            site = f"post_process.{self._modality_of(clean, 'clean_latent')}"
            inputs = {"denoised": denoised, "denoise_mask": denoise_mask, "clean": clean}
            self.recorder.value(site, "function", "post_process_latent", inputs, result)
            return result

        def injected(state: Any, **kwargs: Any) -> Any:
            self._modality = modality_of(state)
            try:
                return inject(state=state, **kwargs)
            finally:
                self._modality = None

        replace_everywhere(blend, post_processed)
        samplers._inject_sde_noise = injected
        for stepper in (EulerDiffusionStep, Res2sDiffusionStep):
            stepper.step = self._sampled(stepper.__name__, stepper.step)
        for loop in (samplers.euler_denoising_loop, samplers.res2s_audio_video_denoising_loop):
            replace_everywhere(loop, self._loop_of(loop))

    def _sampled(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def sampled(stepper: Any, sample: Any, denoised_sample: Any, sigmas: Any, step_index: int, **kwargs: Any) -> Any:
            result = step(stepper, sample, denoised_sample, sigmas, step_index, **kwargs)
            inputs = {"sample": sample, "denoised_sample": denoised_sample, "sigmas": sigmas, "step_index": step_index}
            site = f"sampler.{self._modality_of(sample, 'latent')}"
            self.recorder.value(site, "function", name, {**inputs, **kwargs}, result)
            return result

        return sampled

    def _loop_of(self, loop: Callable[..., Any]) -> Callable[..., Any]:
        def looped(*args: Any, **kwargs: Any) -> Any:
            result = loop(*args, **kwargs)
            self.recorder.step, self._states = None, {}
            return result

        return looped

    def _decoding(self) -> None:
        from ltx_core.model.audio_vae import decode_audio
        from ltx_core.model.video_vae import decode_video

        def frames(latent: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            self._final("video", latent)
            for chunk in decode_video(latent, *args, **kwargs):
                pixels = self._pixels[0].permute(1, 2, 3, 0)  # (F, H, W, 3)
                self.recorder.value("frames", "value", "Tensor", {}, {"pixels": pixels, "frames": chunk})
                yield chunk

        def sound(latent: Any, *args: Any, **kwargs: Any) -> Any:
            self._final("audio", latent)
            audio = decode_audio(latent, *args, **kwargs)
            self.waveform(audio)
            return audio

        replace_everywhere(decode_video, frames)
        replace_everywhere(decode_audio, sound)

    def waveform(self, audio: Any) -> None:
        """Record the sound once, where it was decoded or, when it was handed through, where the pipeline returns it."""
        if not self.recorder.seen("waveform"):
            outputs = {"audio": audio.waveform, "sampling_rate": int(audio.sampling_rate)}
            self.recorder.value("waveform", "value", "Audio", {}, outputs)
