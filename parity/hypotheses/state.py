"""What a run starts from: noise, masks, positions; and what a network is handed from outside."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from parity.hypotheses.base import FITTED, ROUNDINGS, VALUE, Array, Candidate, Suspect, bfloat16, hypotheses

RATES = (8.0, 12.0, 15.0, 16.0, 23.976, 24.0, 25.0, 30.0, 48.0, 50.0, 60.0)


@hypotheses("state.*:latent")
def noised(suspect: Suspect) -> Iterator[Candidate]:
    """noise x mask x scale + clean x (1 - mask x scale), and what is done instead."""
    g = suspect.given
    noise, clean, mask = (np.asarray(g[n], dtype=np.float64) for n in ("noise", "clean_latent", "denoise_mask"))
    scale = float(g.get("noise_scale", 1.0))
    amount = mask * scale
    yield Candidate("noise.before-conditioning", "noise added before the conditioning, whose tokens stay clean",
                    lambda: np.where(mask < 1, clean, noise * scale + clean * (1 - scale)))  # fmt: skip
    whole, turned = np.where(mask < 1, 0.0, mask) * scale, np.where(mask < 1, 1 - mask, mask) * scale
    words = "the strength of conditionings as the mask, instead of 1 - strength"
    yield Candidate("conditioning.strength-inverted", words, lambda: noise * turned + clean * (1 - turned))
    words = "conditioned tokens kept whole, whatever their strength"
    yield Candidate("conditioning.strength-ignored", words, lambda: noise * whole + clean * (1 - whole))
    yield Candidate("noise.mask-ignored", "noise on the conditioned tokens, too", lambda: noise * scale + clean * (1 - scale))
    yield Candidate("mask.inverted", "the denoise mask's polarity inverted", lambda: noise * (1 - amount) + clean * amount)
    yield Candidate("noise.additive", "noise added instead of blended", lambda: clean + noise * amount)
    yield Candidate("noise.scale", "noise at full scale", lambda: noise * mask + clean * (1 - mask))
    yield Candidate("noise.missing", "no noise", lambda: clean)
    yield from _other_draws(suspect)


def _other_draws(suspect: Suspect) -> Iterator[Candidate]:
    """The same distribution, other numbers: no formula makes native from the reference, because nothing links them."""
    ours, theirs = suspect.native.astype(np.float64), suspect.reference.astype(np.float64)
    if ours.shape != theirs.shape or ours.std() == 0 or theirs.std() == 0:
        return
    changed = ~np.isclose(ours, theirs)
    if changed.sum() < 64:
        return
    a, b = ours[changed], theirs[changed]
    alike = abs(a.mean() - b.mean()) < 0.1 * b.std() and 0.85 < a.std() / b.std() < 1.18
    if alike and abs(np.corrcoef(a, b)[0, 1]) < 0.15:
        words = f"other random numbers of the same distribution (correlation {np.corrcoef(a, b)[0, 1]:+.2f})"
        yield Candidate("noise.other-draws", words, lambda: ours, FITTED + 1)


@hypotheses("state.*:denoise_mask", "*:attention_mask", "*:*.attention_mask", "*mask")
def masks(suspect: Suspect) -> Iterator[Candidate]:
    reference = suspect.reference
    if suspect.native.dtype == bool:
        return
    yield Candidate("mask.ones", "a mask of ones", lambda: np.ones_like(reference))
    yield Candidate("mask.zeros", "a mask of zeros", lambda: np.zeros_like(reference))
    yield Candidate("mask.inverted", "the mask's polarity inverted", lambda: 1 - reference)
    yield Candidate("mask.binary", "the mask rounded to 0 and 1", lambda: (reference > 0).astype(reference.dtype))
    given = reference < 1
    if given.any() and not given.all():
        words = "the strength of conditionings as the mask, instead of 1 - strength"
        yield Candidate("conditioning.strength-inverted", words, lambda: np.where(given, 1 - reference, reference))
        words = "conditioned tokens kept whole, whatever their strength"
        yield Candidate("conditioning.strength-ignored", words, lambda: np.where(given, 0.0, reference))
        target = int(suspect.given.get("tokens", reference.shape[1]))
        appended = np.concatenate([reference[:, :target], np.zeros_like(reference[:, target:])], axis=1)
        words = "appended tokens kept whole, whatever their strength"
        yield Candidate("conditioning.strength-ignored", words, lambda: appended)
    groups = suspect.given.get("appended")
    if groups:
        yield from _grown(suspect, int(suspect.given["noisy"]), list(groups))


def _grown(suspect: Suspect, noisy: int, groups: list[tuple[int, float]]) -> Iterator[Candidate]:
    """The mask between tokens that appended references bring: noisy ones see them by strength, they see themselves."""

    def grown(count_appended: bool = False, strength: bool = True, each_other: bool = False, one_way: bool = False) -> Array:
        total = noisy + sum(n for n, _ in groups)
        mask, at = np.zeros((total, total)), noisy
        mask[:noisy, :noisy] = 1.0
        for n, by in groups:
            seen = at if count_appended else noisy
            value = by if strength else 1.0
            mask[at : at + n, at : at + n] = 1.0
            mask[:seen, at : at + n] = value
            mask[at : at + n, :seen] = 0.0 if one_way else value
            if each_other:
                mask[noisy:at, at : at + n] = mask[at : at + n, noisy:at] = 1.0
            at += n
        return mask[None]

    yield Candidate("conditioning.noisy-count", "tokens appended before counted among the noisy ones", lambda: grown(True))
    yield Candidate("conditioning.strength", "the attention strength of the references ignored", lambda: grown(strength=False))
    yield Candidate("conditioning.references", "references that see each other", lambda: grown(each_other=True))
    yield Candidate("conditioning.references", "references that do not see the noisy tokens", lambda: grown(one_way=True))


@hypotheses("state.*:positions", "transformer:*.positions")
def positions(suspect: Suspect) -> Iterator[Candidate]:
    reference = suspect.reference.astype(np.float64)  # (B, axes, T, 2)
    if reference.shape[1] == 1:
        yield from _of_sound(reference)
        return
    rate = float(suspect.given.get("frame_rate", 24.0))
    target = int(suspect.given.get("tokens", reference.shape[2]))
    frames = np.rint(reference[:, 0] * rate)  # (B, T, 2): interval in pixel frames
    for other in RATES:
        if other != rate:
            words = f"times at {other:g} instead of {rate:g} frames a second"
            yield Candidate("positions.frame-rate", words, lambda o=other: _with_times(reference, frames / o))  # type: ignore[misc]
            if target < reference.shape[2]:
                words = f"times of the appended tokens at {other:g} instead of {rate:g} frames a second"
                yield Candidate("positions.frame-rate", words, lambda o=other: _behind(reference, frames / o, target))  # type: ignore[misc]
    yield Candidate("positions.unscaled", "times in frames instead of seconds", lambda: _with_times(reference, frames))
    single = np.stack([frames[..., 0], frames[..., 0] + 1], axis=-1) / rate
    words = "intervals of one frame for the appended tokens (as the causal fix gives the first frame)"
    yield Candidate("positions.interval", words, lambda: _behind(reference, single, target))
    yield Candidate("positions.interval", "intervals of one frame", lambda: _with_times(reference, single))
    for shift in (-8, -7, -1, 1, 7, 8):
        moved = (frames + shift) / rate
        words = f"moved by {shift:+d} frames"
        yield Candidate("positions.offset", f"all tokens {words}", lambda m=moved: _with_times(reference, m))  # type: ignore[misc]
        yield Candidate("positions.offset", f"appended tokens {words}", lambda m=moved: _behind(reference, m, target))  # type: ignore[misc]
        held = np.maximum(frames + shift, 0) / rate
        yield Candidate("positions.causal-fix", f"all tokens {words}, not below 0", lambda m=held: _with_times(reference, m))  # type: ignore[misc]
    plain = np.where(frames[..., :1] == 0, np.array([0.0, 8.0]), frames + 7) / rate
    yield Candidate("positions.causal-fix", "no causal fix of the first frame", lambda: _with_times(reference, plain))
    case = suspect.given.get("case")
    if case is not None and target and target % ((case.num_frames - 1) // 8 + 1) == 0:
        per_frame = target // ((case.num_frames - 1) // 8 + 1)
        wide = max(1, round(math.sqrt(per_frame * case.width / case.height)))
        if per_frame % wide == 0:
            words = "rows and columns swapped in the order of tokens"
            yield Candidate("positions.grid", words, lambda: _turned(reference, target, per_frame // wide, wide))
    for order in ((0, 2, 1), (1, 0, 2), (2, 1, 0)):
        words = f"axes in the order {order}"
        yield Candidate("positions.axes", words, lambda o=order: reference[:, list(o)])  # type: ignore[misc]
    for factor in (1 / 32, 32.0, 0.5, 2.0):
        scaled = reference * np.array([1, factor, factor])[None, :, None, None]
        yield Candidate("positions.space-scale", f"rows and columns times {factor:g}", lambda s=scaled: s)  # type: ignore[misc]
    for cause, dtype, narrow in ROUNDINGS:
        yield Candidate(cause, f"positions in {dtype}", lambda n=narrow: n(reference))  # type: ignore[misc]


def _turned(reference: Array, target: int, rows: int, columns: int) -> Array:
    """A grid counted column by column, its rows still called rows."""
    out = reference.copy()
    frames = target // (rows * columns)
    grid = reference[:, :, :target].reshape(*reference.shape[:2], frames, rows, columns, 2)
    out[:, :, :target] = grid.swapaxes(3, 4).reshape(out[:, :, :target].shape)
    return out


def _with_times(reference: Array, times: Array) -> Array:
    out = reference.copy()
    out[:, 0] = times
    return out


def _behind(reference: Array, times: Array, target: int) -> Array:
    """Other times for the tokens that conditionings appended behind the target's own."""
    out = reference.copy()
    out[:, 0, target:] = times[:, target:]
    return out


def _of_sound(reference: Array) -> Iterator[Candidate]:
    """Audio tokens of four mel frames of 10 ms; the encoder is causal: three frames earlier, not before 0."""
    count = reference.shape[2]
    index = np.arange(count + 1, dtype=np.float64)

    def spans(edges: Array) -> Array:
        return (np.stack([edges[:-1], edges[1:]], axis=-1) * 0.01)[None, None]

    yield Candidate("positions.causal-order", "the causal offset in latent instead of mel frames: (i + 1 - 4) x 4",
                    lambda: spans(np.maximum((index + 1 - 4) * 4, 0)))  # fmt: skip
    yield Candidate("positions.clamp", "the first interval not clamped at 0", lambda: spans(index * 4 - 3))
    only_start = spans(np.maximum(index * 4 - 3, 0))
    only_start[..., 0, 0] = -0.03
    yield Candidate("positions.clamp", "the first start not clamped at 0", lambda: only_start)
    yield Candidate("positions.causal-fix", "no causal offset", lambda: spans(index * 4))
    yield Candidate("positions.unscaled", "times in latent frames", lambda: spans(index * 100))
    yield Candidate("positions.unscaled", "times in mel frames", lambda: spans(np.maximum(index * 4 - 3, 0) * 100))
    for rate in (24000.0, 22050.0, 44100.0, 48000.0):
        words = f"a sampling rate of {rate:g} instead of 16,000"
        yield Candidate("positions.sample-rate", words, lambda r=rate: reference * 16000 / r)  # type: ignore[misc]


@hypotheses("upsampler:latent", "video_decoder:sample", "*decoder.conv_in*:x", "*:sample")
def statistics(suspect: Suspect) -> Iterator[Candidate]:
    """Latents with the VAE's mean and deviation per channel taken out, or put back."""
    std, mean = (suspect.parameter(f"per_channel_statistics.{n}-of-means") for n in ("std", "mean"))
    if std is None or mean is None or suspect.reference.shape[-1] != std.size:
        return
    reference = suspect.reference.astype(np.float64)
    plain = (reference - mean) / std
    yield Candidate("statistics.not-applied", "latents not un-normalised: the VAE's statistics not put back", lambda: plain)
    yield Candidate(
        "statistics.not-removed", "latents not normalised: the VAE's statistics not taken out", lambda: reference * std + mean
    )
    yield Candidate("statistics.swapped", "mean and deviation swapped", lambda: plain * mean + std)
    yield Candidate("statistics.inverse", "normalised instead of un-normalised", lambda: (plain - mean) / std)
    yield Candidate("statistics.order", "the mean added before the deviation multiplies", lambda: (plain + mean) * std)
    yield Candidate("statistics.mean-missing", "only the deviation put back", lambda: plain * std)
    low = bfloat16(bfloat16(bfloat16(plain) * bfloat16(std)) + bfloat16(mean))
    yield Candidate("dtype.bfloat16", "the VAE's statistics put back in bfloat16", lambda: low)
    yield Candidate("dtype.bfloat16", "the VAE's statistics in bfloat16", lambda: plain * bfloat16(std) + bfloat16(mean))


@hypotheses("video_encoder:sample")
def pictures(suspect: Suspect) -> Iterator[Candidate]:
    """An image on its way into the encoder, (B, F, H, W, 3) in [-1, 1]. It has passed a lossy codec: no edit fits exactly."""
    x = suspect.reference.astype(np.float64)
    edits: tuple[tuple[str, str, Array], ...] = (
        ("image.flipped", "the image upside-down", x[:, :, ::-1]),
        ("image.mirrored", "the image mirrored", x[:, :, :, ::-1]),
        ("image.turned", "the image turned by half", x[:, :, ::-1, ::-1]),
        ("image.channels", "red and blue swapped", x[..., ::-1]),
        ("image.range", "pixels in [0, 1] instead of [-1, 1]", (x + 1) / 2),
        ("image.range", "pixels in [0, 255] instead of [-1, 1]", (x + 1) * 127.5),
        ("image.negative", "the image's negative", -x),
    )
    for cause, words, predicted in edits:
        yield Candidate(cause, words, lambda p=predicted: p, enough=0.6)  # type: ignore[misc]


@hypotheses("audio_encoder:spectrogram", "AudioProcessor", "audio_processor:*")
def log_mel(suspect: Suspect) -> Iterator[Candidate]:
    """A factor on the sound is an offset of its logarithm, where the floor of 1e-5 does not hold it."""
    reference = suspect.reference.astype(np.float64)
    low = np.log(1e-5)
    loud = (reference > low + 0.1) & (suspect.native > low + 0.1)
    offset = float(np.median((suspect.native - reference)[loud])) if loud.any() else 0.0
    # What lay below the floor may come up from it; by how much the spectrogram cannot tell.
    hidden = np.clip(suspect.native, low, low + max(offset, 0.0))
    words = f"a sound scaled by {np.exp(offset):.4g} before its spectrogram"
    yield Candidate(
        "sound.scaled", words, lambda: np.where(reference <= low + 1e-3, hidden, np.maximum(reference + offset, low)), VALUE
    )
    yield from _spectrograms(suspect)
    yield Candidate("sound.logarithm", "log10 instead of the natural logarithm", lambda: reference / np.log(10))
    yield Candidate("sound.logarithm", "decibels instead of the natural logarithm", lambda: 20 * reference / np.log(10))
    yield Candidate("sound.power", "the power instead of the magnitude", lambda: 2 * reference)
    yield Candidate("sound.channels", "left and right swapped", lambda: reference[..., ::-1])
    yield Candidate("sound.channels", "both channels the mean of both",
                    lambda: np.broadcast_to(reference.mean(-1, keepdims=True), reference.shape))  # fmt: skip


def _spectrograms(suspect: Suspect) -> Iterator[Candidate]:
    """The log-mel spectrogram made again from the sound itself, where the run has kept it."""
    from parity.hypotheses.mel import LogMel

    sound, rate = suspect.given.get("waveform"), suspect.given.get("sampling_rate")
    if not isinstance(sound, np.ndarray) or rate is None:
        return
    official = LogMel(sound, int(rate))
    for cause, words, changes in official.edits():
        yield Candidate(cause, words, lambda c=changes: official.made(suspect.native.shape, **c))  # type: ignore[misc]
