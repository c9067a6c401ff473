"""Noise: the external CLI's draws by seed, injected draws, and what is refused."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from ltx_native.errors import RequestError
from ltx_native.noise import Draws, Noise, add_noise

SHAPE = (1, 6, 128)


def test_draws_are_those_of_a_freshly_seeded_global_generator() -> None:
    """`mx.random.seed(s)`, one normal draw, bfloat16: how the external CLI draws each modality."""
    for offset in (0, 1, 2):
        mx.random.seed(42 + offset)
        expected = mx.random.normal(SHAPE).astype(mx.bfloat16)
        assert mx.array_equal(Draws(42).initial(SHAPE, mx.bfloat16, offset), expected)
        assert mx.array_equal(Draws(42).initial(SHAPE, mx.float32, offset), expected.astype(mx.float32))


def test_two_runs_agree_and_two_seeds_do_not() -> None:
    first, again, other = (Draws(seed).initial(SHAPE, mx.float32, 0) for seed in (1, 1, 2))
    assert mx.array_equal(first, again)
    assert not mx.array_equal(first, other)


def test_given_draws_come_in_order() -> None:
    video, audio, later = (mx.random.normal(SHAPE) for _ in range(3))
    draws = Draws(0, Noise(video, audio, {2: later}))
    for expected in (video, audio, later):
        assert mx.array_equal(draws.initial(SHAPE, mx.float32, 0), expected)
    with pytest.raises(RequestError, match="too few draws"):
        draws.initial(SHAPE, mx.float32, 0)


def test_given_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(RequestError, match="does not fit"):
        Draws(0, Noise(mx.zeros((1, 5, 128)))).initial(SHAPE, mx.float32, 0)


def test_noise_files(tmp_path: Path) -> None:
    video = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    doubles = np.random.default_rng(1).standard_normal(SHAPE)
    save_file({"video": video, "draw.00002": doubles}, tmp_path / "noise.safetensors")
    noise = Noise.load(tmp_path / "noise.safetensors")
    assert np.array_equal(np.array(noise.video), video)
    assert np.array_equal(np.array(noise.draw(2)), doubles), "float64 must not be rounded"
    save_file({"sound": video}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a file")
    for name in ("other", "broken", "missing"):
        with pytest.raises(RequestError, match="noise file"):
            Noise.load(tmp_path / f"{name}.safetensors")


def test_sampler_noise_is_normalised_and_follows_its_seed() -> None:
    video, audio = Draws(0).sde(7, (SHAPE, (1, 4, 128)))
    for noise in (video, audio):
        assert noise.mean() == pytest.approx(0, abs=1e-12)
        assert noise.std(ddof=1) == pytest.approx(1)
    assert np.array_equal(Draws(5).sde(7, (SHAPE, (1, 4, 128)))[1], audio), "the run's seed must not matter"


def test_noise_is_added_where_the_mask_says() -> None:
    noise, latent = mx.full((1, 3, 2), 10.0), mx.full((1, 3, 2), 2.0)
    mask = mx.array([0.0, 0.5, 1.0]).reshape(1, 3, 1)
    assert add_noise(noise, latent, mask)[0, :, 0].tolist() == [2.0, 6.0, 10.0]
    assert add_noise(noise, latent, mask, 0.5)[0, :, 0].tolist() == [2.0, 4.0, 6.0]
    assert add_noise(noise, latent.astype(mx.bfloat16), mask).dtype == mx.bfloat16
