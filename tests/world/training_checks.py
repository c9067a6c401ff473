"""Run by the reference interpreter from test_training.py: prints one JSON object of findings."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import torch

from parity.world.train.state import Stage, learning_rate, orthogonal

CONFIG = {"steps": 60, "lr": 1e-2, "matrix_lr": 0.02, "warmup": 5, "betas": [0.9, 0.99], "clip": 1.0, "ema": 0.9}


def stage(folder: Path) -> tuple[Stage, torch.nn.Module]:
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    return Stage("toy", net, CONFIG, folder), net


def loss_fn(net: torch.nn.Module, stop: int | None = None):
    def loss(step: int):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(16, 4)
        error = net(x) - x[:, :2] ** 2
        return error.square().mean(), {"seen": float(step)}

    return loss


def resume() -> dict[str, object]:
    """Stopped at step 31 after a save, resumed: the same weights as without a stop, bit for bit."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole, net = stage(Path(one))
        whole.run(loss_fn(net))
        first, net = stage(Path(two))
        with contextlib.suppress(KeyboardInterrupt):
            first.run(loss_fn(net, 31), save_every=0.0)
        second, net = stage(Path(two))
        resumed_at = second.step
        second.run(loss_fn(net))
        equal = all(torch.equal(whole.average[k], second.average[k]) for k in whole.average)
        falls = whole.curve[-1]["loss"] < whole.curve[0]["loss"]
        left = sorted(p.name for p in Path(two).iterdir())
    return {"resumed_at": resumed_at, "equal": equal, "falls": falls, "files": left}


def sizes() -> dict[str, object]:
    """Shapes and invariants of the official modules under the recipe."""
    from parity.world.train.networks import FIRST_BLOCKS, VAE, VAE_FIRST
    from parity.world.train.transformer import draw_sigma, positions
    from parity.world.train.video_vae import VideoVae, fold_shortcut

    vae = VideoVae(VAE).eval()
    with torch.no_grad():
        latent = vae.encoder(torch.zeros(1, 3, 9, 64, 64))
        video = vae.decoder(latent)
    torch.manual_seed(0)
    first = VideoVae(VAE_FIRST).decoder.up_blocks[1]
    plain = VideoVae({**VAE, "decoder_blocks": list(VAE_FIRST["decoder_blocks"])}).decoder.up_blocks[1]
    plain.residual = False
    plain.load_state_dict({**first.state_dict(), "conv.conv.weight": fold_shortcut(first.conv.conv.weight, first.stride)})
    x = torch.randn(1, first.conv.conv.in_channels, 2, 2, 2)
    with torch.no_grad():
        difference = float((first(x, causal=False) - plain(x, causal=False)).abs().max())
    sigma = draw_sigma(20000)
    return {
        "latent": list(latent.shape),
        "video": list(video.shape),
        "first_residual": FIRST_BLOCKS["compress_all"]["residual"],
        "fold_difference": difference,
        "sigma": [float(sigma.min()), float(sigma.max())],
        "grids": [list(g.shape) for g in positions(9, 64)],
    }


def contexts() -> dict[str, object]:
    """With every register drawn once, the sampled context is the official one."""
    from parity.world.train.networks import TRANSFORMER
    from parity.world.train.transformer import LENGTH, TextToVideo

    torch.manual_seed(1)
    net = TextToVideo(TRANSFORMER).eval()
    features = torch.randn(5, 448)
    exact = net.exact_context(features)[0][0]
    order = torch.arange(LENGTH - 5).float() / (LENGTH - 5) + 1e-5
    drawn, torch.rand = torch.rand, lambda groups, slots: torch.cat([torch.zeros(5), order])[None, :slots]
    try:
        with torch.no_grad():
            sampled = net.sampled_context(features[None], torch.tensor([5]), LENGTH)[0][0]
    finally:
        torch.rand = drawn
    return {"context_difference": float((exact - sampled).abs().max()), "context_size": float(exact.abs().max())}


def matrices() -> dict[str, object]:
    values = torch.linalg.svdvals(orthogonal(torch.randn(2, 16, 64)))
    rates = [learning_rate(step, 100, 1.0, 10) for step in range(100)]
    return {"singular": [float(values.min()), float(values.max())], "peak": max(rates), "last": rates[-1]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump({**resume(), **sizes(), **contexts(), **matrices()}, sys.stdout)
