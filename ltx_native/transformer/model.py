"""The LTX-2.3 audio-video transformer: noisy tokens of both modalities in, their velocities out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from ltx_native.config import TransformerConfig
from ltx_native.layers import Linear
from ltx_native.rope import generate_freq_grid_float32, generate_freq_grid_np, precompute_freqs_cis
from ltx_native.transformer.adaln import AdaLayerNormSingle
from ltx_native.transformer.args import TransformerArgs, context_bias, self_attention_bias
from ltx_native.transformer.block import BasicAVTransformerBlock, Stream
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.perturbations import BatchedPerturbationConfig

# Positions do not change in a run: this many tables are kept (two stages x two modalities x own and cross).
ROPE_TABLES_KEPT = 8


class Block(Protocol):
    """What the model asks of a transformer block."""

    def __call__(
        self,
        video: TransformerArgs | None,
        audio: TransformerArgs | None,
        perturbations: BatchedPerturbationConfig | None = None,
    ) -> tuple[TransformerArgs | None, TransformerArgs | None]: ...


def streams(c: TransformerConfig) -> tuple[Stream, Stream]:
    """Sizes of the video and of the audio stream."""
    video = Stream(c.inner_dim, c.num_attention_heads, c.attention_head_dim, c.cross_attention_dim)
    audio = Stream(c.audio_inner_dim, c.audio_num_attention_heads, c.audio_attention_head_dim, c.audio_cross_attention_dim)
    return video, audio


def make_block(c: TransformerConfig, idx: int) -> BasicAVTransformerBlock:
    video, audio = streams(c)
    return BasicAVTransformerBlock(
        idx=idx,
        video=video,
        audio=audio,
        norm_eps=c.norm_eps,
        rope_type=c.rope_type,
        apply_gated_attention=c.apply_gated_attention,
        cross_attention_adaln=c.cross_attention_adaln,
    )


class LTXModel(nn.Module):
    def __init__(self, config: TransformerConfig, blocks: Sequence[Block] | None = None):
        super().__init__()
        c = self.config = config
        video, audio = streams(c)
        rows = 9 if c.cross_attention_adaln else 6
        self._rope_tables: dict[tuple[int, int, int], tuple[mx.array, tuple[mx.array, mx.array]]] = {}

        self.patchify_proj = Linear(c.in_channels, video.dim)
        self.adaln_single = AdaLayerNormSingle(video.dim, rows)
        self.scale_shift_table = mx.zeros((2, video.dim))
        self.norm_out = nn.LayerNorm(video.dim, eps=c.norm_eps, affine=False)
        self.proj_out = Linear(video.dim, c.out_channels)

        self.audio_patchify_proj = Linear(c.audio_in_channels, audio.dim)
        self.audio_adaln_single = AdaLayerNormSingle(audio.dim, rows)
        self.audio_scale_shift_table = mx.zeros((2, audio.dim))
        self.audio_norm_out = nn.LayerNorm(audio.dim, eps=c.norm_eps, affine=False)
        self.audio_proj_out = Linear(audio.dim, c.audio_out_channels)

        if c.cross_attention_adaln:
            self.prompt_adaln_single = AdaLayerNormSingle(video.dim, 2)
            self.audio_prompt_adaln_single = AdaLayerNormSingle(audio.dim, 2)

        self.av_ca_video_scale_shift_adaln_single = AdaLayerNormSingle(video.dim, 4)
        self.av_ca_audio_scale_shift_adaln_single = AdaLayerNormSingle(audio.dim, 4)
        self.av_ca_a2v_gate_adaln_single = AdaLayerNormSingle(video.dim, 1)
        self.av_ca_v2a_gate_adaln_single = AdaLayerNormSingle(audio.dim, 1)

        # A list is part of the module's tree; any other sequence brings its own weights when a block is called.
        self.transformer_blocks = [make_block(c, idx) for idx in range(c.num_layers)] if blocks is None else blocks

    @property
    def streamed(self) -> bool:
        """Whether blocks are read when they are called: then nothing may trace through them."""
        return not isinstance(self.transformer_blocks, list)

    def __call__(
        self,
        video: Modality | None,
        audio: Modality | None,
        perturbations: BatchedPerturbationConfig | None = None,
    ) -> tuple[mx.array | None, mx.array | None]:
        video_args = self.prepare_video(video, audio) if video else None
        audio_args = self.prepare_audio(audio, video) if audio else None
        for block in self.transformer_blocks:
            video_args, audio_args = block(video=video_args, audio=audio_args, perturbations=perturbations)
        return (
            self.velocity(video_args) if video_args else None,
            self.audio_velocity(audio_args) if audio_args else None,
        )

    def prepare_video(self, modality: Modality, cross: Modality | None) -> TransformerArgs:
        c = self.config
        return self._prepare(
            modality,
            cross,
            self.patchify_proj(modality.latent),
            self.adaln_single,
            self.get("prompt_adaln_single"),
            self.av_ca_video_scale_shift_adaln_single,
            self.av_ca_a2v_gate_adaln_single,
            c.num_attention_heads,
            c.positional_embedding_max_pos,
        )

    def prepare_audio(self, modality: Modality, cross: Modality | None) -> TransformerArgs:
        c = self.config
        return self._prepare(
            modality,
            cross,
            self.audio_patchify_proj(modality.latent),
            self.audio_adaln_single,
            self.get("audio_prompt_adaln_single"),
            self.av_ca_audio_scale_shift_adaln_single,
            self.av_ca_v2a_gate_adaln_single,
            c.audio_num_attention_heads,
            c.audio_positional_embedding_max_pos,
        )

    def _prepare(
        self,
        modality: Modality,
        cross: Modality | None,
        x: mx.array,
        adaln: AdaLayerNormSingle,
        prompt_adaln: AdaLayerNormSingle | None,
        cross_scale_shift_adaln: AdaLayerNormSingle,
        cross_gate_adaln: AdaLayerNormSingle,
        heads: int,
        max_pos: tuple[int, ...],
    ) -> TransformerArgs:
        c, dtype, batch = self.config, modality.latent.dtype, x.shape[0]

        def embed(sigmas: mx.array, adaln: AdaLayerNormSingle) -> tuple[mx.array, mx.array]:
            ada, embedded = adaln(sigmas.flatten(), hidden_dtype=dtype)
            return ada.reshape(batch, -1, ada.shape[-1]), embedded.reshape(batch, -1, embedded.shape[-1])

        timesteps = modality.timesteps * c.timestep_scale_multiplier
        ada, embedded = embed(timesteps, adaln)
        prompt = embed(modality.sigma * c.timestep_scale_multiplier, prompt_adaln)[0] if prompt_adaln else None

        cross_pe = cross_scale_shift = cross_gate = None
        if cross is not None:
            # Scale and shift follow the stream's own tokens; the gate follows how noisy the other modality is.
            gate_scale = c.av_ca_timestep_scale_multiplier / c.timestep_scale_multiplier
            cross_scale_shift, _ = embed(timesteps, cross_scale_shift_adaln)
            cross_gate, _ = embed(cross.sigma * c.timestep_scale_multiplier * gate_scale, cross_gate_adaln)
            cross_max_pos = (max(c.positional_embedding_max_pos[0], c.audio_positional_embedding_max_pos[0]),)
            cross_pe = self._rope(modality.positions, 1, c.audio_cross_attention_dim, heads, cross_max_pos, dtype)

        return TransformerArgs(
            x=x,  # (B, T, D)
            context=modality.context.reshape(modality.context.shape[0], -1, x.shape[-1]),
            context_mask=context_bias(modality.context_mask, dtype),
            timesteps=ada,
            embedded_timestep=embedded,
            positional_embeddings=self._rope(
                modality.positions, modality.positions.shape[1], x.shape[-1], heads, max_pos, dtype
            ),
            cross_positional_embeddings=cross_pe,
            cross_scale_shift_timestep=cross_scale_shift,
            cross_gate_timestep=cross_gate,
            enabled=modality.enabled,
            prompt_timestep=prompt,
            self_attention_mask=self_attention_bias(modality.attention_mask, dtype),
            timestep_rows=modality.timestep_rows,
        )

    def _rope(
        self, positions: mx.array, axes: int, dim: int, heads: int, max_pos: tuple[int, ...], dtype: mx.Dtype
    ) -> tuple[mx.array, mx.array]:
        # The cached entry holds its positions, so that an id cannot come back for another array.
        key = (id(positions), axes, dim)
        if key not in self._rope_tables:
            double = self.config.frequencies_precision == "float64"
            tables = precompute_freqs_cis(
                positions[:, :axes],
                dim=dim,
                out_dtype=dtype,
                theta=self.config.positional_embedding_theta,
                max_pos=max_pos,
                use_middle_indices_grid=True,
                num_attention_heads=heads,
                rope_type=self.config.rope_type,
                freq_grid_generator=generate_freq_grid_np if double else generate_freq_grid_float32,
            )
            if len(self._rope_tables) >= ROPE_TABLES_KEPT:
                self._rope_tables.pop(next(iter(self._rope_tables)))
            self._rope_tables[key] = (positions, tables)
        return self._rope_tables[key][1]

    def velocity(self, args: TransformerArgs) -> mx.array:
        return _output(self.scale_shift_table, self.norm_out, self.proj_out, args)

    def audio_velocity(self, args: TransformerArgs) -> mx.array:
        return _output(self.audio_scale_shift_table, self.audio_norm_out, self.audio_proj_out, args)


def _output(table: mx.array, norm_out: nn.LayerNorm, proj_out: Linear, args: TransformerArgs) -> mx.array:
    shift, scale = (row.astype(args.x.dtype) + args.embedded_timestep for row in table)  # (B, rows, D)
    if args.timestep_rows is not None:
        shift, scale = (mx.take(value, args.timestep_rows, axis=1) for value in (shift, scale))  # (B, T, D)
    return proj_out(norm_out(args.x) * (1 + scale) + shift)  # (B, T, C)
