"""From velocity to clean estimate to the next noise level. Always computed in float32, returned in the sample's dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Sigmas = Sequence[float] | NDArray[np.float32]


def to_denoised(sample: mx.array, velocity: mx.array, sigma: mx.array | float) -> mx.array:
    """x0 = x - sigma * v; ``sigma`` may be per token (B, T, 1)."""
    return (sample.astype(mx.float32) - velocity.astype(mx.float32) * sigma).astype(sample.dtype)


def to_velocity(sample: mx.array, sigma: float, denoised_sample: mx.array) -> mx.array:
    if sigma == 0:
        raise ValueError("velocity is undefined at sigma 0: the sample is already clean")
    return ((sample.astype(mx.float32) - denoised_sample.astype(mx.float32)) / sigma).astype(sample.dtype)


def euler_step(sample: mx.array, denoised_sample: mx.array, sigmas: Sigmas, step_index: int) -> mx.array:
    """One first-order step from ``sigmas[step_index]`` to the next level."""
    sigma, sigma_next = (np.float32(sigmas[step_index + i]) for i in (0, 1))
    velocity = to_velocity(sample, float(sigma), denoised_sample)
    step = velocity.astype(mx.float32) * float(sigma_next - sigma)
    return (sample.astype(mx.float32) + step).astype(sample.dtype)


def phi(order: int, z: float) -> float:
    """phi_j(z) = (exp(z) - sum over k < j of z^k / k!) / z^j, the functions of exponential integrators."""
    if abs(z) < 1e-10:
        return 1.0 / math.factorial(order)
    return (math.exp(z) - sum(z**k / math.factorial(k) for k in range(order))) / z**order


def res_2s_coefficients(h: float, c2: float = 0.5) -> tuple[float, float, float]:
    """(a21, b1, b2) of the two-stage exponential Runge-Kutta step of size h = log(sigma / sigma_next)."""
    b2 = phi(2, -h) / c2
    return c2 * phi(1, -h * c2), phi(1, -h) - b2, b2


def sde_coefficients(sigma_next: np.floating, eta: float = 0.5) -> tuple[np.floating, np.floating, np.floating]:
    """(alpha_ratio, sigma_down, sigma_up) of a variance-preserving step, in the precision of ``sigma_next``."""
    sigma_up = min(sigma_next * eta, sigma_next * 0.9999)
    residual = np.sqrt(max(sigma_next**2 - sigma_up**2, 0.0 * sigma_next))
    alpha_ratio = (1.0 - sigma_next) + residual
    return alpha_ratio, residual / alpha_ratio, sigma_up


def sde_step(
    sample: NDArray[np.float64],
    denoised_sample: NDArray[np.float64],
    sigma: np.floating,
    sigma_next: np.floating,
    noise: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A step to ``sigma_next`` of which part is fresh noise (res_2s); double precision, on the host.

    The coefficients have the precision of the sigmas: float32 at a step, float64 at a sub-step, as officially. An error
    of float32 there is visible in the finished video.
    """
    if sigma_next == 0:
        return denoised_sample
    alpha_ratio, sigma_down, sigma_up = sde_coefficients(sigma_next)
    eps = (sample - denoised_sample) / (sigma - sigma_next)
    return alpha_ratio * (sample - sigma * eps + sigma_down * eps) + sigma_up * noise
