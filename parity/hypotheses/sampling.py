"""Between the networks: schedule, estimate of x0, guidance, post-processing, the step. Formulas of the official pipelines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.hypotheses.base import ROUNDINGS, VALUE, Array, Candidate, Suspect, bfloat16, hypotheses, roundings

DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)


def sigmas(
    steps: int,
    tokens: float = 4096,
    stretch: bool = True,
    terminal: float = 0.1,
    base: Array | None = None,
    shifted: bool = True,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    linear_shift: bool = False,
) -> Array:
    """The official scheduler: a linear ramp, shifted for a token count, stretched to a last level."""
    slope = (max_shift - base_shift) / (4096 - 1024)
    shift = tokens * slope + base_shift - slope * 1024
    ramp = np.linspace(1.0, 0.0, steps + 1) if base is None else base
    noisy = ramp[ramp != 0] if base is None else ramp
    if shifted:
        by = shift if linear_shift else math.exp(shift)
        noisy = by / (by + (1 / noisy - 1))
    if stretch:
        done = 1 - noisy
        noisy = 1 - done / (done[-1] / (1 - terminal))
    return np.append(noisy, 0.0)


@hypotheses("LTX2Scheduler", "schedule:*")
def schedule(suspect: Suspect) -> Iterator[Candidate]:
    given = suspect.given
    steps = int(given.get("steps", suspect.reference.size - 1))
    count = suspect.native.size
    yield Candidate("schedule.terminal", "the final 0 dropped", lambda: suspect.reference[:-1])
    yield Candidate("schedule.table", "the distilled model's table", lambda: np.array(DISTILLED))
    yield Candidate("schedule.table", "the second stage's table", lambda: np.array(DISTILLED[5:]))
    yield Candidate("schedule.shift", "no shift", lambda: sigmas(steps, shifted=False))
    yield Candidate("schedule.shift", "the shift without its exponential", lambda: sigmas(steps, linear_shift=True))
    yield Candidate("schedule.stretch", "no stretch to the last level", lambda: sigmas(steps, stretch=False))
    for terminal in (0.0, 0.01, 0.05, 0.2):
        yield Candidate("schedule.stretch", f"stretched to {terminal:g} instead of 0.1",
                        lambda t=terminal: sigmas(steps, terminal=t))  # type: ignore[misc]  # fmt: skip
    for n in (steps - 1, steps + 1, count - 1):
        if n > 0 and n != steps:
            yield Candidate("schedule.steps", f"{n} steps instead of {steps}", lambda n=n: sigmas(n))  # type: ignore[misc]
    for words, base in (
        ("a ramp from 1 to 1/N instead of 1 to 0", np.linspace(1.0, 1.0 / steps, steps)),
        ("a ramp of N + 1 points from 1 to 1/N", np.linspace(1.0, 1.0 / steps, steps + 1)),
        ("a ramp of N + 1 points from 1 to 1/N, the last dropped", np.linspace(1.0, 1.0 / steps, steps + 1)[:-1]),
        ("a ramp from 1 to 0.001", np.linspace(1.0, 0.001, steps)),
    ):
        yield Candidate("schedule.ramp", words, lambda b=base: sigmas(steps, base=b))  # type: ignore[misc]
    tokens = _shift_tokens(suspect.native.astype(np.float64), steps)
    if tokens is not None:
        words = f"the shift for {tokens:.0f} tokens instead of 4,096"
        yield Candidate("schedule.tokens", words, lambda: sigmas(steps, tokens), VALUE)
    yield from ((Candidate(c, f"levels rounded to {d}", lambda n=n: n(suspect.reference))) for c, d, n in ROUNDINGS)  # type: ignore[misc]


def _shift_tokens(native: Array, steps: int) -> float | None:
    """The token count that makes the official formula give native's levels best, by bisection on the middle level."""
    if native.size != steps + 1 or steps < 2:
        return None
    middle = steps // 2
    low, high = 1.0, 65536.0
    for _ in range(60):
        half = (low + high) / 2
        low, high = (half, high) if sigmas(steps, half)[middle] < native[middle] else (low, half)
    return low


@hypotheses("MultiModalGuider", "guidance.*:*")
def guided(suspect: Suspect) -> Iterator[Candidate]:
    g = suspect.given
    names = ("cond", "uncond_text", "uncond_perturbed", "uncond_modality")
    cond, text, perturbed, modality = (np.asarray(g[n], dtype=np.float64) for n in names)
    p = {n: float(g[f"params.{n}"]) for n in ("cfg_scale", "stg_scale", "modality_scale", "rescale_scale")}

    def official(e: Any = None, deviation: Any = None, cond: Array = cond, text: Array = text, perturbed: Array = perturbed,
                 modality: Array = modality) -> Array:  # fmt: skip
        s = {**p, **(e or {})}
        out = cond + (s["cfg_scale"] - 1) * (cond - text) + s["stg_scale"] * (cond - perturbed)
        out = out + (s["modality_scale"] - 1) * (cond - modality)
        if s["rescale_scale"]:
            spread = deviation or (lambda x: x.std(ddof=1))
            out = out * (s["rescale_scale"] * spread(cond) / spread(out) + 1 - s["rescale_scale"])
        return np.asarray(out)

    yield Candidate("guidance.not-applied", "the conditional estimate alone: no guidance", lambda: cond)
    off = {"cfg_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "rescale_scale": 0.0}
    words = {"cfg_scale": "cfg", "stg_scale": "stg", "modality_scale": "modality isolation", "rescale_scale": "rescale"}
    for name, value in off.items():
        if p[name] != value:
            cause = f"guidance.{name.removesuffix('_scale')}-missing"
            yield Candidate(cause, f"no {words[name]} term", lambda n=name, v=value: official({n: v}))  # type: ignore[misc]
    for name in ("cfg_scale", "modality_scale"):
        yield Candidate("guidance.factor", f"{words[name]} {p[name]:g} used as s instead of s - 1",
                        lambda n=name: official({n: p[n] + 1}))  # type: ignore[misc]  # fmt: skip
    yield Candidate("guidance.factor", "stg s used as s - 1", lambda: official({"stg_scale": p["stg_scale"] - 1}))
    yield Candidate(
        "guidance.lerp",
        "cfg as uncond + s (cond - uncond) without the other terms",
        lambda: text + p["cfg_scale"] * (cond - text),
    )
    yield Candidate("guidance.rescale", "the rescale by the root mean square instead of the deviation",
                    lambda: official(deviation=lambda x: np.sqrt(np.mean(np.square(x)))))  # fmt: skip
    yield Candidate(
        "guidance.rescale", "the rescale per token", lambda: official(deviation=lambda x: x.std(-1, ddof=1, keepdims=True))
    )
    yield Candidate(
        "guidance.rescale", "the rescale per channel", lambda: official(deviation=lambda x: x.std(1, ddof=1, keepdims=True))
    )
    yield Candidate("guidance.rescale", "the whole rescale instead of a part of it", lambda: official({"rescale_scale": 1.0}))
    if p["rescale_scale"]:
        share, plain = p["rescale_scale"], official({"rescale_scale": 0.0})
        turned = plain.std(ddof=1) / cond.std(ddof=1)
        yield Candidate("guidance.rescale", "the rescale turned over", lambda: plain * (share * turned + 1 - share))
    yield Candidate("guidance.passes", "text and perturbed passes swapped", lambda: official(text=perturbed, perturbed=text))
    yield Candidate(
        "guidance.passes", "perturbed and modality passes swapped", lambda: official(perturbed=modality, modality=perturbed)
    )
    yield Candidate("guidance.passes", "text and modality passes swapped", lambda: official(text=modality, modality=text))
    yield Candidate("guidance.passes", "conditional and unconditional passes swapped", lambda: official(cond=text, text=cond))
    for other in (1.0, 3.0, 5.0, 7.0):
        if other != p["cfg_scale"]:
            yield Candidate("guidance.scale", f"cfg {other:g} instead of {p['cfg_scale']:g}",
                            lambda o=other: official({"cfg_scale": o}))  # type: ignore[misc]  # fmt: skip
    sample, sigma = g.get("sample"), g.get("sigma")
    if sample is not None and sigma:
        velocities = [(np.asarray(sample) - e) / sigma for e in (cond, text, perturbed, modality)]
        words_of = "guidance (with its rescale) of velocities instead of estimates of x0"
        yield Candidate("guidance.space", words_of, lambda: np.asarray(sample) - sigma * official(None, None, *velocities))
    yield from roundings(
        lambda c, t, s, m: official(cond=c, text=t, perturbed=s, modality=m), c=cond, t=text, s=perturbed, m=modality
    )


@hypotheses("X0Model", "denoised:*")
def denoised(suspect: Suspect) -> Iterator[Candidate]:
    stream = suspect.name if suspect.name in ("video", "audio") else "video"
    x, v, sigma = (np.asarray(suspect.given[f"{stream}.{n}"], dtype=np.float64) for n in ("sample", "velocity", "sigma"))
    yield Candidate("sampler.velocity-as-estimate", "the velocity in place of the estimate of x0", lambda: v)
    yield Candidate("sampler.sign", "x + sigma v instead of x - sigma v", lambda: x + sigma * v)
    yield Candidate("sampler.sigma", "x - v, without sigma", lambda: x - v)
    yield Candidate("sampler.sigma", "the highest sigma for every token", lambda: x - sigma.max() * v)
    yield Candidate("sampler.estimate", "x in place of the estimate of x0", lambda: x)
    yield from roundings(lambda x, v, sigma: x - sigma * v, x=x, v=v, sigma=sigma)


@hypotheses("post_process_latent", "post_process.*:*")
def post_processed(suspect: Suspect) -> Iterator[Candidate]:
    d, m, c = (np.asarray(suspect.given[n], dtype=np.float64) for n in ("denoised", "denoise_mask", "clean"))

    def blend(mask: Array) -> Array:
        return d * mask + c * (1 - mask)

    yield Candidate("mask.inverted", "the denoise mask's polarity inverted", lambda: blend(1 - m))
    yield Candidate("mask.ignored", "the denoise mask ignored", lambda: d)
    yield Candidate("mask.binary", "the denoise mask rounded to 0 and 1", lambda: blend((m > 0.5).astype(float)))
    yield Candidate(
        "mask.broadcast",
        "the mask (B, T) broadcast along channels instead of tokens",
        lambda: blend(m.reshape(m.shape[0], 1, -1)),
    )
    yield Candidate("mask.additive", "clean tokens added whole", lambda: d * m + c)
    yield from roundings(lambda d, m, c: d * m + c * (1 - m), d=d, m=m, c=c)


@hypotheses("EulerDiffusionStep", "sampler.video:*", "sampler.audio:*")
def stepped(suspect: Suspect) -> Iterator[Candidate]:
    g = suspect.given
    x, d = (np.asarray(g[n], dtype=np.float64) for n in ("sample", "denoised_sample"))
    levels, i = np.asarray(g["sigmas"], dtype=np.float64), int(g["step_index"])
    now, following = levels[i], levels[i + 1]

    def euler(x: Array, d: Array, now: float = now, following: float = following) -> Array:
        return x + (x - d) / now * (following - now)

    yield Candidate("sampler.sigma", "sigma and the next sigma swapped", lambda: euler(x, d, following, now))
    if i + 2 < levels.size:
        yield Candidate("sampler.sigma", "the levels of the next step", lambda: euler(x, d, following, levels[i + 2]))
    if i:
        yield Candidate("sampler.sigma", "the levels of the step before", lambda: euler(x, d, levels[i - 1], now))
    equal = -now / (levels.size - 1)
    yield Candidate("sampler.sigma", "steps of equal size instead of the schedule's", lambda: x + (x - d) / now * equal)
    yield Candidate("sampler.velocity-as-estimate", "the estimate of x0 used as a velocity", lambda: x + d * (following - now))
    yield Candidate("sampler.estimate", "the estimate of x0 in place of the step", lambda: d)
    yield Candidate("sampler.sign", "a step the other way", lambda: x - (x - d) / now * (following - now))
    yield Candidate("sampler.noise", "the estimate noised anew without x", lambda: d * (1 - following) + following * x)

    def low(x: Array, d: Array) -> Array:
        velocity = bfloat16(bfloat16(bfloat16(x) - bfloat16(d)) / now)
        return bfloat16(bfloat16(x) + bfloat16(velocity * (following - now)))

    yield Candidate("dtype.bfloat16", "the step in bfloat16", lambda: low(x, d))
    yield from roundings(lambda x, d: euler(x, d), x=x, d=d)


@hypotheses("sampler.sde:*")
def sde(suspect: Suspect) -> Iterator[Candidate]:
    """(alpha ratio, sigma down, sigma up) of a variance-preserving step."""
    sigma, eta = float(suspect.given["sigma_next"]), float(suspect.given["eta"])

    def coefficients(eta: float) -> Array:
        up = min(sigma * eta, sigma * 0.9999)
        rest = math.sqrt(max(sigma**2 - up**2, 0.0))
        return np.array([1 - sigma + rest, rest / (1 - sigma + rest), up])

    for other in (0.0, 0.25, 0.5, 0.75, 1.0):
        if other != eta:
            yield Candidate("sampler.eta", f"eta {other:g} instead of {eta:g}", lambda e=other: coefficients(e))  # type: ignore[misc]
    yield Candidate("dtype.float32", "single precision", lambda: coefficients(eta).astype(np.float32), VALUE)


@hypotheses("sampler.res_2s:*")
def between(suspect: Suspect) -> Iterator[Candidate]:
    """The state between the two evaluations of a res_2s step: x, the noise and the levels are given."""
    g = suspect.given
    x, fresh, estimate = (np.asarray(g[n], dtype=np.float64) for n in ("sample", "noise", "denoised"))
    now, following = float(g["sigma"]), float(g["sigma_next"])

    def state(
        eta: float = 0.5, narrow: Any = lambda v: v, noise: float = 1.0, middle: float = math.sqrt(now * following)
    ) -> Array:
        h = -math.log(following / now)
        half = narrow(x + h * 0.5 * ((1 - math.exp(-h / 2)) / (h / 2)) * (estimate - x))
        up = middle * eta
        rest = math.sqrt(max(middle**2 - up**2, 0.0))
        ratio = 1 - middle + rest
        eps = (x - half) / (now - middle)
        return np.asarray(ratio * (x - now * eps + rest / ratio * eps) + up * fresh * noise)

    for cause, dtype, narrow in ROUNDINGS:
        yield Candidate(cause, f"the state rounded to {dtype}", lambda n=narrow: n(state()))  # type: ignore[misc]
        yield Candidate(cause, f"the half step rounded to {dtype}", lambda n=narrow: state(narrow=n))  # type: ignore[misc]
        yield Candidate(cause, f"half step and state rounded to {dtype}", lambda n=narrow: n(state(narrow=n)))  # type: ignore[misc]
    for eta in (0.0, 0.25, 1.0):
        yield Candidate("sampler.eta", f"eta {eta:g} instead of 0.5", lambda e=eta: state(e))  # type: ignore[misc]
    yield Candidate("sampler.noise", "no noise between the evaluations", lambda: state(noise=0.0))
    yield Candidate(
        "sampler.sigma", "the arithmetic mean of the levels in the middle", lambda: state(middle=(now + following) / 2)
    )
