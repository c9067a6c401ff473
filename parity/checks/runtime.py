"""The same model in other circumstances: two samples at once, passes in one batch or compiled, long sequences, bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_native import layers
from ltx_native.conditioning import LatentState
from ltx_native.models import Models
from ltx_native.pipelines import denoise
from ltx_native.pipelines.one_stage import one_stage
from ltx_native.pipelines.stages import Context
from ltx_native.request import Request
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.passes import Pass
from ltx_native.transformer.perturbations import BatchedPerturbationConfig, PerturbationConfig
from parity.capture.replay import Replayer
from parity.checks.exam import Clue, Exam, Problem
from parity.hypotheses.base import Candidate
from parity.taps import tapped
from parity.trace import Record, Trace

STEP = 2e-5


def _forwards(exam: Exam) -> tuple[Trace, dict[str, Record]]:
    """The transformer's records of the second step of the first case by guidance pass."""
    trace = exam.evidence.traces[exam.evidence.entries[0].case.name]
    return trace, {str(r.key.guidance_pass): r for r in trace.site("transformer") if r.key.step == 1}


def _given(trace: Trace, record: Record) -> dict[str, Any]:
    replayer = Replayer({}, trace)
    return {name: replayer.value(tree, "transformer", ("", name)) for name, tree in record.inputs.items()}


def _stacked(one: Modality, other: Modality) -> Modality:
    names = ("latent", "sigma", "timesteps", "positions", "context")
    both: dict[str, Any] = {n: mx.concatenate([getattr(one, n), getattr(other, n)]) for n in names}
    return replace(one, **both)


def batches(exam: Exam) -> Iterator[Problem]:
    """Two samples that differ in everything, positions too, give what each gives alone; half of a batch perturbed, too."""
    trace, records = _forwards(exam)
    model = exam.module("transformer")
    first, second = (_given(trace, records[name]) for name in ("cond", "uncond"))
    moved = {k: replace(second[k], positions=1.5 * second[k].positions + 0.37, timesteps=second[k].timesteps * 0.5) for k in
             ("video", "audio")}  # fmt: skip
    alone = model(**moved, perturbations=None)
    together = model(*(_stacked(first[k], moved[k]) for k in ("video", "audio")), None)
    expected = [trace.tensor(leaf) for leaf in records["cond"].outputs["items"]]
    for index, name in enumerate(("video", "audio")):
        site, what = "transformer", f"{name} velocity of a sample in a batch of two"
        yield from exam.compare("batches", "transformer", site, together[index][:1], expected[index], STEP, what)
        clue = Clue(candidates=tuple(_first_for_all(model, first, moved, index)))
        yield from exam.compare("batches", "transformer", site, together[index][1:], np.array(alone[index]), STEP, what, clue)
    perturbed = _given(trace, records["stg"])["perturbations"].perturbations[0]
    half = BatchedPerturbationConfig([PerturbationConfig.empty(), perturbed])
    again = model(*(_stacked(first[k], first[k]) for k in ("video", "audio")), half)
    wanted = [trace.tensor(leaf) for leaf in records["stg"].outputs["items"]]
    for index, name in enumerate(("video", "audio")):
        what = f"{name} velocity of the perturbed half of a batch"
        yield from exam.compare("batches", "transformer", "transformer", again[index][1:], wanted[index], STEP, what)


def _first_for_all(model: Any, first: Mapping[str, Any], second: Mapping[str, Any], index: int) -> Iterator[Candidate]:
    """What the second sample gives alone when one of its inputs is the first one's."""
    for name in ("positions", "timesteps", "sigma", "context", "latent"):
        mixed = {k: replace(second[k], **{name: getattr(first[k], name)}) for k in ("video", "audio")}
        words = f"the first sample's {name} for every sample of the batch"
        yield Candidate("batch.first-for-all", words, lambda m=mixed: np.array(model(**m, perturbations=None)[index]))  # type: ignore[misc]


def passes(exam: Exam) -> Iterator[Problem]:
    """All guidance passes of a step in one batch, as the engine runs them outside captures, give the reference's."""
    trace, records = _forwards(exam)
    model = exam.module("transformer")
    jobs, contexts = [], {name: _given(trace, record) for name, record in records.items()}
    for name, given in contexts.items():
        text = contexts["uncond" if name == "uncond" else "cond"]
        perturbations = given["perturbations"].perturbations[0] if given["perturbations"] else None
        jobs.append(Pass(name, text["video"].context, text["audio"].context, perturbations))
    batched = vars(denoise)["run_batched"]  # as the loop calls it
    found = batched(model, contexts["cond"]["video"], contexts["cond"]["audio"], jobs)
    for job, velocities in zip(jobs, found, strict=True):
        expected = [trace.tensor(leaf) for leaf in records[job.name].outputs["items"]]
        for index, name in enumerate(("video", "audio")):
            what = f"{name} velocity of pass {job.name}, batched"
            plain = trace.tensor(records["cond"].outputs["items"][index])
            words = "the perturbation of the pass ignored: it is the conditional pass"
            clue = Clue(candidates=(Candidate("perturbation.ignored", words, lambda p=plain: p),))  # type: ignore[misc]
            yield from exam.compare(
                "passes", "transformer", "transformer", velocities[index], expected[index], STEP, what, clue
            )
    yield from _masked(exam, contexts["cond"])


def _masked(exam: Exam, given: Mapping[str, Any]) -> Iterator[Problem]:
    """A denoise mask of few values: batched, tokens share embeddings; one by one, each has its own, as officially."""
    states: list[LatentState] = []
    for kind, kinds in (("video", 3), ("audio", 2)):
        modality = given[kind]
        values = mx.arange(modality.latent.shape[1]) % kinds / (kinds - 1)
        mask = values.astype(mx.float32).reshape(1, -1, 1)
        states.append(LatentState(modality.latent, mask, modality.positions, modality.latent))
    text = Context(given["video"].context, given["audio"].context, mx.ones((1, 1)))
    model = exam.module("transformer")
    denoisers = (denoise.Denoiser(model, text, batch=batch, compiled=False) for batch in (True, False))
    one, other = (denoiser(states[0], states[1], 0.7, 0)[0] for denoiser in denoisers)
    for index, name in enumerate(("video", "audio")):
        what = f"{name} estimate under a mask of few values, batched"
        yield from exam.compare("passes", "transformer", "transformer", one[index], np.array(other[index]), STEP, what)


def long(exam: Exam) -> Iterator[Problem]:
    """Attention over 2,304 tokens, no multiple of a tile, against NumPy in float64."""
    rng = np.random.default_rng(11)
    q, k, v = (rng.standard_normal((1, 1, n, 8)) for n in (40, 2304, 2304))
    scores = q @ k.swapaxes(-1, -2) * 8**-0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights @ v / weights.sum(-1, keepdims=True)
    attention = vars(layers)["attention"]  # as the layers call it
    ours = attention(*(mx.array(a.astype(np.float32)) for a in (q, k, v)), 8**-0.5, None)
    clue = Clue(type="attention kernel", given={"q": q, "k": k, "v": v})
    yield from exam.compare("long", "transformer", "transformer.attention", ours, expected, STEP, "2,304 keys", clue)


def norms(exam: Exam) -> Iterator[Problem]:
    """Norms of tokens a thousand times smaller than usual, where another eps shows, against the formula."""
    rng = np.random.default_rng(17)
    stated = exam.native.config.transformer.norm_eps
    model = exam.module("transformer")
    for index, block in enumerate(model.transformer_blocks):
        x = 1e-3 * rng.standard_normal((1, 4, exam.native.config.transformer.inner_dim)).astype(np.float32)
        expected = x / np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True) + stated)
        site = f"transformer.transformer_blocks.{index}"
        clue = Clue(type="RMSNorm", given={"x": x, "eps": stated})
        normed = block._norm(mx.array(x))
        yield from exam.compare("norms", "transformer", site, normed, expected, STEP, "norm of small tokens", clue)
    for component in ("gemma", "embeddings_processor", "transformer", "video_encoder", "video_decoder", "audio_decoder"):
        for path, layer in exam.module(component).named_modules():
            eps = exam.facts.values["eps"].get(f"{component}.{path}")
            if eps is None or type(layer).__name__ not in ("RMSNorm", "PixelNorm"):
                continue
            weight = np.array(layer.weight) + (component == "gemma") if "weight" in layer else np.ones(16)
            x = 1e-3 * rng.standard_normal((1, 2, 1, 2, weight.size)).astype(np.float32)
            scale = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True) + eps)
            site = f"{component}.{path}"
            kind = "Gemma3RMSNorm" if component == "gemma" else type(layer).__name__
            clue = Clue(type=kind, given={"x": x, "eps": eps})
            yield from exam.compare(
                "norms", component, site, layer(mx.array(x)), x / scale * weight, STEP, "norm of small tokens", clue
            )


def dtypes(exam: Exam) -> Iterator[Problem]:
    """One bfloat16 step through the pipeline: roots are handed bfloat16, and no module of the transformer widens it."""
    models = Models(exam.native, mx.bfloat16, keep=True)
    component = ("transformer", "video_decoder", "audio_decoder")
    wide: list[tuple[str, str]] = []

    def on_call(site: str, module: Any, inputs: Mapping[str, Any], output: Any) -> None:
        # A decoder that streams a clip is entered at its first convolution, not at its root.
        root = "." not in site or site == "video_decoder.conv_in.conv"
        block = site.startswith("transformer.transformer_blocks.") and site.count(".") == 3
        values = [*inputs.values()] if root or block else []
        given = [v for v in values if isinstance(v, mx.array)] + [v.latent for v in values if isinstance(v, Modality)]
        outputs = output if isinstance(output, tuple) else (output,)
        made = [getattr(one, "x", one) for one in outputs] if root or block else []
        if any(isinstance(a, mx.array) and a.dtype == mx.float32 for a in (*given, *made)):
            wide.append((site, "is handed or gives float32 where the model is in bfloat16"))

    request = Request(
        "a fox", width=64, height=64, num_frames=9, steps=1, guidance=1.0, stg_scale=0.0, modality_scale=1.0,
        audio_guidance=1.0, audio_stg_scale=0.0, audio_modality_scale=1.0,
    )  # fmt: skip
    with tapped(models.load_all(component), on_call):
        for stage in one_stage(models, request, batch_guidance=None):
            if stage.name == "frames":
                break
    site, text = wide[0] if wide else ("transformer", "")
    yield from exam.require("dtypes", site.split(".")[0], site, not wide, text)
