"""The official components of a checkpoint, built one at a time by the packages' own ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reference_bridge.adapters.official.sites import BUILDERS, ENTRIES

_METHODS = {component: method for method, component in BUILDERS.items()}


class Components:
    """Component roots and their modules by site, cast to `dtype`. Only the last component built is kept."""

    def __init__(self, model: Path, gemma: Path | None, upsampler: Path | None, dtype: Any) -> None:
        import torch
        from ltx_pipelines.utils.model_ledger import ModelLedger

        self.dtype = dtype
        self._name: str | None = None
        self._root: Any = None
        self._ledger: Any = ModelLedger(
            # In bfloat16 the ledger casts what the checkpoint holds, and leaves computed tables in float32 as they are.
            dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32,
            device=torch.device("cpu"),
            checkpoint_path=str(model),
            gemma_root_path=None if gemma is None else str(gemma),
            spatial_upsampler_path=None if upsampler is None else str(upsampler),
        )

    def root(self, component: str) -> Any:
        """The component's root module: for `transformer` the velocity model, for `gemma` the text model's owner."""
        import torch

        if component != self._name:
            self._root = None
            built = getattr(self._ledger, _METHODS[component])()
            if component == "transformer":
                built = built.velocity_model
            elif component == "gemma":
                built = built.model.model
            self._name, self._root = component, built.double() if self.dtype == torch.float64 else built
        return self._root

    def call(self, site: str, arguments: dict[str, Any]) -> Any:
        """Run one module on these arguments, entering it as the pipelines do."""
        component, _, path = site.partition(".")
        root = self.root(component)
        if component == "gemma":
            if not path:
                return list(root(**arguments, output_hidden_states=True).hidden_states)
            root = getattr(root, "language_model", root)
        module = root.get_submodule(path)
        method = ENTRIES.get(type(module).__name__)
        return module(**arguments) if method is None else getattr(module, method)(**arguments)
