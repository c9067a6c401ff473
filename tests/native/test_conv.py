"""The convolutions that stand in for MLX's, against MLX's own or a sum written out."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx_native import activations, conv
from tests.native.media_networks import normal, randomized, rel_l2


@pytest.mark.parametrize("padding", [(0, 1, 1), (1, 1, 1), (0, 0, 0)])
@pytest.mark.parametrize(("unfolded_bytes", "piece_bytes"), [(0, 1), (0, 40_000), (0, 2**30), (90_000, 1), (2**30, 1)])
def test_conv3d_in_pieces_is_the_convolution(
    monkeypatch: pytest.MonkeyPatch, padding: tuple[int, int, int], unfolded_bytes: int, piece_bytes: int
) -> None:
    monkeypatch.setattr(conv, "UNFOLDED_BYTES", unfolded_bytes)
    monkeypatch.setattr(conv, "PIECE_BYTES", piece_bytes)
    x, weight = normal(2, 5, 6, 7, 8), normal(4, 3, 3, 3, 8, seed=2)
    assert rel_l2(conv.conv3d(x, weight, padding), mx.conv3d(x, weight, padding=padding)) < 3e-6


@pytest.mark.parametrize("unfolded_bytes", [0, 2**30])
def test_conv3d_keeps_bfloat16_and_sums_in_float32(monkeypatch: pytest.MonkeyPatch, unfolded_bytes: int) -> None:
    monkeypatch.setattr(conv, "UNFOLDED_BYTES", unfolded_bytes)
    x, weight = normal(1, 3, 6, 6, 64).astype(mx.bfloat16), normal(8, 3, 3, 3, 64, seed=2).astype(mx.bfloat16)
    out = conv.conv3d(x, weight, (0, 1, 1))
    assert out.dtype == mx.bfloat16
    exact = mx.conv3d(x.astype(mx.float32), weight.astype(mx.float32), padding=(0, 1, 1))
    assert rel_l2(out.astype(mx.float32), exact) < 3e-3  # one rounding to bfloat16


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 3), (7, 5), (11, 3)])
@pytest.mark.parametrize("length", [31, 40])
def test_dilated_convolution(kernel: int, dilation: int, length: int) -> None:
    x, weight = normal(2, length, 6), normal(5, kernel, 6, seed=2)
    padding = (kernel - 1) * dilation // 2
    expected = mx.conv1d(x, weight, padding=padding, dilation=dilation)
    assert rel_l2(conv.conv1d_dilated(x, weight, padding, dilation), expected) < 3e-6


@pytest.mark.parametrize(("kernel", "stride"), [(11, 5), (4, 2), (12, 6), (16, 8), (15, 5)])
def test_transposed_convolution(kernel: int, stride: int) -> None:
    x, weight = normal(2, 9, 6), normal(5, kernel, 6, seed=2)
    padding = (kernel - stride) // 2
    expected = mx.conv_transpose1d(x, weight, stride=stride, padding=padding)
    assert rel_l2(conv.conv1d_transposed(x, weight, stride, padding), expected) < 3e-6


def test_group_norm_takes_statistics_over_places_and_neighbouring_channels() -> None:
    x = normal(2, 3, 4, 5, 64)
    norm = randomized(conv.GroupNorm(32, 64))
    groups = np.asarray(x, dtype=np.float64).reshape(2, -1, 32, 2)
    mean, var = groups.mean(axis=(1, 3), keepdims=True), groups.var(axis=(1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * np.asarray(norm.weight) + np.asarray(norm.bias)
    assert rel_l2(norm(input=x), expected) < 3e-6


def test_pixel_norm_divides_by_the_root_mean_square_of_the_channels() -> None:
    x = normal(1, 2, 3, 4, 16) * 1e-3
    exact = np.asarray(x, dtype=np.float64)
    for eps in (1e-8, 1e-6):
        expected = exact / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + eps)
        assert rel_l2(conv.PixelNorm(eps)(x=x), expected) < 3e-6


@pytest.mark.parametrize("compiler", [True, False])
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_pointwise_functions(monkeypatch: pytest.MonkeyPatch, compiler: bool, scale: float) -> None:
    monkeypatch.setattr(activations, "_compiler", lambda: compiler and activations.shutil.which("g++") is not None)
    x, alpha, gain = normal(4, 50, 8) * scale, mx.abs(normal(8, seed=2)) + 0.1, mx.abs(normal(8, seed=3))
    wide = np.asarray(x, dtype=np.float64)
    assert rel_l2(activations.silu(x), wide / (1 + np.exp(np.minimum(-wide, 700)))) < 4e-7
    expected = wide + np.asarray(gain) * np.sin(np.asarray(x * alpha, dtype=np.float64)) ** 2
    assert rel_l2(activations.snake(x, alpha, gain), expected) < 6e-7
    assert activations.silu(x.astype(mx.bfloat16)).dtype == mx.bfloat16
    assert bool(mx.isnan(activations.silu(mx.array([float("nan")]))).item())
