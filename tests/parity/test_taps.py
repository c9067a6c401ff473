"""Taps see everything, change nothing and leave nothing behind."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from parity.capture.tree import arrays_in, output_arrays, to_numpy, to_tree
from parity.taps import bind, call_name, sites_of, tapped
from parity.trace import TraceWriter


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def __call__(self, x, scale=2.0):
        return self.proj(x) * scale


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Inner(), Inner()]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def model():
    mx.random.seed(0)
    return Outer()


def test_sites_bear_the_module_paths(model):
    assert sorted(sites_of("net", model)) == ["net", "net.layers.0", "net.layers.0.proj", "net.layers.1", "net.layers.1.proj"]


def test_calls_are_seen_in_order_of_completion(model):
    seen = []
    with tapped({"net": model}, lambda site, module, inputs, output: seen.append((site, call_name(module), sorted(inputs)))):
        model(mx.ones((1, 4)))
    assert [site for site, _, _ in seen] == ["net.layers.0.proj", "net.layers.0", "net.layers.1.proj", "net.layers.1", "net"]
    assert seen[1] == ("net.layers.0", "Inner", ["scale", "self", "x"])


def test_tapped_and_untapped_runs_are_the_same_bits(model):
    x = mx.random.normal((3, 4))
    plain = np.array(model(x))
    kept = []
    with tapped({"net": model}, lambda *call: kept.append(call)):
        watched = np.array(model(x))
    assert np.array_equal(plain, watched)
    assert len(kept) == 5


def test_classes_and_parameters_are_restored_also_after_an_error(model):
    keys = sorted(k for k, _ in nn.utils.tree_flatten(model.parameters()))

    def explode(*_):
        raise RuntimeError("tap")

    with pytest.raises(RuntimeError, match="tap"), tapped({"net": model}, explode):
        model(mx.ones((1, 4)))
    assert type(model) is Outer
    assert all(type(layer) is Inner for layer in model.layers)
    assert sorted(k for k, _ in nn.utils.tree_flatten(model.parameters())) == keys
    model(mx.ones((1, 4)))  # no tap left


def test_bind_names_positional_arguments_and_defaults():
    def call(self, x, scale=2.0, **more):
        return x, scale, more

    assert bind(call, (None, 1), {"extra": 3}) == {"self": None, "x": 1, "scale": 2.0, "extra": 3}


def test_bf16_is_widened_and_its_name_kept():
    array, name = to_numpy(mx.array([1.5], dtype=mx.bfloat16))
    assert (array.dtype, name) == (np.float32, "bfloat16")


def test_trees_and_leaf_paths_agree(tmp_path):
    value = {"a": [mx.ones(2), (mx.zeros(1), None)], "b": 3}
    assert sorted(output_arrays(value)) == ["a.0", "a.1.0"]
    assert len(arrays_in(value)) == 2
    with TraceWriter(tmp_path / "t", {}) as writer:
        tree = to_tree(value, writer.store)
        writer.append("a", tree, stage="s")
    assert tree["fields"]["b"] == {"value": 3}
    assert tree["fields"]["a"]["items"][1]["items"][1] == {"value": None}
