"""One training loop for every stage: seeded by step, resumable from safetensors, with time left on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file

P = ParamSpec("P")
R = TypeVar("R")
LossFn = Callable[[int], tuple[torch.Tensor, dict[str, float]]]


def without_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """torch.no_grad as a typed decorator."""
    return cast(Callable[P, R], torch.no_grad()(function))


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))


def orthogonal(update: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, approximately, by a quintic Newton-Schulz iteration (Jordan, Muon)."""
    x = update.flatten(2).bfloat16()  # (N, out, in)
    rows, columns = x.shape[1:]
    x = x.mT if rows > columns else x
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.mT if rows > columns else x
    return x.float().reshape(update.shape) * max(1.0, rows / columns) ** 0.5


class Stage:
    """Parameters, Adam moments, moving average and step of one training stage."""

    def __init__(self, name: str, module: torch.nn.Module, config: dict[str, Any], folder: Path) -> None:
        self.name, self.module, self.config = name, module, config
        self.path = folder / f"{name}.safetensors"
        self.curve_path = folder / f"{name}.curve.json"
        self.step = 0
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []
        self.params = {k: p for k, p in module.named_parameters() if p.requires_grad}
        self.mean = {k: torch.zeros_like(p) for k, p in self.params.items()}
        self.square = {k: torch.zeros_like(p) for k, p in self.params.items()}
        self.average = {k: p.detach().clone() for k, p in self.params.items()}
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            meta = file.metadata()
            self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
            self.curve = json.loads(meta["curve"])
            for kind, tensors in self._groups().items():
                for key, tensor in tensors.items():
                    tensor.data.copy_(file.get_tensor(f"{kind}/{key}"))

    def _groups(self) -> dict[str, dict[str, Any]]:
        return {"param": self.params, "mean": self.mean, "square": self.square, "average": self.average}

    def save(self) -> None:
        """Write the whole state beside its final name, then rename: a kill leaves the previous state."""
        tensors = {f"{k}/{n}": t.detach().contiguous() for k, g in self._groups().items() for n, t in g.items()}
        meta = {"step": str(self.step), "seconds": str(self.seconds), "curve": json.dumps(self.curve)}
        temporary = self.path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata=meta)
        os.replace(temporary, self.path)
        record = {"stage": self.name, "config": self.config, "step": self.step, "seconds": round(self.seconds, 1)}
        self.curve_path.write_text(json.dumps({**record, "curve": self.curve}, indent=1) + "\n", encoding="utf-8")

    def use_average(self) -> None:
        """Replace the weights by their moving average, which is what is evaluated and exported."""
        with torch.no_grad():
            for key, param in self.params.items():
                param.copy_(self.average[key])

    def _update(self, lr: float) -> float:
        grads = {k: p.grad if p.grad is not None else torch.zeros_like(p) for k, p in self.params.items()}
        norm = torch.nn.utils.get_total_norm(list(grads.values()))
        torch._foreach_mul_(list(grads.values()), float(torch.clamp(self.config["clip"] / (norm + 1e-6), max=1.0)))
        matrices = [k for k, p in self.params.items() if self.config["matrix_lr"] and self._is_matrix(k, p)]
        self._matrix_update(matrices, grads, lr / self.config["lr"] * self.config["matrix_lr"])
        self._adam_update([k for k in self.params if k not in set(matrices)], grads, lr)
        decay = min(self.config["ema"], (2.0 + self.step) / (11.0 + self.step))
        torch._foreach_lerp_(list(self.average.values()), list(self.params.values()), 1.0 - decay)
        return float(norm)

    @staticmethod
    def _is_matrix(name: str, param: torch.Tensor) -> bool:
        """Weights that mix features; tables and embeddings are vectors side by side and stay with Adam."""
        return param.ndim >= 2 and not any(word in name for word in ("table", "registers", "embed_tokens", "position"))

    def _matrix_update(self, names: list[str], grads: dict[str, torch.Tensor], lr: float) -> None:
        alike: dict[torch.Size, list[str]] = {}
        for name in names:
            self.mean[name].lerp_(grads[name], 0.05)
            alike.setdefault(grads[name].shape, []).append(name)
        for group in alike.values():  # matrices of one shape together: few large products, not many small ones
            update = orthogonal(torch.stack([grads[n].lerp(self.mean[n], 0.95) for n in group]))
            for name, change in zip(group, update, strict=True):
                self.params[name].add_(change, alpha=-lr)

    def _adam_update(self, names: list[str], grads: dict[str, torch.Tensor], lr: float) -> None:
        if not names:
            return
        beta1, beta2 = self.config["betas"]
        params, gradients = [self.params[n] for n in names], [grads[n] for n in names]
        mean, square = [self.mean[n] for n in names], [self.square[n] for n in names]
        torch._foreach_lerp_(mean, gradients, 1.0 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, gradients, gradients, 1.0 - beta2)
        denominator = torch._foreach_sqrt(square)
        torch._foreach_div_(denominator, math.sqrt(1.0 - beta2 ** (self.step + 1)))
        torch._foreach_add_(denominator, 1e-8)
        torch._foreach_addcdiv_(params, mean, denominator, -lr / (1.0 - beta1 ** (self.step + 1)))

    def run(self, loss_fn: LossFn, *, save_every: float | None = None, until: float | None = None) -> bool:
        """Train to the configured number of steps; False when stopped early at wall-clock `until`. Saved once a minute, or
        every `save_every` seconds."""
        save_every = self.config.get("save_every", 60.0) if save_every is None else save_every
        steps, started, saved, shown = self.config["steps"], time.time(), time.time(), 0.0
        first, window = self.step, []
        while self.step < steps:
            tick = time.time()
            if until is not None and tick > until:
                break
            torch.manual_seed(_seed(self.name, self.step))
            lr = learning_rate(self.step, steps, self.config["lr"], self.config["warmup"])
            loss, figures = loss_fn(self.step)
            for param in self.params.values():
                param.grad = None
            loss.backward()
            if not torch.isfinite(loss):
                raise ArithmeticError(f"{self.name}: loss {float(loss)} at step {self.step}; lower the rate, resume")
            with torch.no_grad():
                norm = self._update(lr)
            self.step += 1
            self.seconds += time.time() - tick
            window.append({"loss": float(loss), "norm": norm, **figures})
            if self.step % 50 == 0 or self.step == steps:
                keys = sorted({k for row in window for k in row})
                averaged = {k: _mean([row[k] for row in window if k in row]) for k in keys}
                self.curve.append({"step": self.step, "seconds": round(self.seconds, 1), "lr": lr, **averaged})
                window = []
            if time.time() - shown > 5.0 and self.curve:
                shown = time.time()
                left = (shown - started) / max(1, self.step - first) * (steps - self.step)
                last = " ".join(f"{k} {v:.4g}" for k, v in self.curve[-1].items() if k not in ("step", "seconds"))
                print(f"{self.name} {self.step}/{steps} {left / 60:.1f} min left  {last}", file=sys.stderr, flush=True)
            if time.time() - saved >= save_every:
                saved = time.time()
                self.save()
        self.save()
        return bool(self.step >= steps)


def _seed(name: str, step: int) -> int:
    return int.from_bytes(f"{name}".encode()[:4], "big") * 1_000_003 + step


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)
