"""Mistakes of our own: each stands in the port exactly once and leaves nothing behind."""

from __future__ import annotations

import importlib
import pkgutil

import mlx.core as mx
import pytest

import ltx_native
from ltx_native import sampler
from ltx_native.conditioning import post_process_latent
from ltx_native.transformer.block import BasicAVTransformerBlock
from parity.faults.mutants import Mutant, load
from parity.sites import COMPONENTS


@pytest.fixture(scope="module", autouse=True)
def _port() -> None:
    for info in pkgutil.walk_packages(ltx_native.__path__, "ltx_native."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)


@pytest.mark.parametrize("id", sorted(load()))
def test_a_mutant_fits_the_code_and_is_undone(id: str) -> None:
    mutant = load()[id]
    module_name, name = mutant.where.split(":")
    owner = importlib.import_module(module_name)
    *path, attribute = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    before = vars(owner)[attribute]
    with mutant.on():
        assert vars(owner)[attribute] is not before
    assert vars(owner)[attribute] is before
    assert mutant.component in (*COMPONENTS, "export")


def test_a_mutant_acts_wherever_the_function_is_named() -> None:
    mask, clean = mx.array([0.25]), mx.array([8.0])
    with load()["MUT-SAM25"].on():
        for name in ("ltx_native.conditioning", "ltx_native.pipelines.denoise", "ltx_native.pipelines.res_2s"):
            assert vars(importlib.import_module(name))["post_process_latent"](mx.array([4.0]), mask, clean).item() == 5.0
    assert post_process_latent(mx.array([4.0]), mask, clean).item() == 7.0


def test_a_method_keeps_its_super_class() -> None:
    with load()["MUT-GEM21"].on():
        embedding = importlib.import_module("ltx_native.text_encoder.gemma3").ScaledWordEmbedding(4, 16)
        assert mx.array_equal(embedding(mx.array([1])), embedding.weight[1:2])


def test_a_text_that_does_not_stand_there_is_refused() -> None:
    stale = Mutant("MUT-X", "sampler", "ltx_native.sampler:euler_step", "no such text", "")
    with pytest.raises(ValueError, match=r"MUT-X: 'no such text' stands 0 times"), stale.on():
        pass
    assert sampler.euler_step is vars(sampler)["euler_step"]
    assert BasicAVTransformerBlock.__call__ is vars(BasicAVTransformerBlock)["__call__"]
