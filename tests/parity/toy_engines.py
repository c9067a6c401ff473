"""A toy world for the gate: captions are random vectors, videos show them as pixels, the toy CLIP reads them back.

Run as a script it is one resumable fidelity run, slow enough to be killed:
    python toy_engines.py STORE LOG OUT [DELAY]
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from parity.fidelity_policy import FidelityPolicy, read_policy
from parity.fidelity_run import Run, run_fidelity
from parity.fidelity_store import Generate, Side, Store
from parity.fidelity_suite import Item, Suite

SIDE = 8  # pixels; 8 x 8 x 3 = 192 numbers carry a caption's 192-vector
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "cross")


def vector(text: str) -> np.ndarray:
    """A caption is the sum of its words, so captions that share words are near."""
    words = [np.random.default_rng(list(hashlib.sha256(w.encode()).digest()[:8])).normal(size=192) for w in text.split()]
    return np.sum(words, axis=0) / np.linalg.norm(np.sum(words, axis=0))


class ToyClip:
    fingerprint = "toy"

    def embed_texts(self, captions: Sequence[str]) -> np.ndarray:
        return np.stack([vector(c) for c in captions]).astype(np.float32)

    def embed_frames(self, frames: np.ndarray) -> np.ndarray:
        return self.embed_stills(frames)

    def embed_stills(self, frames: np.ndarray) -> np.ndarray:
        flat = frames.reshape(len(frames), -1).astype(np.float64) - 127.5 + 1e-3
        return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)


def engine(noise: float = 0.02, drift: float = 0.0, delay: float = 0.0, log: Path | None = None, tag: str = "") -> Generate:
    """Videos of the prompt plus noise. `drift` moves them towards something else: fidelity lost in equal parts."""

    def generate(prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(delay)
        shared = np.random.default_rng(seed).normal(size=(9, 192)) * 0.05  # both sides: the same noise
        own = np.random.default_rng([seed, len(tag)]).normal(size=(9, 192)) * noise
        wanted = vector(prompt) + drift * vector("something else entirely")
        frames = 127.5 + 400 * (wanted[None] + shared + own)
        if log is not None:
            with log.open("a") as stream:
                stream.write(f"{tag} {seed} {prompt}\n")
        sound = 0.1 * np.sin(np.linspace(0, 40, 800))[None].repeat(2, 0).astype(np.float32)
        return np.clip(np.rint(frames), 0, 255).astype(np.uint8).reshape(9, SIDE, SIDE, 3), sound

    return generate


def toy_suite(size: int = 40) -> Suite:
    def item(i: int, start: int) -> Item:
        n = i + start
        prompt = f"a {COLOURS[n % 4]} {SHAPES[n % 3]} number{n}"
        wrong = (("colour", prompt.replace(COLOURS[n % 4], COLOURS[(n + 1) % 4])),)
        return Item(f"p{n:03d}", prompt, n, (*wrong, ("shape", prompt.replace(SHAPES[n % 3], SHAPES[(n + 1) % 3]))))

    items = tuple(item(i, 0) for i in range(size))
    return Suite("toy", ("colour", "shape"), items, tuple(item(i, 1000) for i in range(12)), f"toy{size}")


def toy_policy(**changes: object) -> FidelityPolicy:
    from dataclasses import replace

    policy = read_policy()
    ladder = replace(policy.ladder, order=("none", "shuffled-prompts"), severe=("shuffled-prompts",), videos=8)
    return replace(policy, suite_size=40, min_videos=10, ladder=ladder, **changes)  # type: ignore[arg-type]


def toy_run(store: Path, native: Generate | None = None, say: Callable[[str], None] = lambda _: None) -> Run:
    return Run(
        suite=toy_suite(),
        native=Side("native", "toy-native", native or engine(tag="n")),
        reference=Side("reference", "toy-reference", engine(tag="ref")),
        embedder=ToyClip(),
        policy=toy_policy(),
        store=Store(store),
        say=say,
    )


def main() -> None:
    store, log, out = map(Path, sys.argv[1:4])
    delay = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    run = Run(
        suite=toy_suite(),
        native=Side("native", "toy-native", engine(delay=delay, log=log, tag="n")),
        reference=Side("reference", "toy-reference", engine(delay=delay, log=log, tag="ref")),
        embedder=ToyClip(),
        policy=toy_policy(),
        store=Store(store),
        ahead=True,
    )
    out.write_text(json.dumps(run_fidelity(run, {}).as_dict(), indent=1))


if __name__ == "__main__":
    main()
