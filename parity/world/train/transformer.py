"""Train the official audio-video transformer and its connectors on cached latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from parity.world.scene import split
from parity.world.train.networks import GEMMA, TRANSFORMER
from parity.world.train.recipe import FPS, SEED, STAGES
from parity.world.train.state import Stage, without_gradients

PASSES = ("transformer", "transformer_refine", "transformer_palette")  # each goes on from the one before
LENGTH = 1024  # the official pipelines' token length


def set_gemma_sizes() -> None:
    """ltx-core 1.0.0 keeps Gemma's sizes in a module-level dataclass; the feature extractor is sized by it."""
    from ltx_core.text_encoders.gemma.config import GEMMA3_CONFIG_FOR_LTX

    text = GEMMA3_CONFIG_FOR_LTX.text_config
    for key, value in GEMMA.items():
        if key != "pieces":
            setattr(text, key, value)


class TextToVideo(nn.Module):
    """Feature extractor, connectors and transformer, with a cheap stand-in for the 1,024-token context."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        from ltx_core.model.transformer import LTXModelConfigurator
        from ltx_core.text_encoders.gemma import EmbeddingsProcessorConfigurator

        set_gemma_sizes()
        self.text = EmbeddingsProcessorConfigurator.from_config({"transformer": config})
        self.model = LTXModelConfigurator.from_config({"transformer": config})
        self._initialise()

    def _initialise(self) -> None:
        with torch.no_grad():
            for connector in (self.text.video_connector, self.text.audio_connector):
                # Nearly equal registers: they fill 99 % of the context and should say little.
                shape = connector.learnable_registers.shape
                near = torch.randn(1, shape[1]) + 0.1 * torch.randn(shape)
                connector.learnable_registers = nn.Parameter(near.float())
            for name, param in self.model.named_parameters():
                if "table" not in name:
                    continue
                param.copy_(0.02 * torch.randn_like(param))
                rows = {9: (2, 5, 8), 5: (4,)}.get(param.shape[0], ())
                for row in rows:  # open the gates a little
                    param[row] += 0.3
            for proj in (self.model.proj_out, self.model.audio_proj_out):
                proj.weight.mul_(0.1)

    def sampled_context(
        self, features: torch.Tensor, counts: torch.Tensor, slots: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Contexts of `slots` tokens that stand for the official 1,024.

        The prompt's tokens come first, as in the connector; the other slots are registers drawn from the positions
        behind them, and a bias of log(how many each stands for) keeps every softmax's sum right on average.
        Returns the video and the audio context and the additive bias (G, 1, 1, S).
        """
        groups = features.shape[0]
        index = torch.arange(slots)[None].expand(groups, -1)
        token = index < counts[:, None]  # (G, S)
        drawn = counts[:, None] + (torch.rand(groups, slots) * (LENGTH - counts[:, None])).long()
        position = torch.where(token, index, drawn)
        bias = torch.where(token, 0.0, torch.log((LENGTH - counts[:, None]) / (slots - counts[:, None]).float()))
        bias = bias[:, None, None, :]
        padded = torch.zeros(groups, slots, features.shape[-1])
        padded[:, : features.shape[1]] = features
        contexts = []
        extractor = self.text.feature_extractor
        for connector, embed in (
            (self.text.video_connector, extractor.video_aggregate_embed),
            (self.text.audio_connector, extractor.audio_aggregate_embed),
        ):
            scaled = embed(padded * math.sqrt(embed.out_features / extractor.embedding_dim))
            registers = connector.learnable_registers[position % connector.num_learnable_registers]
            hidden = torch.where(token[..., None], scaled, registers)
            rope = connector_rope(connector, position.float()[:, None])
            for block in connector.transformer_1d_blocks:
                hidden = block(hidden, attention_mask=bias, pe=rope)
            contexts.append(torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], eps=1e-6))
        return contexts[0], contexts[1], bias

    @without_gradients
    def exact_context(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, 1024, D) video and audio contexts of one prompt's (N, F) features, by the official module."""
        from ltx_core.text_encoders.gemma.embeddings_processor import convert_to_additive_mask

        count, width = features.shape
        padded, mask = torch.zeros(1, LENGTH, width), torch.zeros(1, LENGTH, dtype=torch.int64)
        padded[0, -count:], mask[0, -count:] = features, 1
        extractor = self.text.feature_extractor
        video, audio = (
            embed(padded * math.sqrt(embed.out_features / extractor.embedding_dim))
            for embed in (extractor.video_aggregate_embed, extractor.audio_aggregate_embed)
        )
        out = self.text.create_embeddings(video, audio, convert_to_additive_mask(mask, video.dtype))
        return out[0], out[1]


def connector_rope(connector: Any, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The connector's rotary angles at chosen positions. (G, 1, S)"""
    from ltx_core.text_encoders.gemma.embeddings_connector import generate_freq_grid_np, precompute_freqs_cis

    cos, sin = precompute_freqs_cis(
        indices_grid=position,
        dim=connector.inner_dim,
        out_dtype=torch.float32,
        theta=connector.positional_embedding_theta,
        max_pos=connector.positional_embedding_max_pos,
        num_attention_heads=connector.num_attention_heads,
        rope_type=connector.rope_type,
        freq_grid_generator=generate_freq_grid_np,
    )
    return cos, sin


def token_features(states: torch.Tensor) -> torch.Tensor:
    """(N, D, L + 1) hidden states to (N, D (L + 1)), per token and layer at unit RMS, as FeatureExtractorV2 does."""
    from ltx_core.text_encoders.gemma.feature_extractor import norm_and_concat_per_token_rms

    mask = torch.ones(1, states.shape[0], dtype=torch.int64)
    normed: torch.Tensor = norm_and_concat_per_token_rms(states[None], mask)[0]
    return normed


def positions(frames: int, side: int, fps: float = FPS) -> tuple[torch.Tensor, torch.Tensor]:
    """The official pipeline's video and audio position grids for one clip. (1, 3, T, 2), (1, 1, T, 2)"""
    from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier
    from ltx_core.tools import AudioLatentTools, VideoLatentTools
    from ltx_core.types import AudioLatentShape, VideoLatentShape, VideoPixelShape

    pixels = VideoPixelShape(batch=1, frames=frames, height=side, width=side, fps=fps)
    video = VideoLatentTools(VideoLatentPatchifier(patch_size=1), VideoLatentShape.from_pixel_shape(pixels), fps)
    audio = AudioLatentTools(AudioPatchifier(patch_size=1), AudioLatentShape.from_video_pixel_shape(pixels))
    device = torch.device("cpu")
    return (
        video.create_initial_state(device, torch.float32).positions,
        audio.create_initial_state(device, torch.float32).positions,
    )


def modality(latent: torch.Tensor, sigma: torch.Tensor, grid: torch.Tensor, context: torch.Tensor, bias: Any) -> Any:
    """One side's input at one noise level per sample."""
    from ltx_core.model.transformer.modality import Modality

    return Modality(
        latent=latent,
        sigma=sigma,
        timesteps=sigma[:, None],
        positions=grid.expand(latent.shape[0], -1, -1, -1),
        context=context,
        context_mask=bias,
    )


@dataclass
class Cache:
    """Latents of one clip size: tokens, captions they belong to, and position grids."""

    video: torch.Tensor  # (N, T, 128)
    audio: torch.Tensor  # (N, A, 128)
    caption: torch.Tensor  # (N,)
    grids: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def load(cls, path: Path, frames: int, side: int) -> Cache:
        data = load_file(path)
        return cls(data["video"].float(), data["audio"].float(), data["caption"], positions(frames, side))


def draw_sigma(count: int) -> torch.Tensor:
    """Half from the official schedule's own density (shift e^2.05, stretched to .1), half uniform."""
    uniform = torch.rand(count).clamp(1e-3, 1.0 - 1e-3)
    shifted = math.exp(2.05) / (math.exp(2.05) + 1.0 / uniform - 1.0)
    return torch.where(torch.rand(count) < 0.5, 0.1 + 0.9 * shifted, 0.02 + 0.98 * uniform)


class Trainer:
    """Batches, loss and model of the stage."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        torch.manual_seed(SEED)
        self.net = TextToVideo(TRANSFORMER)
        self.config = config
        sizes: Sequence[Sequence[int]] = [size for size, _ in config["mix"]]
        self.caches = [Cache.load(folder / f"latents_{f}x{s}.safetensors", f, s) for f, s in sizes]
        self.share = [share for _, share in config["mix"]]
        # A pale shape on gray makes a weaker latent; its error counts for more.
        contrast = torch.tensor([c.contrast for c in split()[0]])
        self.weight = (contrast.mean() / contrast) ** config.get("even", 0.0)
        text = load_file(folder / "features.safetensors")
        self.features, self.counts = text["features"], text["counts"]  # (C + 1, N, F), the last one is ""

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean squared error of the velocity, video and audio."""
        rng = np.random.default_rng([SEED, 2, step])
        which = int(rng.choice(len(self.caches), p=self.share)) if len(self.caches) > 1 else 0
        cache, config = self.caches[which], self.config
        groups, each = config["groups"], config["each"]
        captions = torch.from_numpy(rng.choice(int(cache.caption.max()) + 1, groups, replace=False))
        rows = torch.cat([self._rows(cache, int(c), each, rng) for c in captions])
        asked = torch.where(torch.rand(groups) < config["dropout"], len(self.features) - 1, captions)
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            contexts = self.net.sampled_context(self.features[asked], self.counts[asked], config["slots"])
        video, audio, bias = (t.repeat_interleave(each, 0) for t in contexts)
        sigma = draw_sigma(groups * each)
        clean = [cache.video[rows], cache.audio[rows]]
        noise = [torch.randn_like(c) for c in clean]
        noisy = [c + sigma[:, None, None] * (n - c) for c, n in zip(clean, noise, strict=True)]
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            out = self.net.model(
                modality(noisy[0], sigma, cache.grids[0], video, bias),
                modality(noisy[1], sigma, cache.grids[1], audio, bias),
                None,
            )
        weight = self.weight[captions].repeat_interleave(each)[:, None, None]
        errors = [(weight * (o.float() - (n - c)).square()).mean() for o, n, c in zip(out, noise, clean, strict=True)]
        loss = errors[0] + config["audio_weight"] * errors[1]
        return loss, {f"video_{which}": float(errors[0].detach()), "audio": float(errors[1].detach())}

    @staticmethod
    def _rows(cache: Cache, caption: int, each: int, rng: np.random.Generator) -> torch.Tensor:
        found = torch.nonzero(cache.caption == caption)[:, 0]
        return found[torch.from_numpy(rng.integers(0, len(found), each))]


def train(folder: Path, until: float | None = None, name: str = "transformer") -> bool:
    """Run or resume a stage; latents and features must be in `folder`. The second goes on from the first's average."""
    trainer = Trainer(folder, STAGES[name])
    for earlier in PASSES[: PASSES.index(name)]:
        if (folder / f"{earlier}.safetensors").exists():
            Stage(earlier, trainer.net, STAGES[earlier], folder).use_average()
    stage = Stage(name, trainer.net, STAGES[name], folder)
    return stage.run(trainer.loss, until=until)
