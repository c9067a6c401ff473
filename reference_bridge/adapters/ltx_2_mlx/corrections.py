"""Changes to the external CLI, in memory and on demand, that take away one known departure from the official code each.

They prove a departure: without the correction a site differs, with it the site agrees. They are off unless asked for by name,
and a trace names those that were on. Runs under the CLI's interpreter.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

_ENCODER = "ltx_core_mlx.text_encoders.gemma.encoders.base_encoder"
_VOCODER = "ltx_core_mlx.model.audio_vae"


class Namespace:
    """Stands for `mlx.core` in one module of the CLI, with some names replaced."""

    def __init__(self, real: Any, **replaced: Any) -> None:
        self._real, self._replaced = real, replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced[name] if name in self._replaced else getattr(self._real, name)


def gemma_final_norm() -> None:
    """The last of Gemma's hidden states goes through the model's final norm."""
    owner = importlib.import_module(_ENCODER).GemmaLanguageModel
    real = owner.get_all_hidden_states

    def states(self: Any, *args: Any, **kwargs: Any) -> Any:
        inner = self._model
        for name in ("model", "language_model", "model"):
            inner = getattr(inner, name, inner)
            if hasattr(inner, "embed_tokens"):
                break
        found = real(self, *args, **kwargs)
        return [*found[:-1], inner.norm(found[-1])]

    owner.get_all_hidden_states = states


def gemma_embed_scale() -> None:
    """The square root of the width that scales embeddings is not rounded to bfloat16."""
    import mlx.core as mx

    module: Any = importlib.import_module(_ENCODER)
    module.mx = Namespace(mx, bfloat16=mx.float32)


def float32_latents() -> None:
    """Latents, timesteps and denoised estimates stay in float32; the initial noise keeps its rounding to bfloat16."""
    import mlx.core as mx

    for name in ("ltx_core_mlx.model.transformer.model", "ltx_pipelines_mlx.utils.samplers"):
        module: Any = importlib.import_module(name)
        module.mx = Namespace(mx, bfloat16=mx.float32)
    _everywhere("ltx_pipelines_mlx.utils.helpers", "create_noised_state", _in_float32)


def _in_float32(real: Callable[..., Any]) -> Callable[..., Any]:
    def created(*args: Any, **kwargs: Any) -> Any:
        import mlx.core as mx

        state = real(*args, **kwargs)
        for name in ("latent", "clean_latent", "denoise_mask"):
            object.__setattr__(state, name, getattr(state, name).astype(mx.float32))
        return state

    return created


def schedule_tokens() -> None:
    """The schedule is shifted for 4096 tokens whatever the size, as the official pipelines do."""

    def without_tokens(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda steps, num_tokens=4096, **kwargs: real(steps, **kwargs)

    _everywhere("ltx_pipelines_mlx.scheduler", "ltx2_schedule", without_tokens)


def vocoder_clamp() -> None:
    """The first generator's waveform is clamped to [-1, 1], not squashed by tanh."""
    import mlx.core as mx

    module: Any = importlib.import_module(f"{_VOCODER}.bwe")
    module.mx = Namespace(mx, tanh=lambda x: mx.clip(x, -1.0, 1.0))


def vocoder_edges() -> None:
    """Anti-aliased upsampling repeats the edge samples before it spreads the signal, not zeros after it."""
    import mlx.core as mx

    def upsampled(self: Any, x: Any) -> Any:
        batch, _, channels = x.shape
        taps = self.filter.shape[1]
        pad = taps // 2 - 1
        left, right = 2 * pad + (taps - 2) // 2, 2 * pad + (taps - 1) // 2
        x = mx.concatenate([mx.repeat(x[:, :1], pad, axis=1), x, mx.repeat(x[:, -1:], pad, axis=1)], axis=1)
        spread = mx.zeros((batch, 2 * x.shape[1] - 1, channels))
        spread[:, ::2] = x
        spread = mx.pad(spread, [(0, 0), (taps - 1, taps - 1), (0, 0)]).transpose(0, 2, 1).reshape(batch * channels, -1, 1)
        y = 2.0 * mx.conv1d(spread, self.filter[:, ::-1])
        return y[:, left : y.shape[1] - right].reshape(batch, channels, -1).transpose(0, 2, 1)

    importlib.import_module(f"{_VOCODER}.vocoder").UpSample1d.__call__ = upsampled


CORRECTIONS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (gemma_final_norm, gemma_embed_scale, float32_latents, schedule_tokens, vocoder_clamp, vocoder_edges)
}


def apply(names: Sequence[str]) -> list[str]:
    """Apply the named corrections; what was changed, for the manifest. An unknown name ends the run."""
    unknown = set(names) - set(CORRECTIONS)
    if unknown:
        raise SystemExit(f"unknown corrections: {', '.join(sorted(unknown))}; known are {', '.join(CORRECTIONS)}")
    for name in names:
        CORRECTIONS[name]()
    return [f"correction {name}: {(CORRECTIONS[name].__doc__ or '').strip()}" for name in names]


def _everywhere(module: str, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    from reference_bridge.adapters.ltx_2_mlx.functions import replace_everywhere

    real = getattr(importlib.import_module(module), name)
    replace_everywhere(real, wrapper(real))
