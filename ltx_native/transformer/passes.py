"""The guidance passes of one denoising step in one run through the blocks.

All passes look at the same noisy tokens at the same noise level. So the embeddings are made once, passes with the same
text share its keys and values, and a pass that only leaves something out from block n on takes the conditional pass's
tokens until there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import mlx.core as mx

from ltx_native.transformer.args import TransformerArgs
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.model import LTXModel
from ltx_native.transformer.perturbations import BatchedPerturbationConfig, PerturbationConfig

Velocities = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class Pass:
    """One guidance pass: its text for each modality and what it leaves out."""

    name: str
    video_context: mx.array  # (1, S, D)
    audio_context: mx.array
    perturbations: PerturbationConfig | None = None
    video_enabled: bool = True
    audio_enabled: bool = True

    def batched(self) -> BatchedPerturbationConfig | None:
        return None if self.perturbations is None else BatchedPerturbationConfig([self.perturbations])


def run_one(model: LTXModel, video: Modality, audio: Modality, one: Pass) -> Velocities:
    """A pass by itself, as the official code runs it."""
    velocities = model(
        replace(video, context=one.video_context, enabled=one.video_enabled),
        replace(audio, context=one.audio_context, enabled=one.audio_enabled),
        one.batched(),
    )
    return cast(Velocities, velocities)


def can_batch(passes: Sequence[Pass]) -> bool:
    """Passes that differ in which modality runs cannot share a batch."""
    return len({(one.video_enabled, one.audio_enabled) for one in passes}) == 1


def run_batched(model: LTXModel, video: Modality, audio: Modality, passes: Sequence[Pass]) -> list[Velocities]:
    """All passes together; ``video`` and ``audio`` have batch 1 and their contexts are not used."""
    num_layers = len(model.transformer_blocks)
    contexts, context_of = _shared_contexts(passes)
    leaves = [_leaves_first(one, passes[0], num_layers) for one in passes]
    running = [i for i, block in enumerate(leaves) if block == 0]

    video = replace(video, context=mx.concatenate([c[0] for c in contexts]), enabled=passes[0].video_enabled)
    audio = replace(audio, context=mx.concatenate([c[1] for c in contexts]), enabled=passes[0].audio_enabled)
    video_args: TransformerArgs | None = _rows(model.prepare_video(video, audio), [0] * len(running), running, context_of)
    audio_args: TransformerArgs | None = _rows(model.prepare_audio(audio, video), [0] * len(running), running, context_of)

    for index, block in enumerate(model.transformer_blocks):
        joining = [i for i, first in enumerate(leaves) if first == index and i not in running]
        if joining:
            sources = [*range(len(running)), *[0] * len(joining)]  # pass 0 is the conditional one
            running += joining
            video_args = _rows(video_args, sources, running, context_of)
            audio_args = _rows(audio_args, sources, running, context_of)
        perturbed = BatchedPerturbationConfig([passes[i].perturbations or PerturbationConfig.empty() for i in running])
        video_args, audio_args = block(video=video_args, audio=audio_args, perturbations=perturbed)

    assert video_args is not None and audio_args is not None  # noqa: PT018
    velocities = model.velocity(video_args), model.audio_velocity(audio_args)
    # A pass that left nothing out anywhere is the conditional pass.
    place = [running.index(i) if i in running else 0 for i in range(len(passes))]
    return [(velocities[0][at : at + 1], velocities[1][at : at + 1]) for at in place]


def _leaves_first(one: Pass, conditional: Pass, num_layers: int) -> int:
    """The block at which a pass stops being the conditional one (0: from the start)."""
    if one is conditional or one.video_context is not conditional.video_context:
        return 0
    if one.audio_context is not conditional.audio_context:
        return 0
    batched = one.batched()
    return num_layers if batched is None else batched.first_difference(num_layers)


def _shared_contexts(passes: Sequence[Pass]) -> tuple[list[tuple[mx.array, mx.array]], list[int]]:
    contexts: list[tuple[mx.array, mx.array]] = []
    context_of = []
    for one in passes:
        known = [i for i, c in enumerate(contexts) if c[0] is one.video_context and c[1] is one.audio_context]
        if not known:
            contexts.append((one.video_context, one.audio_context))
        context_of.append(known[0] if known else len(contexts) - 1)
    return contexts, context_of


def _rows(args: TransformerArgs | None, sources: list[int], running: list[int], context_of: list[int]) -> TransformerArgs:
    """``args`` for the passes now running, each taking its tokens from row ``sources[i]``."""
    assert args is not None
    rows = [context_of[i] for i in running]
    in_order = rows == list(range(args.context.shape[0]))  # every sample has a context of its own: nothing to pick
    x = args.x if sources == list(range(args.x.shape[0])) else mx.take(args.x, mx.array(sources), axis=0)
    return replace(args, x=x, context_rows=None if in_order else mx.array(rows))
