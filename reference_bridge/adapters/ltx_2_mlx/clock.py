"""Clocks on the external CLI's components and steps, from inside its own process. Records nothing else, changes no result.

Runs under the CLI's interpreter. MLX computes when somebody asks for a result, so a component's clock asks for it, and for the
weights before that: what was read from the disk late is loading all the same.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from reference_bridge.adapters.clocks import Clocks
from reference_bridge.adapters.ltx_2_mlx.tap import ENTRIES, ROOTS

_ENCODER = "ltx_core_mlx.text_encoders.gemma.encoders.base_encoder"
_AT_ONCE = ("transformer", "gemma")  # evaluated by the CLI itself as soon as they are loaded
# Functions whose work is loading, beside the modules' own: module, class, method. Absent ones do no work.
_LOADS = (
    (_ENCODER, "GemmaLanguageModel", "load"),
    ("ltx_pipelines_mlx.ti2vid_two_stages", "TI2VidTwoStagesPipeline", "_fuse_distilled_lora"),
)


class CliClocks(Clocks):
    """`install` before the CLI's main function runs. Not undone: the process ends."""

    def __init__(self) -> None:
        import mlx.core as mx
        import mlx.nn as nn
        from mlx.utils import tree_flatten

        self._mx, self._module, self._flatten = mx, nn.Module, tree_flatten
        super().__init__(self._settled)

    def _settled(self, result: Any) -> None:
        self._mx.eval(result)
        self._mx.synchronize()

    def install(self) -> None:
        load = self._module.load_weights

        @functools.wraps(load)
        def load_weights(module: Any, *args: Any, **kwargs: Any) -> Any:
            component = ROOTS.get(type(module).__name__)
            if component is None:
                return load(module, *args, **kwargs)
            with self.timing("load"):
                result = load(module, *args, **kwargs)
                if component in _AT_ONCE:
                    self._read(component, module)
            if component != "gemma":  # goes through its layers from outside
                self._clock(component, type(module))
            return result

        setattr(self._module, "load_weights", load_weights)  # noqa: B010  # MLX types it more narrowly than it is
        for module, owner, name in _LOADS:
            self._replace(module, owner, name, self._loading)
        self._replace(_ENCODER, "GemmaLanguageModel", "get_all_hidden_states", functools.partial(self.timed, "gemma"))
        importlib.import_module("ltx_pipelines_mlx.utils.samplers").tqdm = self.stepping  # type: ignore[attr-defined]

    def _read(self, component: str, module: Any) -> None:
        """Weights count when they are read: a component that is loaded and not used costs nothing."""
        self._mx.eval(module.parameters())
        self.weights[component] = sum(array.size for _, array in self._flatten(module.parameters()))

    def _loading(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def loading(*args: Any, **kwargs: Any) -> Any:
            with self.timing("load"):
                return real(*args, **kwargs)

        return loading

    def _replace(self, module: str, owner: str, name: str, wrap: Callable[[Callable[..., Any]], Any]) -> None:
        cls = getattr(importlib.import_module(module), owner, None)
        if cls is not None and hasattr(cls, name):
            setattr(cls, name, wrap(getattr(cls, name)))

    def _clock(self, component: str, cls: type) -> None:
        entry = ENTRIES.get(cls.__name__, "__call__")
        real = getattr(cls, entry)
        if hasattr(real, "_clocked"):
            return
        call = self.timed(component, real)
        signature = inspect.signature(real)
        loaded: set[int] = set()

        def clocked(module: Any, *args: Any, **kwargs: Any) -> Any:
            if id(module) not in loaded:
                loaded.add(id(module))
                with self.timing("load"):
                    self._read(component, module)
            if component != "transformer":
                return call(module, *args, **kwargs)
            given = signature.bind(module, *args, **kwargs).arguments
            self.saw_tokens(given["video_latent"], given["audio_latent"])
            return real(module, *args, **kwargs)  # lazily, as the loop wants it; its clock is the step's

        clocked._clocked = True  # type: ignore[attr-defined]
        setattr(cls, entry, clocked)
