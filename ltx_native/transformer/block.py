"""One transformer block: self-attention, text, the other modality, feed-forward, each modulated by AdaLN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from ltx_native.layers import Attention, FeedForward
from ltx_native.transformer.args import TransformerArgs
from ltx_native.transformer.perturbations import BatchedPerturbationConfig, PerturbationType


@dataclass(frozen=True)
class Stream:
    """Sizes of one modality's stream through the blocks."""

    dim: int
    heads: int
    d_head: int
    context_dim: int


def ada_values(table: mx.array, timestep: mx.array, rows: mx.array | None, values: slice) -> Sequence[mx.array]:
    """Rows ``values`` of table + timestep, each (B, 1 or T, D)."""
    batch, count, _ = timestep.shape
    timestep = timestep.reshape(batch, count, table.shape[0], -1)[:, :, values]
    ada = table[values].astype(timestep.dtype) + timestep  # (B, rows, n, D)
    if rows is not None:
        ada = mx.take(ada, rows, axis=1)  # (B, T, n, D)
    return [ada[:, :, i] for i in range(ada.shape[2])]


def modulate(x: mx.array, scale: mx.array, shift: mx.array, eps: float) -> mx.array:
    return mx.fast.rms_norm(x, None, eps) * (1 + scale) + shift


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
        batch = (video or audio).x.shape[0]  # type: ignore[union-attr]
        perturbations = perturbations or BatchedPerturbationConfig.empty(batch)
        vx, ax = video.x if video else None, audio.x if audio else None
        run_video = video is not None and video.enabled and vx.size > 0
        run_audio = audio is not None and audio.enabled and ax.size > 0

        # Each stream to itself, then to its text.
        if video and run_video:
            skip = PerturbationType.SKIP_VIDEO_SELF_ATTN
            vx = vx + self._self_attention(self.attn1, self.scale_shift_table, vx, video, perturbations, skip)
            vx = vx + self._text(self.attn2, self.scale_shift_table, self.get("prompt_scale_shift_table"), vx, video)
        if audio and run_audio:
            table, prompt_table = self.audio_scale_shift_table, self.get("audio_prompt_scale_shift_table")
            skip = PerturbationType.SKIP_AUDIO_SELF_ATTN
            ax = ax + self._self_attention(self.audio_attn1, table, ax, audio, perturbations, skip)
            ax = ax + self._text(self.audio_attn2, table, prompt_table, ax, audio)

        # Each stream to the other, both as they were before either moved.
        if video and audio and vx.size > 0 and ax.size > 0:
            vx, ax = self._cross_modal(vx, ax, video, audio, run_video, run_audio, perturbations)

        if video and run_video:
            vx = vx + self._feed_forward(self.ff, self.scale_shift_table, vx, video)
        if audio and run_audio:
            ax = ax + self._feed_forward(self.audio_ff, self.audio_scale_shift_table, ax, audio)

        return replace(video, x=vx) if video else None, replace(audio, x=ax) if audio else None

    def _self_attention(
        self,
        attn: Attention,
        table: mx.array,
        x: mx.array,
        args: TransformerArgs,
        perturbations: BatchedPerturbationConfig,
        skip: PerturbationType,
    ) -> mx.array:
        shift, scale, gate = ada_values(table, args.timesteps, args.timestep_rows, slice(0, 3))
        everywhere = perturbations.all_in_batch(skip, self.idx)
        out = attn(
            modulate(x, scale, shift, self.norm_eps),
            pe=args.positional_embeddings,
            mask=args.self_attention_mask,
            perturbation_mask=None if everywhere else perturbations.mask_like(skip, self.idx, x),
            all_perturbed=everywhere,
        )
        return out * gate

    def _text(
        self, attn: Attention, table: mx.array, prompt_table: mx.array | None, x: mx.array, args: TransformerArgs
    ) -> mx.array:
        if prompt_table is None:
            return attn(mx.fast.rms_norm(x, None, self.norm_eps), context=args.context, mask=args.context_mask)
        shift_q, scale_q, gate = ada_values(table, args.timesteps, args.timestep_rows, slice(6, 9))
        shift_kv, scale_kv = ada_values(prompt_table, args.prompt_timestep, None, slice(0, 2))
        context = args.context * (1 + scale_kv) + shift_kv
        return attn(modulate(x, scale_q, shift_q, self.norm_eps), context=context, mask=args.context_mask) * gate

    def _cross_modal(
        self,
        vx: mx.array,
        ax: mx.array,
        video: TransformerArgs,
        audio: TransformerArgs,
        run_video: bool,
        run_audio: bool,
        perturbations: BatchedPerturbationConfig,
    ) -> tuple[mx.array, mx.array]:
        # Scale before shift here, unlike in the main tables.
        v_table, a_table = self.scale_shift_table_a2v_ca_video, self.scale_shift_table_a2v_ca_audio
        v = ada_values(v_table[:4], video.cross_scale_shift_timestep, video.timestep_rows, slice(0, 4))
        a = ada_values(a_table[:4], audio.cross_scale_shift_timestep, audio.timestep_rows, slice(0, 4))
        v_norm, a_norm = mx.fast.rms_norm(vx, None, self.norm_eps), mx.fast.rms_norm(ax, None, self.norm_eps)

        skip = PerturbationType.SKIP_A2V_CROSS_ATTN
        if run_video and not perturbations.all_in_batch(skip, self.idx):
            (gate,) = ada_values(v_table[4:], video.cross_gate_timestep, None, slice(0, 1))
            out = self.audio_to_video_attn(
                v_norm * (1 + v[0]) + v[1],
                context=a_norm * (1 + a[0]) + a[1],
                pe=video.cross_positional_embeddings,
                k_pe=audio.cross_positional_embeddings,
            )
            vx = vx + kept(out * gate, perturbations.mask_like(skip, self.idx, vx))

        skip = PerturbationType.SKIP_V2A_CROSS_ATTN
        if run_audio and not perturbations.all_in_batch(skip, self.idx):
            (gate,) = ada_values(a_table[4:], audio.cross_gate_timestep, None, slice(0, 1))
            out = self.video_to_audio_attn(
                a_norm * (1 + a[2]) + a[3],
                context=v_norm * (1 + v[2]) + v[3],
                pe=audio.cross_positional_embeddings,
                k_pe=video.cross_positional_embeddings,
            )
            ax = ax + kept(out * gate, perturbations.mask_like(skip, self.idx, ax))
        return vx, ax

    def _feed_forward(self, ff: FeedForward, table: mx.array, x: mx.array, args: TransformerArgs) -> mx.array:
        shift, scale, gate = ada_values(table, args.timesteps, args.timestep_rows, slice(3, 6))
        return ff(modulate(x, scale, shift, self.norm_eps)) * gate
