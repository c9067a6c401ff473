"""One transformer block: self-attention, text, the other modality, feed-forward, each modulated by AdaLN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from ltx_native.kernels import few, fused
from ltx_native.layers import Attention, FeedForward, rms_norm
from ltx_native.transformer.args import TransformerArgs
from ltx_native.transformer.perturbations import BatchedPerturbationConfig, PerturbationType


@dataclass(frozen=True)
class Stream:
    """Sizes of one modality's stream through the blocks."""

    dim: int
    heads: int
    d_head: int
    context_dim: int


def ada_values(table: mx.array, timestep: mx.array | None, rows: mx.array | None, values: slice) -> Sequence[mx.array]:
    """Rows ``values`` of table + timestep, each (B, 1 or T, D)."""
    assert timestep is not None, "this modulation needs a timestep embedding that was not prepared"
    dim, count = table.shape[1], values.stop - values.start
    if count < table.shape[0]:
        table, timestep = table[values], timestep[..., values.start * dim : values.stop * dim]
    ada = table.reshape(-1).astype(timestep.dtype) + timestep  # (B, rows, n * D)
    if rows is not None:
        ada = mx.take(ada, rows, axis=1)  # (B, T, n * D)
    return list(mx.split(ada, count, axis=-1))


def modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    return _fused_modulate(x, scale, shift) if few(x) else _modulate(x, scale, shift)


def _modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    return x * (1 + scale) + shift


_fused_modulate = fused(_modulate)


def kept(update: mx.array, mask: mx.array | None) -> mx.array:
    return update if mask is None else update * mask


class BasicAVTransformerBlock(nn.Module):
    def __init__(
        self,
        idx: int,
        video: Stream,
        audio: Stream,
        norm_eps: float,
        rope_type: str,
        apply_gated_attention: bool,
        cross_attention_adaln: bool,
    ):
        super().__init__()
        self.idx = idx
        self.norm_eps = norm_eps
        self.cross_attention_adaln = cross_attention_adaln

        def attention(query: int, context: int | None, heads: Stream) -> Attention:
            return Attention(
                query_dim=query,
                context_dim=context,
                heads=heads.heads,
                dim_head=heads.d_head,
                norm_eps=norm_eps,
                rope_type=rope_type,
                apply_gated_attention=apply_gated_attention,
            )

        rows = 9 if cross_attention_adaln else 6
        self.attn1 = attention(video.dim, None, video)
        self.attn2 = attention(video.dim, video.context_dim, video)
        self.ff = FeedForward(video.dim, dim_out=video.dim)
        self.scale_shift_table = mx.zeros((rows, video.dim))

        self.audio_attn1 = attention(audio.dim, None, audio)
        self.audio_attn2 = attention(audio.dim, audio.context_dim, audio)
        self.audio_ff = FeedForward(audio.dim, dim_out=audio.dim)
        self.audio_scale_shift_table = mx.zeros((rows, audio.dim))

        # Both cross-modal attentions have the audio stream's heads.
        self.audio_to_video_attn = attention(video.dim, audio.dim, audio)
        self.video_to_audio_attn = attention(audio.dim, video.dim, audio)
        self.scale_shift_table_a2v_ca_audio = mx.zeros((5, audio.dim))
        self.scale_shift_table_a2v_ca_video = mx.zeros((5, video.dim))

        if cross_attention_adaln:
            self.prompt_scale_shift_table = mx.zeros((2, video.dim))
            self.audio_prompt_scale_shift_table = mx.zeros((2, audio.dim))

    def __call__(
        self,
        video: TransformerArgs | None,
        audio: TransformerArgs | None,
        perturbations: BatchedPerturbationConfig | None = None,
    ) -> tuple[TransformerArgs | None, TransformerArgs | None]:
        run_video = video is not None and video.enabled and video.x.size > 0
        run_audio = audio is not None and audio.enabled and audio.x.size > 0

        # Each stream to itself, then to its text.
        if video and run_video:
            skip = PerturbationType.SKIP_VIDEO_SELF_ATTN
            video = self._self_attention(video, self.attn1, self.scale_shift_table, skip, perturbations)
            video = self._text(video, self.attn2, self.scale_shift_table, self.get("prompt_scale_shift_table"))
        if audio and run_audio:
            table, prompt_table = self.audio_scale_shift_table, self.get("audio_prompt_scale_shift_table")
            skip = PerturbationType.SKIP_AUDIO_SELF_ATTN
            audio = self._self_attention(audio, self.audio_attn1, table, skip, perturbations)
            audio = self._text(audio, self.audio_attn2, table, prompt_table)

        # Each stream to the other, both as they were before either moved.
        if video and audio and video.x.size > 0 and audio.x.size > 0:
            video, audio = self._exchange(video, audio, run_video, run_audio, perturbations)

        if video and run_video:
            video = self._feed_forward(video, self.ff, self.scale_shift_table)
        if audio and run_audio:
            audio = self._feed_forward(audio, self.audio_ff, self.audio_scale_shift_table)
        return video, audio

    def _norm(self, x: mx.array) -> mx.array:
        return rms_norm(x, eps=self.norm_eps)

    def _self_attention(
        self,
        args: TransformerArgs,
        attn: Attention,
        table: mx.array,
        skip: PerturbationType,
        perturbations: BatchedPerturbationConfig | None,
    ) -> TransformerArgs:
        x = args.x
        shift, scale, gate = ada_values(table, args.timesteps, args.timestep_rows, slice(0, 3))
        everywhere = perturbations is not None and perturbations.all_in_batch(skip, self.idx)
        partly = perturbations is not None and not everywhere
        out = attn(
            modulate(self._norm(x), scale, shift),
            pe=args.positional_embeddings,
            mask=args.self_attention_mask,
            perturbation_mask=perturbations.mask_like(skip, self.idx, x) if perturbations and partly else None,
            all_perturbed=everywhere,
        )
        return replace(args, x=x + out * gate)

    def _text(self, args: TransformerArgs, attn: Attention, table: mx.array, prompt_table: mx.array | None) -> TransformerArgs:
        x = args.x
        if prompt_table is None:
            text = attn(self._norm(x), context=args.context, mask=args.context_mask, context_rows=args.context_rows)
            return replace(args, x=x + text)
        shift_q, scale_q, gate = ada_values(table, args.timesteps, args.timestep_rows, slice(6, 9))
        shift_kv, scale_kv = ada_values(prompt_table, args.prompt_timestep, None, slice(0, 2))
        out = attn(
            modulate(self._norm(x), scale_q, shift_q),
            context=modulate(args.context, scale_kv, shift_kv),
            mask=args.context_mask,
            context_rows=args.context_rows,
        )
        return replace(args, x=x + out * gate)

    def _exchange(
        self,
        video: TransformerArgs,
        audio: TransformerArgs,
        run_video: bool,
        run_audio: bool,
        perturbations: BatchedPerturbationConfig | None,
    ) -> tuple[TransformerArgs, TransformerArgs]:
        # Scale before shift here, unlike in the main tables; rows 0-1 for audio to video, 2-3 for video to audio.
        v_table, a_table = self.scale_shift_table_a2v_ca_video, self.scale_shift_table_a2v_ca_audio
        v = ada_values(v_table[:4], video.cross_scale_shift_timestep, video.timestep_rows, slice(0, 4))
        a = ada_values(a_table[:4], audio.cross_scale_shift_timestep, audio.timestep_rows, slice(0, 4))
        vx, ax = video.x, audio.x
        v_norm, a_norm = self._norm(vx), self._norm(ax)

        skip = PerturbationType.SKIP_A2V_CROSS_ATTN
        if run_video and not (perturbations and perturbations.all_in_batch(skip, self.idx)):
            (gate,) = ada_values(v_table[4:], video.cross_gate_timestep, None, slice(0, 1))
            out = self.audio_to_video_attn(
                modulate(v_norm, v[0], v[1]),
                context=modulate(a_norm, a[0], a[1]),
                pe=video.cross_positional_embeddings,
                k_pe=audio.cross_positional_embeddings,
            )
            mask = perturbations.mask_like(skip, self.idx, vx) if perturbations else None
            video = replace(video, x=vx + kept(out * gate, mask))

        skip = PerturbationType.SKIP_V2A_CROSS_ATTN
        if run_audio and not (perturbations and perturbations.all_in_batch(skip, self.idx)):
            (gate,) = ada_values(a_table[4:], audio.cross_gate_timestep, None, slice(0, 1))
            out = self.video_to_audio_attn(
                modulate(a_norm, a[2], a[3]),
                context=modulate(v_norm, v[2], v[3]),
                pe=audio.cross_positional_embeddings,
                k_pe=video.cross_positional_embeddings,
            )
            mask = perturbations.mask_like(skip, self.idx, ax) if perturbations else None
            audio = replace(audio, x=ax + kept(out * gate, mask))
        return video, audio

    def _feed_forward(self, args: TransformerArgs, ff: FeedForward, table: mx.array) -> TransformerArgs:
        x = args.x
        shift, scale, gate = ada_values(table, args.timesteps, args.timestep_rows, slice(3, 6))
        return replace(args, x=x + ff(modulate(self._norm(x), scale, shift)) * gate)
