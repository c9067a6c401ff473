"""Every random draw of a run, in order: recorded, and replaced by given values where a noise file is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official.checks import BadInput
from reference_bridge.adapters.official.patches import ModuleView
from reference_bridge.probe import Recorder

# The first two draws of every mode are the initial noise of video and audio, so these names mean draws 0 and 1.
_ALIASES = {"draw.00000": "video", "draw.00001": "audio"}


def read_noise(path: Path) -> dict[str, Any]:
    """Draws by key: `draw.00000`, `draw.00001`, … or `video` and `audio` for the first two. Raises `BadInput`."""
    from safetensors.torch import load_file

    tensors: dict[str, Any] = load_file(path)
    for key, tensor in tensors.items():
        if key not in ("video", "audio") and not (key.startswith("draw.") and key[5:].isdigit()):
            raise BadInput("unknown draw", f"--noise {path}", key, "video, audio or draw.NNNNN", "Rename the key.")
        if not bool(tensor.isfinite().all()):
            raise BadInput("noise that is not finite", f"--noise {path}", key, "finite values", "Make the file again.")
    return tensors


class Draws:
    """Stands where the official code calls `torch.randn`. With `given` values every draw must be among them."""

    def __init__(self, recorder: Recorder | None, given: dict[str, Any] | None) -> None:
        self.recorder = recorder
        self.given = given
        self.count = 0

    def take(self, kind: str, modality: str, shape: tuple[int, ...], dtype: Any, draw: Callable[[], Any], **about: Any) -> Any:
        """One draw. `kind` is "gaussian" or "sde"; `about` is recorded beside it."""
        key = f"draw.{self.count:05d}"
        index, self.count = self.count, self.count + 1
        value = draw() if self.given is None else self._given(key, modality, shape, dtype)
        if self.recorder is not None:
            site = f"noise.{modality}" if kind == "gaussian" else f"noise.{kind}.{modality}"
            self.recorder.value(site, "value", kind, {**about, "draw": index}, value)
        return value

    def _given(self, key: str, modality: str, shape: tuple[int, ...], dtype: Any) -> Any:
        assert self.given is not None
        tensor = self.given.get(key, self.given.get(_ALIASES.get(key, key)))
        if tensor is None:
            found = ", ".join(sorted(self.given)) or "nothing"
            what = f"{key} ({modality}, {json.dumps(shape)})"
            raise BadInput("the noise file lacks a draw", "--noise", found, what, "Add it to the file.")
        if tuple(tensor.shape) != tuple(shape):
            found, what = json.dumps(tuple(tensor.shape)), json.dumps(shape)
            raise BadInput(f"noise of the wrong shape for {key} ({modality})", "--noise", found, what, "Match it.")
        return tensor.to(dtype)


def modality_of(state: Any) -> str:
    """Positions have three axes for video and one for audio."""
    return "video" if state.positions.shape[1] == 3 else "audio"


def install(draws: Draws) -> None:
    """Route the initial noise and the SDE noise of the res_2s sampler through `draws`."""
    import torch
    from ltx_core.components import noisers
    from ltx_pipelines.utils import samplers

    noise = noisers.GaussianNoiser.__call__
    inject = samplers._inject_sde_noise

    def noised(self: Any, latent_state: Any, noise_scale: Any = 1.0) -> Any:
        def randn(*shape: int, **kwargs: Any) -> Any:
            def draw() -> Any:
                return torch.randn(*shape, **kwargs)

            about = {"noise_scale": float(noise_scale)}
            return draws.take("gaussian", modality_of(latent_state), shape, kwargs["dtype"], draw, **about)

        noisers.torch = ModuleView(torch, randn=randn)
        return noise(self, latent_state, noise_scale)

    def sde_injected(state: Any, new_noise_fn: Callable[..., Any], **kwargs: Any) -> Any:
        def new_noise(latent: Any, generator: Any) -> Any:
            def draw() -> Any:
                return new_noise_fn(latent, generator)

            return draws.take("sde", modality_of(state), tuple(latent.shape), torch.float64, draw)

        return inject(state=state, new_noise_fn=new_noise, **kwargs)

    noisers.GaussianNoiser.__call__ = noised
    samplers._inject_sde_noise = sde_injected
