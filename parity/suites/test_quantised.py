"""Quantised folders, float32 activations: native on q8 and q4 weights against the official code on what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.nn as nn
import pytest

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.convert import convert
from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import Case, Image
from parity.folders import cache_folder
from parity.plugin import Parity
from parity.results import CaseResult
from parity.session import Session
from parity.suites.inputs import make_inputs
from parity.suites.within import assert_within_bounds
from parity.world.dequantised import write_dequantised

#: 32 is the only published group size that divides every width of the tiny model.
GROUP_SIZE = 32


@dataclass
class QuantisedSession(Session):
    """Native reads the quantised folder ``split``; the official code reads `checkpoint`, the dequantised single file."""

    split: Path = Path()

    def native_checkpoint(self) -> NativeCheckpoint:
        return NativeCheckpoint.open(self.split, self.checkpoint.gemma, self.checkpoint.upsampler)


@pytest.fixture(scope="module", params=["q8", "q4"])
def folder(request: pytest.FixtureRequest, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quantised folder and the single file that means the same."""
    folder = tmp_path_factory.mktemp(request.param)
    convert(checkpoint.model, folder / "split", dtype=request.param, group_size=GROUP_SIZE)
    write_dequantised(folder / "split", checkpoint.model, folder / "dequantised.safetensors")
    return folder


@pytest.fixture(scope="module", params=["dequantise", "kernel"])
def quantised(request: pytest.FixtureRequest, checkpoint: Checkpoint, folder: Path) -> Iterator[Session]:
    """A session for each way to multiply: a CPU's own, and MLX's kernel, which is a GPU's."""
    files = Checkpoint(folder / "dequantised.safetensors", checkpoint.gemma, checkpoint.upsampler)
    output, cache = folder / request.param, ReferenceCache(folder / "reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTX_QUANTIZED", request.param)
        yield QuantisedSession(files, output, cache, split=folder / "split")


@pytest.fixture(scope="module")
def result(quantised: Session) -> CaseResult:
    """Text to video with an anchor: noise levels differ from token to token."""
    image = make_inputs(cache_folder() / "inputs").first_image
    case = replace(Case("i2v", steps=2), images=(Image(image, 0, 1.0),))
    return quantised.compare(case)


def test_every_site_is_within_its_bound(result: CaseResult, quantised: Session, parity: Parity) -> None:
    assert_within_bounds(result, parity, f"{quantised.output.parent.name} {quantised.output.name}")


def test_the_layers_compared_were_quantised_ones(result: CaseResult, quantised: Session) -> None:
    """What was compared is a quantised model, and another one than the one it was made of."""
    from ltx_native.models import Models

    assert not result.problem
    loaded = Models(quantised.native_checkpoint()).load_all(("transformer",))["transformer"]
    packed = {path for path, layer in loaded.named_modules() if isinstance(layer, nn.QuantizedLinear)}
    blocks = [path for path, layer in loaded.named_modules() if isinstance(layer, (nn.Linear, nn.QuantizedLinear))]
    assert packed == {path for path in blocks if path.startswith("transformer_blocks.")}
    assert packed <= {row.key.site.removeprefix("transformer.") for row in result.rows if row.local is not None}
