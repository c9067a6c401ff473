"""Official parameters straight from the checkpoint's files, by the official module's own names; never through the port."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from parity.hypotheses.base import Array

_DIT = "model.diffusion_model."
# component -> (prefix in the file, prefix of the official module); the longest that fits wins
_PREFIXES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "transformer": ((_DIT, ""),),
    "embeddings_processor": (
        ("text_embedding_projection.", "feature_extractor."),
        (f"{_DIT}video_embeddings_connector.", "video_connector."),
        (f"{_DIT}audio_embeddings_connector.", "audio_connector."),
    ),
    "video_decoder": (("vae.decoder.", ""), ("vae.per_channel_statistics.", "per_channel_statistics.")),
    "video_encoder": (("vae.encoder.", ""), ("vae.per_channel_statistics.", "per_channel_statistics.")),
    "audio_decoder": (("audio_vae.decoder.", ""), ("audio_vae.per_channel_statistics.", "per_channel_statistics.")),
    "audio_encoder": (("audio_vae.encoder.", ""), ("audio_vae.per_channel_statistics.", "per_channel_statistics.")),
    "vocoder": (("vocoder.", ""),),
    "gemma": (("language_model.model.", ""), ("model.language_model.", ""), ("model.", "")),
    "upsampler": (("", ""),),
}
# Where a component's settings stand in the config that the file states.
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "transformer": ("transformer",),
    "embeddings_processor": ("transformer",),
    "video_decoder": ("vae",),
    "video_encoder": ("vae",),
    "vocoder": ("vocoder",),
}


class Official:
    """Files of a checkpoint: the model, Gemma's folder, the upsampler. PyTorch's axes throughout."""

    def __init__(self, model: Path, gemma: Path, upsampler: Path | None) -> None:
        self.model, self.gemma, self.upsampler = model, gemma, upsampler
        self._read: dict[str, dict[str, Array]] = {}

    def parameters(self, component: str) -> dict[str, Array]:
        """All parameters of a component by official name, float32. Raises `LookupError` for an unknown component."""
        if component not in self._read:
            self._read[component] = dict(self._load(component))
        return self._read[component]

    def _load(self, component: str) -> Iterator[tuple[str, Array]]:
        prefixes = _PREFIXES[component]
        for path in self._files(component):
            with safe_open(path, framework="np") as file:
                for key in file.keys():  # noqa: SIM118
                    if component == "transformer" and "_embeddings_connector." in key:
                        continue
                    fits = [(old, new) for old, new in prefixes if key.startswith(old)]
                    if fits:
                        old, new = max(fits, key=lambda pair: len(pair[0]))
                        yield new + key.removeprefix(old), _float32(path, file, key)

    def _files(self, component: str) -> list[Path]:
        if component == "gemma":
            return sorted(self.gemma.glob("*.safetensors"))
        if component == "upsampler":
            return [self.upsampler] if self.upsampler else []
        return [self.model]

    def parameter(self, site: str, name: str) -> Array | None:
        """A parameter of the module at a site, e.g. (`transformer.transformer_blocks.0.ff.net.0`, `proj.weight`)."""
        component, _, path = site.partition(".")
        return self.parameters(component).get(f"{path}.{name}" if path else name)

    def _upsampler_config(self) -> Mapping[str, Any]:
        if self.upsampler is None:
            return {}
        with safe_open(self.upsampler, framework="np") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get("config", "{}"))
        return found

    @cached_property
    def stated(self) -> dict[str, Any]:
        with safe_open(self.model, framework="np") as file:
            found: dict[str, Any] = json.loads(file.metadata()["config"])
        return found

    @cached_property
    def text(self) -> dict[str, Any]:
        config = json.loads((self.gemma / "config.json").read_text(encoding="utf-8"))
        return dict(config.get("text_config", config))

    def config(self, component: str) -> Mapping[str, Any]:
        """What the checkpoint's own config says of a component."""
        if component == "gemma":
            return self.text
        if component == "upsampler":
            return self._upsampler_config()
        found: Any = self.stated
        for name in _SECTIONS.get(component, ()):
            found = found.get(name, {})
        return dict(found)


def _float32(path: Path, file: Any, key: str) -> Array:
    if file.get_slice(key).get_dtype() != "BF16":
        return np.asarray(file.get_tensor(key)).astype(np.float32)
    # NumPy has no bfloat16: its bits are the upper half of a float32's, and stand in the file as they are
    with path.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        entry = json.loads(handle.read(size))[key]
        start, stop = entry["data_offsets"]
        handle.seek(8 + size + start)
        upper = np.frombuffer(handle.read(stop - start), dtype="<u2").astype(np.uint32)
    return (upper << 16).view(np.float32).reshape(entry["shape"])
