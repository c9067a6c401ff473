"""What a checkpoint says of itself, read strictly into frozen dataclasses.

Field names are the keys of the official metadata config. A value that this port does not implement and a key that it
does not know are refused: a silent default of 1.0 where the checkpoint says 1000.0 is the worst fault a port can have.
Keys that the published LTX-2.3 file leaves out take the value that ltx-core's configurators give them; they are the
`absent=` arguments below, and there are no other defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx_native.config_reader import Section
from ltx_native.gemma_config import GemmaConfig
from ltx_native.transformer_config import ConnectorConfig, TransformerConfig, read_transformer

__all__ = [
    "AudioVAEConfig",
    "BWEConfig",
    "ConnectorConfig",
    "FeatureExtractorConfig",
    "GemmaConfig",
    "ModelConfig",
    "TransformerConfig",
    "UpsamplerConfig",
    "VideoVAEConfig",
    "VocoderConfig",
]

Block = tuple[str, dict[str, int]]


@dataclass(frozen=True)
class FeatureExtractorConfig:
    """Gemma's hidden states, embedding included, side by side, projected to both widths."""

    embedding_dim: int  # Gemma's hidden size
    num_states: int  # Gemma's layers + 1
    video_dim: int
    audio_dim: int

    @property
    def flat_dim(self) -> int:
        return self.embedding_dim * self.num_states


@dataclass(frozen=True)
class VideoVAEConfig:
    dims: int
    in_channels: int
    out_channels: int
    latent_channels: int
    patch_size: int
    norm_layer: str
    latent_log_var: str
    causal_decoder: bool
    timestep_conditioning: bool
    spatial_padding_mode: str
    decoder_base_channels: int
    encoder_blocks: tuple[Block, ...]
    decoder_blocks: tuple[Block, ...]

    @classmethod
    def from_official(cls, config: Mapping[str, Any], where: str = "config") -> VideoVAEConfig:
        section = Section.of(config, "vae", where)
        section.describe("_class_name", "CausalVideoAutoencoder")
        section.describe("scaling_factor", 1.0)
        section.describe("use_quant_conv", False)
        section.describe("normalize_latent_channels", False)
        section.skip("encoder_base_channels")  # the encoder starts at latent_channels
        return section.close(
            cls(
                dims=section.fixed("dims", 3),
                in_channels=section.integer("in_channels"),
                out_channels=section.integer("out_channels"),
                latent_channels=section.integer("latent_channels"),
                patch_size=section.integer("patch_size"),
                norm_layer=section.fixed("norm_layer", "pixel_norm"),
                latent_log_var=section.fixed("latent_log_var", "uniform"),
                causal_decoder=section.fixed("causal_decoder", False),
                timestep_conditioning=section.fixed("timestep_conditioning", False),
                spatial_padding_mode=section.fixed("spatial_padding_mode", "zeros"),
                decoder_base_channels=section.integer("decoder_base_channels"),
                encoder_blocks=section.blocks("encoder_blocks", suffix="_res"),
                decoder_blocks=section.blocks("decoder_blocks", suffix=""),
            )
        )


@dataclass(frozen=True)
class AudioVAEConfig:
    sampling_rate: int
    double_z: bool
    mel_bins: int
    z_channels: int
    resolution: int
    in_channels: int
    out_ch: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    norm_type: str
    causality_axis: str
    filter_length: int
    hop_length: int
    win_length: int
    causal: bool
    mel_fmin: float
    mel_fmax: float

    @classmethod
    def from_official(cls, config: Mapping[str, Any], where: str = "config") -> AudioVAEConfig:
        section = Section.of(config, "audio_vae", where)
        model = section.child("model")
        params = model.child("params")
        dd = params.child("ddconfig")
        preprocessing = section.child("preprocessing")
        audio = preprocessing.child("audio", absent=True)
        stft, mel = preprocessing.child("stft"), preprocessing.child("mel")
        dd.describe("attn_resolutions", [])
        dd.describe("mid_block_add_attention", False, required=True)
        dd.describe("dropout", 0.0)
        dd.describe("downsample_time", False)
        dd.describe("resamp_with_conv", True)
        dd.describe("attn_type", "vanilla")
        audio.skip("max_wav_value", "duration", "causal_padding")
        audio.describe("stereo", True)
        sampling_rate = params.integer("sampling_rate")
        audio.describe("sampling_rate", sampling_rate)
        mel_bins = dd.integer("mel_bins")
        mel.describe("n_mel_channels", mel_bins)
        filter_length = stft.integer("filter_length")
        result = cls(
            sampling_rate=sampling_rate,
            double_z=dd.fixed("double_z", True),
            mel_bins=mel_bins,
            z_channels=dd.integer("z_channels"),
            resolution=dd.integer("resolution"),
            in_channels=dd.integer("in_channels"),
            out_ch=dd.integer("out_ch"),
            ch=dd.integer("ch"),
            ch_mult=dd.integers("ch_mult"),
            num_res_blocks=dd.index("num_res_blocks"),  # 0 is legal: the decoder has one more
            norm_type=dd.fixed("norm_type", "pixel"),
            causality_axis=dd.fixed("causality_axis", "height"),
            filter_length=filter_length,
            hop_length=stft.integer("hop_length"),
            # ltx-core's AudioProcessor takes win_length = n_fft and fmin, fmax = 0, half the rate, whatever these say.
            win_length=stft.fixed("win_length", filter_length, absent=filter_length),
            causal=stft.fixed("causal", True),
            mel_fmin=mel.fixed("mel_fmin", 0, absent=0),
            mel_fmax=mel.fixed("mel_fmax", sampling_rate / 2, absent=sampling_rate / 2),
        )
        for part in (dd, params, model, audio, stft, mel, preprocessing):
            part.close(None)
        return section.close(result)


@dataclass(frozen=True)
class VocoderConfig:
    """One generator: the 16 kHz vocoder itself, or the generator of the bandwidth extension."""

    upsample_initial_channel: int
    resblock: str
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    stereo: bool
    use_tanh_at_final: bool
    activation: str
    use_bias_at_final: bool
    apply_final_activation: bool

    @classmethod
    def from_official(cls, config: Mapping[str, Any], where: str = "config") -> VocoderConfig:
        section = Section.of(config, "vocoder", where).child("vocoder")
        return section.close(cls(**section.generator(final_activation=True)))


@dataclass(frozen=True)
class BWEConfig(VocoderConfig):
    """The bandwidth extension: its generator and the spectrogram that feeds it."""

    input_sampling_rate: int
    output_sampling_rate: int
    n_fft: int
    hop_length: int
    win_size: int
    num_mels: int

    @classmethod
    def from_official(cls, config: Mapping[str, Any], where: str = "config") -> BWEConfig:
        section = Section.of(config, "vocoder", where).child("bwe")
        n_fft = section.integer("n_fft")
        return section.close(
            cls(
                **section.generator(final_activation=False),
                input_sampling_rate=section.integer("input_sampling_rate"),
                output_sampling_rate=section.integer("output_sampling_rate"),
                n_fft=n_fft,
                hop_length=section.integer("hop_length"),
                win_size=section.fixed("win_size", n_fft, absent=n_fft),
                num_mels=section.integer("num_mels"),
            )
        )


UPSAMPLER_SCALES = (0.75, 1.5, 2.0, 4.0)  # those that ltx-core has a ratio of whole numbers for


@dataclass(frozen=True)
class UpsamplerConfig:
    in_channels: int
    mid_channels: int
    num_blocks_per_stage: int
    dims: int
    spatial_upsample: bool
    temporal_upsample: bool
    spatial_scale: float
    rational_resampler: bool

    @classmethod
    def from_official(cls, config: Mapping[str, Any], where: str = "config") -> UpsamplerConfig:
        section = Section(config, where)
        section.describe("_class_name", "LatentUpsampler")
        result = cls(
            in_channels=section.integer("in_channels"),
            mid_channels=section.integer("mid_channels"),
            num_blocks_per_stage=section.integer("num_blocks_per_stage"),
            dims=section.fixed("dims", 3),
            spatial_upsample=section.boolean("spatial_upsample"),
            temporal_upsample=section.boolean("temporal_upsample"),
            spatial_scale=section.number("spatial_scale", absent=2.0),
            rational_resampler=section.boolean("rational_resampler", absent=False),
        )
        section.one_of("spatial_scale", result.spatial_scale, UPSAMPLER_SCALES)
        section.equal("mid_channels beyond a multiple of 32", result.mid_channels % 32, 0)
        if not result.temporal_upsample:
            section.one_of("spatial_upsample", result.spatial_upsample, (True,))
        return section.close(result)


@dataclass(frozen=True)
class ModelConfig:
    transformer: TransformerConfig
    video_connector: ConnectorConfig
    audio_connector: ConnectorConfig
    feature_extractor: FeatureExtractorConfig
    video_vae: VideoVAEConfig
    audio_vae: AudioVAEConfig
    vocoder: VocoderConfig
    bwe: BWEConfig
    model_version: str

    @classmethod
    def from_official(
        cls, config: Mapping[str, Any], *, num_states: int, model_version: str, where: str = "config"
    ) -> ModelConfig:
        """Read the config of an official file.

        `num_states` is the number of Gemma states (layers + 1) that the aggregate projections were made for; the config
        does not say it, the width of `text_embedding_projection.video_aggregate_embed.weight` does.
        """
        root = Section(config, where)
        root.skip("scheduler")  # of training; sampling never reads it
        transformer, video, audio, caption_channels = read_transformer(root.child("transformer"))
        vocoder = root.child("vocoder")
        vocoder.skip("vocoder", "bwe")  # read, strictly, below
        vocoder.close(None)
        root.skip("vae", "audio_vae")
        return root.close(
            cls(
                transformer=transformer,
                video_connector=video,
                audio_connector=audio,
                feature_extractor=FeatureExtractorConfig(
                    caption_channels, num_states, transformer.inner_dim, transformer.audio_inner_dim
                ),
                video_vae=VideoVAEConfig.from_official(config, where),
                audio_vae=AudioVAEConfig.from_official(config, where),
                vocoder=VocoderConfig.from_official(config, where),
                bwe=BWEConfig.from_official(config, where),
                model_version=model_version,
            )
        )
