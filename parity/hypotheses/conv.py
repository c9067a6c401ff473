"""Convolutions, resampling and the vocoder's activation. Channels are last in the tensors, PyTorch's axes in the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np

from parity.hypotheses.base import ROUNDINGS, VALUE, Array, Candidate, Suspect, hypotheses, roundings

PADDINGS = (("reflect", "mirrored"), ("edge", "repeated"), ("wrap", "wrapped"))
LARGEST = 1 << 27  # multiplications: beyond that a candidate would take too long to be worth it


def convolved(
    x: Array,
    weight: Array,
    bias: Array | None,
    padding: Sequence[int],
    stride: int = 1,
    dilation: int = 1,
    mode: str = "constant",
) -> Array:
    """PyTorch's convolution of x (B, *places, C) with weight (O, I/groups, *kernel), ``padding`` on both sides of a place."""
    places = x.ndim - 2
    kernel = weight.shape[2:]
    x = np.pad(x.astype(np.float64), [(0, 0), *((p, p) for p in padding), (0, 0)], mode=mode)  # type: ignore[call-overload]
    sizes = [(n - (k - 1) * dilation - 1) // stride + 1 for n, k in zip(x.shape[1:-1], kernel, strict=True)]
    if int(np.prod(sizes)) * weight.size * x.shape[0] > LARGEST * 16:
        raise ValueError("too large to be tried")
    out = np.zeros((x.shape[0], *sizes, weight.shape[0]))
    for tap in product(*(range(k) for k in kernel)):
        window = tuple(
            slice(t * dilation, t * dilation + (s - 1) * stride + 1, stride) for t, s in zip(tap, sizes, strict=True)
        )
        part = x[(slice(None), *window)]
        w = np.moveaxis(weight, (0, 1), (-2, -1))[tap].astype(np.float64)  # (O, I)
        out += part * w[:, 0] if weight.shape[1] == 1 and x.shape[-1] > 1 else part @ w.T
    assert places == len(kernel)
    return out if bias is None else out + bias


@hypotheses("Conv1d", "Conv2d", "Conv3d")
def convolution(suspect: Suspect) -> Iterator[Candidate]:
    x = np.asarray(next(v for v in suspect.given.values() if isinstance(v, np.ndarray)))
    weight, bias = suspect.weight("weight"), suspect.parameter("bias")
    fit = _geometry(x.shape[1:-1], suspect.reference.shape[1:-1], weight.shape[2:])
    if fit is None:
        return
    padding, stride, dilations = fit
    # Several dilations with a padding to match give one shape: the reference's own result tells which it has.
    official = min(dilations, key=lambda d: float(np.linalg.norm(
        convolved(x, weight, bias, padding_of(d, weight.shape[2:], padding), stride, d) - suspect.reference)))  # fmt: skip

    def run(w: Array = weight, b: Array | None = bias, x: Array = x, d: int = official, mode: str = "constant") -> Array:
        return convolved(x, w, b, padding_of(d, weight.shape[2:], padding), stride, d, mode)

    if any(padding):
        for mode, words in PADDINGS:
            yield Candidate(f"padding.{mode}", f"borders {words} instead of zero", lambda m=mode: run(mode=m))  # type: ignore[misc]
    if bias is not None:
        yield Candidate("linear.bias-missing", "no bias", lambda: run(b=None))
    axes = tuple(range(2, weight.ndim))
    yield Candidate("conv.flipped", "the kernel flipped", lambda: run(np.flip(weight, axes)))
    for one, other in [(a, b) for a in axes for b in axes if a < b]:
        words = f"kernel axes {one - 2} and {other - 2} swapped"
        yield Candidate("weights.transposed", words, lambda a=one, b=other: run(np.swapaxes(weight, a, b)))  # type: ignore[misc]
    if weight.shape[0] == weight.shape[1]:
        yield Candidate(
            "weights.transposed", "inputs and outputs of the kernel swapped", lambda: run(np.swapaxes(weight, 0, 1))
        )
    own = 0 if bias is None else bias
    for cause, dtype, narrow in ROUNDINGS:
        low = narrow(weight), narrow(x)
        words = f"products and their sums in {dtype}"
        yield Candidate(cause, words, lambda r=low, n=narrow: n(run(r[0], None, r[1])) + own)  # type: ignore[misc]
    for d in dilations:
        if d != official:
            yield Candidate("conv.dilation", f"dilation {d} instead of {official}", lambda d=d: run(d=d))  # type: ignore[misc]
    yield from roundings(lambda x, weight: convolved(x, weight, bias, padding_of(official, weight.shape[2:], padding), stride,
                                                     official), x=x, weight=weight)  # fmt: skip


def padding_of(dilation: int, kernel: Sequence[int], same: Sequence[int]) -> list[int]:
    """The padding that keeps the length under a dilation, where there is any padding."""
    return [dilation * (k - 1) // 2 if p else 0 for k, p in zip(kernel, same, strict=True)]


def _geometry(given: Sequence[int], made: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], int, list[int]] | None:
    """(padding per axis, stride, possible dilations) from the sizes before and after."""
    for stride in (1, 2, 4):
        for whole in (True, False):
            padding = [(k - 1) // 2 if whole else 0 for k in kernel]
            if not whole:
                padding = [(k - 1) // 2 if (n + 2 * ((k - 1) // 2) - k) // stride + 1 == m else 0
                           for n, m, k in zip(given, made, kernel, strict=True)]  # fmt: skip
            sizes = [(n + 2 * p - k) // stride + 1 for n, p, k in zip(given, padding, kernel, strict=True)]
            if sizes == list(made):
                many = [1, 3, 5] if len(kernel) == 1 and stride == 1 and all(padding) else [1]
                return padding, stride, many
    return None


@hypotheses("ConvTranspose1d")
def transposed(suspect: Suspect) -> Iterator[Candidate]:
    """weight (I, O, k): every input place adds its kernel at ``stride`` times its place."""
    x = np.asarray(suspect.given["input"]).astype(np.float64)
    weight, bias = suspect.weight("weight").astype(np.float64), suspect.parameter("bias")
    length, made, kernel = x.shape[1], suspect.reference.shape[1], weight.shape[2]
    stride = made // length
    padding = ((length - 1) * stride + kernel - made) // 2

    def run(w: Array = weight, x: Array = x, b: Array | None = bias, p: int = padding) -> Array:
        out = np.zeros((x.shape[0], (length - 1) * stride + kernel, w.shape[1]))
        for t in range(kernel):
            out[:, t : t + (length - 1) * stride + 1 : stride] += x @ w[:, :, t]
        out = out[:, p : p + made]
        return out if b is None else out + b

    yield Candidate("conv.flipped", "the kernel read backwards", lambda: run(weight[..., ::-1]))
    if bias is not None:
        yield Candidate("linear.bias-missing", "no bias", lambda: run(b=None))
    if weight.shape[0] == weight.shape[1]:
        yield Candidate(
            "weights.transposed", "inputs and outputs of the kernel swapped", lambda: run(np.swapaxes(weight, 0, 1))
        )
    for p in {0, padding - 1, padding + 1} - {padding}:
        if p >= 0:
            yield Candidate("conv.padding", f"{p} places cut at the start instead of {padding}", lambda p=p: run(p=p))  # type: ignore[misc]
    yield from roundings(lambda x, weight: run(weight, x), x=x, weight=weight)


@hypotheses("*:conv.input", "*:*conv.conv.input")
def padded_input(suspect: Suspect) -> Iterator[Candidate]:
    """What a convolution is handed by the module around it: which side is padded, and with what."""
    x = suspect.given.get("x", suspect.given.get("input_tensor"))
    if not isinstance(x, np.ndarray) or x.ndim != suspect.reference.ndim:
        return
    extra = [made - n for n, made in zip(x.shape, suspect.reference.shape, strict=True)]
    axes = [i for i, more in enumerate(extra) if more > 0]
    if any(more < 0 for more in extra) or not axes:
        return
    names = {1: "time", 2: "rows", 3: "columns"}
    for sides in product(*[range(extra[i] + 1) for i in axes]):
        for mode, words in (("constant", "zeros"), ("edge", "repeats"), *[(m, w) for m, w in PADDINGS if m != "edge"]):
            width = [(0, 0)] * x.ndim
            for axis, before in zip(axes, sides, strict=True):
                width[axis] = (before, extra[axis] - before)
            spread = ", ".join(f"{width[i][0]} before and {width[i][1]} after along {names.get(i, i)}" for i in axes)
            cause = "padding.side" if mode in ("constant", "edge") else f"padding.{mode}"
            cause = "conv.causal" if suspect.type.startswith("Causal") and mode == "edge" else cause
            yield Candidate(cause, f"padding of {spread} ({words})", lambda w=tuple(width), m=mode: np.pad(x, w, mode=m))  # type: ignore[misc]


@hypotheses("CausalConv3d", "CausalConv2d")
def causal(suspect: Suspect) -> Iterator[Candidate]:
    """The whole causal convolution: where its padding along time comes from."""
    x = np.asarray(suspect.given["x"])
    weight, bias = suspect.weight("conv.weight"), suspect.parameter("conv.bias")
    k = weight.shape[2]
    rest = [(n - 1) // 2 for n in weight.shape[3:]]

    def run(before: int, mode: str) -> Array:
        width = [(0, 0), (before, k - 1 - before), *[(0, 0)] * (x.ndim - 2)]
        return convolved(np.pad(x, width, mode=mode), weight, bias, [0, *rest])  # type: ignore[call-overload]

    words = {"edge": "by repeats", "constant": "by zeros", "reflect": "by mirroring"}
    for before in range(k):
        for mode, text in words.items():
            where = "the past only" if before == k - 1 else "the future only" if not before else "both sides"
            cause = "conv.causal" if mode == "edge" or before != (k - 1) // 2 else f"padding.{mode}"
            yield Candidate(cause, f"time padded on {where} {text}", lambda b=before, m=mode: run(b, m))  # type: ignore[misc]


def shuffled(x: Array, factors: Sequence[int], inner: bool = True, order: Sequence[int] = (0, 1, 2)) -> Array:
    """Channels to places; ``inner``: the offsets vary fastest within a channel (official), else the channel does.

    ``order`` is that in which the offsets of frame, row and column follow each other within a channel.
    """
    b, f, h, w, c = x.shape
    p1, p2, p3 = factors
    c //= p1 * p2 * p3
    if inner:
        x = x.reshape(b, f, h, w, c, *(factors[i] for i in order))
        at = [5 + list(order).index(i) for i in range(3)]
        x = x.transpose(0, 1, at[0], 2, at[1], 3, at[2], 4)
    else:
        x = x.reshape(b, f, h, w, p1, p2, p3, c).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, f * p1, h * p2, w * p3, c)


@hypotheses("DepthToSpaceUpsample", "PixelShuffleND")
def depth_to_space(suspect: Suspect) -> Iterator[Candidate]:
    made, x = suspect.reference, np.asarray(suspect.given["x"])
    hidden = suspect.known.get("conv", x)
    flat = hidden.ndim == 4
    hidden, shape = (hidden[:, None], made[:, None].shape) if flat else (hidden, made.shape)
    first = 2 if shape[1] == 2 * hidden.shape[1] - 1 or shape[1] == 2 * hidden.shape[1] else 1
    factors = (first, shape[2] // hidden.shape[2], shape[3] // hidden.shape[3])
    cut = first * hidden.shape[1] - shape[1]

    def done(value: Array, start: int = cut) -> Array:
        value = value[:, start : start + shape[1]] if value.shape[1] >= start + shape[1] else value
        return value[:, 0] if flat else value

    yield Candidate(
        "shuffle.order", "channel-minor instead of channel-major pixel shuffle", lambda: done(shuffled(hidden, factors, False))
    )
    for order in ((0, 2, 1), (2, 1, 0), (1, 0, 2), (1, 2, 0), (2, 0, 1)):
        words = f"offsets of the pixel shuffle in the order {order}"
        yield Candidate("shuffle.order", words, lambda o=order: done(shuffled(hidden, factors, order=o)))  # type: ignore[misc]
    yield Candidate("length.head-kept", "the first frame kept, the last one cut", lambda: done(shuffled(hidden, factors), 0))
    if not flat and x.shape[-1] % int(np.prod(factors)) == 0:
        skip = shuffled(x, factors)[:, cut:]
        for repeat, words in (
            (np.repeat, "repeated channel by channel"),
            (lambda a, n, axis: np.concatenate([a] * n, axis), "tiled"),
        ):
            yield Candidate("block.residual-added", f"a residual around the upsampler ({words})", lambda r=repeat: done(
                shuffled(hidden, factors)) + r(skip, shape[-1] // skip.shape[-1], axis=-1))  # type: ignore[misc]  # fmt: skip


@hypotheses("SpaceToDepthDownsample")
def space_to_depth(suspect: Suspect) -> Iterator[Candidate]:
    yield Candidate("block.residual", "no skip path", lambda: suspect.reference - _skip(suspect))
    yield Candidate("block.residual", "the skip path twice", lambda: suspect.reference + _skip(suspect))


def _skip(suspect: Suspect) -> Array:
    x, made = np.asarray(suspect.given["x"]), suspect.reference
    strides = [-(-n // m) for n, m in zip(x.shape[1:4], made.shape[1:4], strict=True)]
    x = np.concatenate([x[:, :1], x], axis=1) if strides[0] == 2 else x
    b, f, h, w, c = x.shape
    p1, p2, p3 = strides
    folded = x.reshape(b, f // p1, p1, h // p2, p2, w // p3, p3, c).transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return np.asarray(folded.reshape(*made.shape[:-1], made.shape[-1], -1).mean(-1))


@hypotheses("SnakeBeta", "Snake")
def snake(suspect: Suspect) -> Iterator[Candidate]:
    x = np.asarray(suspect.given["x"]).astype(np.float64)
    alpha = suspect.weight("alpha").reshape(-1).astype(np.float64)
    beta = suspect.parameter("beta") if suspect.parameter("beta") is not None else suspect.weight("alpha")
    beta = np.asarray(beta).reshape(-1).astype(np.float64)  # fmt: skip

    def run(a: Array, b: Array, wave: Callable[[Array], Array] = lambda t: np.sin(t) ** 2) -> Array:
        return x + wave(x * a) / (b + 1e-9)

    raise_ = np.exp
    yield Candidate("snake.exp-missing", "alpha and beta without their exponential", lambda: run(alpha, beta))
    yield Candidate("snake.exp-missing", "alpha without its exponential", lambda: run(alpha, raise_(beta)))
    yield Candidate("snake.exp-missing", "beta without its exponential", lambda: run(raise_(alpha), beta))
    yield Candidate("snake.swapped", "alpha and beta swapped", lambda: run(raise_(beta), raise_(alpha)))
    yield Candidate("snake.beta-missing", "alpha in beta's place", lambda: run(raise_(alpha), raise_(alpha)))
    yield Candidate("snake.square-missing", "sin instead of sin squared", lambda: run(raise_(alpha), raise_(beta), np.sin))
    yield Candidate("activation.none", "no activation", lambda: x)
    yield from roundings(
        lambda x, alpha, beta: x + np.sin(x * np.exp(alpha)) ** 2 / (np.exp(beta) + 1e-9), x=x, alpha=alpha, beta=beta
    )


@hypotheses("Upsample")
def resampled(suspect: Suspect) -> Iterator[Candidate]:
    """The audio VAE's: every place twice, then a causal convolution, of which the first row is dropped."""
    x, weight = np.asarray(suspect.given["x"]), suspect.weight("conv.conv.weight")
    twice, side = np.repeat(np.repeat(x, 2, 1), 2, 2), (weight.shape[3] - 1) // 2

    def run() -> Array:
        padded = np.pad(twice, [(0, 0), (weight.shape[2] - 1, 0), (side, side), (0, 0)])
        return convolved(padded, weight, suspect.parameter("conv.conv.bias"), [0, 0])

    yield Candidate("length.head-kept", "the first row kept, which the official code drops after doubling", run)
    yield Candidate("length.tail-cut", "the last row cut instead of the first", lambda: run()[:, :-1])


@hypotheses("UpSample1d")
def upsampled(suspect: Suspect) -> Iterator[Candidate]:
    """Twice the rate: zeros between the samples, a fixed low-pass filter, times the ratio; edges repeated."""
    x, kernel = np.asarray(suspect.given["x"], dtype=np.float64), suspect.weight("filter").reshape(-1).astype(np.float64)
    length, made, size = x.shape[1], suspect.reference.shape[1], kernel.size
    ratio = made // length
    pad = size // ratio - 1
    left = pad * ratio + (size - ratio) // 2

    def run(x: Array = x, gain: float = ratio, mode: str = "edge", left: int = left) -> Array:
        wide = np.pad(x, [(0, 0), (pad, pad), (0, 0)], mode=mode)  # type: ignore[call-overload]
        out = np.zeros((x.shape[0], (wide.shape[1] - 1) * ratio + size, x.shape[2]))
        for tap in range(size):
            out[:, tap : tap + (wide.shape[1] - 1) * ratio + 1 : ratio] += wide * kernel[tap]
        return gain * out[:, left : left + made]

    place = np.arange(length)
    for n in (2, 3, 4, 8):
        kept, lost = (place % n == 0)[None, :, None], (place % n != 0)[None, :, None]
        words = f"every {n}th input sample only: the others are lost on the way"
        yield Candidate("resample.samples-lost", words, lambda k=kept: run(x * k))  # type: ignore[misc]
        yield Candidate("resample.samples-lost", f"every {n}th input sample lost", lambda k=lost: run(x * k))  # type: ignore[misc]
    yield Candidate("resample.gain", "no gain for the inserted zeros", lambda: run(gain=1.0))
    yield Candidate("padding.zeros", "edges padded with zeros", lambda: run(mode="constant"))
    yield Candidate("padding.reflect", "edges mirrored", lambda: run(mode="reflect"))
    for shift in (-2, -1, 1, 2):
        yield Candidate("order.shift", f"a delay of {shift:+d}", lambda s=shift: run(left=left + s))  # type: ignore[misc]
    yield from roundings(lambda x, kernel: run(x), x=x, kernel=kernel)


@hypotheses("HannUpSample1d", "LowPassFilter1d", "DownSample1d", "_STFTFn", "MelSTFT")
def filtered(suspect: Suspect) -> Iterator[Candidate]:
    """Fixed filters: only what any computation can suffer; shifts and factors come from the closed forms."""
    for cause, dtype, narrow in ROUNDINGS:
        yield Candidate(cause, f"its result rounded to {dtype}", lambda n=narrow: n(suspect.reference), VALUE)  # type: ignore[misc]


@hypotheses("VideoDecoder")
def unpatchified(suspect: Suspect) -> Iterator[Candidate]:
    """The last channels to pixels: a column's offset comes before a row's, unlike in the blocks."""
    x, made = suspect.known["conv_out"], suspect.reference
    b, f, h, w = x.shape[:4]
    p, channels = made.shape[2] // h, made.shape[-1]

    def pixels(shape: Sequence[int], order: Sequence[int]) -> Array:
        return x.reshape(b, f, h, w, *shape).transpose(order).reshape(made.shape)

    rows_first = "the row's offset before the column's in the last channels"
    yield Candidate("shuffle.order", rows_first, lambda: pixels((channels, p, p), (0, 1, 2, 5, 3, 6, 4)))
    minor = "colours after the offsets in the last channels"
    yield Candidate("shuffle.order", minor, lambda: pixels((p, p, channels), (0, 1, 2, 5, 3, 4, 6)))
    yield Candidate("shuffle.order", f"{minor}, rows first", lambda: pixels((p, p, channels), (0, 1, 2, 4, 3, 5, 6)))
    yield Candidate("value.clipped", "pixels limited to [-1, 1]", lambda: np.clip(made, -1, 1))
