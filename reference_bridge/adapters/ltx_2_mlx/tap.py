"""Taps on the external CLI's MLX modules, by class swap, from inside its own process.

Runs under the CLI's interpreter; MLX and NumPy are imported inside functions. Values are kept lazy while the outermost tapped
call runs and written when it returns, so that looking does not cut the graph that MLX evaluates.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from reference_bridge.probe import Recorder, bound
from reference_bridge.probe_trace import Dump, Tree

# Roots are known by class when their weights are loaded; every version of the CLI loads each of them in one call.
ROOTS = {
    "LTXModel": "transformer",
    "TextEncoderConnector": "embeddings_processor",
    "VideoEncoder": "video_encoder",
    "VideoDecoder": "video_decoder",
    "AudioVAEEncoder": "audio_encoder",
    "AudioVAEDecoder": "audio_decoder",
    "VocoderWithBWE": "vocoder",
    "LatentUpsampler": "upsampler",
    "Model": "gemma",
}
# Methods by which roots are entered when it is not `__call__`.
ENTRIES = {"VideoDecoder": "decode", "VideoEncoder": "encode", "AudioVAEDecoder": "decode", "AudioVAEEncoder": "encode"}
# The CLI's module paths where they are not the official ones, by component.
RENAMED = {
    "embeddings_processor": (
        ("text_embedding_projection", "feature_extractor"),
        ("video_embeddings_connector", "video_connector"),
        ("audio_embeddings_connector", "audio_connector"),
    ),
    "transformer": (
        ("ff.proj_in", "ff.net.0.proj"),
        ("ff.proj_out", "ff.net.2"),
        (".linear1", ".linear_1"),
        (".linear2", ".linear_2"),
    ),
    "gemma": (("language_model.", ""), ("model.", "")),
}
PENDING_BYTES = 1 << 28


class MlxBackend:
    """MLX arrays for the probe."""

    def __init__(self) -> None:
        import mlx.core as mx
        import numpy as np

        self._mx, self._np = mx, np

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, self._mx.array)

    def dump(self, value: Any) -> Dump:
        dtype = str(value.dtype).rpartition(".")[2].replace("bool_", "bool")
        plain = value.astype(self._mx.float32) if dtype == "bfloat16" else value
        return Dump(self._np.array(plain).tobytes(), "float32" if dtype == "bfloat16" else dtype, dtype, tuple(value.shape))

    def special(self, value: object) -> Tree | None:
        return {"value": str(value)} if isinstance(value, self._mx.Dtype) else None


class Taps:
    """Swaps the classes of wanted modules as their roots are loaded, and records their calls at the recorder's place."""

    def __init__(self, recorder: Recorder) -> None:
        import mlx.core as mx
        import mlx.nn as nn
        from mlx.utils import tree_flatten

        self.recorder = recorder
        self._mx, self._nn, self._flatten = mx, nn, tree_flatten
        self._depth = 0
        self._block: tuple[str, str] | None = None
        self._queue: list[tuple[Any, ...]] = []
        self._held = 0
        self.tapped: list[str] = []

    def install(self) -> None:
        load = self._nn.Module.load_weights

        @functools.wraps(load)
        def load_weights(module: Any, *args: Any, **kwargs: Any) -> Any:
            result = load(module, *args, **kwargs)
            component = ROOTS.get(type(module).__name__)
            if component is not None:
                self._tap_root(component, module)
            return result

        self._nn.Module.load_weights = load_weights

    def _tap_root(self, component: str, root: Any) -> None:
        for path, module in root.named_modules():
            for old, new in RENAMED.get(component, ()):
                path = path.replace(old, new)
            path = _to_out(component, path)
            site = f"{component}.{path}" if path else component
            if self.recorder.wants(site) and not hasattr(type(module), "_tapped"):
                self.tapped.append(site)
                entry = ENTRIES.get(type(module).__name__, "__call__") if not path else "__call__"
                _swap(self, module, site, entry)

    @contextmanager
    def _inside(self, site: str, kwargs: Mapping[str, Any]) -> Iterator[str]:
        """The site of this call: one shared block serves all of them when blocks are streamed, and says which it is."""
        previous = self._block
        index = kwargs.get("block_idx")
        if isinstance(index, int) and site.startswith("transformer.transformer_blocks."):
            self._block = (site, f"transformer.transformer_blocks.{index}")
        if self._block is not None and site.startswith(self._block[0]):
            site = self._block[1] + site[len(self._block[0]) :]
        self._depth += 1
        try:
            yield site
        finally:
            self._depth -= 1
            self._block = previous

    def call(
        self, site: str, type_name: str, signature: inspect.Signature, real: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        with self._inside(site, kwargs) as here:
            inputs: dict[str, Any] = {}
            if not self.recorder.outputs_only:
                with self.recorder.timed():
                    inputs = {n: self._alias(v) for n, v in bound(signature, args, kwargs).items()}
            result = real(*args, **kwargs)
            self.record(here, "module", type_name, inputs, result)
        if self._depth == 0:
            self.flush()
        return result

    def record(self, site: str, kind: str, type_name: str, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Queue a record; it is written when the outermost call returns, or when much is held."""
        r = self.recorder
        if not r.wants(site):
            return
        with r.timed():
            # Alias the outputs too: `x[…] = v` changes the array object that the caller was given.
            held = self._alias(outputs)
            self._queue.append((site, kind, type_name, inputs, held, r.stage, r.step, r.guidance_pass))
            self._held += sum(leaf.nbytes for _, leaf in self._flatten([held]) if isinstance(leaf, self._mx.array))
        if self._depth == 0 or self._held > PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        r = self.recorder
        # The CLI's own work, done now rather than when the CLI would ask for it: not the probe's time.
        self._mx.eval([leaf for entry in self._queue for leaf in self._arrays(entry[3:5])])
        with r.timed():
            place = (r.stage, r.step, r.guidance_pass)
            for site, kind, type_name, inputs, outputs, *there in self._queue:
                r.stage, r.step, r.guidance_pass = there
                r.emit(site, kind, type_name, r.inputs(inputs), outputs)
            r.stage, r.step, r.guidance_pass = place
            self._queue, self._held = [], 0

    def _arrays(self, value: Any) -> list[Any]:
        return [leaf for _, leaf in self._flatten(list(value)) if isinstance(leaf, self._mx.array)]

    def _alias(self, value: Any) -> Any:
        """The same values under new array objects, so that a later in-place assignment does not reach them. No copy."""
        if isinstance(value, self._mx.array):
            return self._mx.stop_gradient(value)
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(self._alias(item) for item in value)
        if isinstance(value, dict) and not isinstance(value, self._nn.Module):
            return {name: self._alias(item) for name, item in value.items()}
        return value


def _to_out(component: str, path: str) -> str:
    if component == "transformer" and path.endswith(".to_out"):
        return f"{path}.0"
    return path


def _swap(taps: Taps, module: Any, site: str, entry: str) -> None:
    """Give one module a subclass of its class whose entry is recorded. Parameter names and `isinstance` stay as they are."""
    cls = type(module)
    real = getattr(cls, entry, None)
    if real is None:
        return
    signature = inspect.signature(real)

    signature = signature.replace(parameters=list(signature.parameters.values())[1:])  # without self

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        return taps.call(site, cls.__name__, signature, functools.partial(real, self), args, kwargs)

    module.__class__ = type(cls.__name__, (cls,), {entry: recorded, "_tapped": site, "__module__": cls.__module__})
