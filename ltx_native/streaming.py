"""The transformer with one block in memory: each block is read when it is called and let go of when its output is there.

A block streams through the same loader as a whole model (names, strict fit, finite values, LoRAs fused) and runs the same
operations, so the result is bitwise that of the resident model. What is in no block (about 2 % of the weights) stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import mlx.core as mx

from ltx_native.checkpoint import Checkpoint, as_dtype, fill
from ltx_native.lora import LoRA, check_layers
from ltx_native.request import Lora
from ltx_native.transformer.args import TransformerArgs
from ltx_native.transformer.block import BasicAVTransformerBlock
from ltx_native.transformer.model import LTXModel, make_block
from ltx_native.transformer.perturbations import BatchedPerturbationConfig

COMPONENT = "transformer"
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
Args = TransformerArgs | None
OnBlock = Callable[[int, BasicAVTransformerBlock], None]


def streamed_transformer(
    checkpoint: Checkpoint, dtype: mx.Dtype | str, loras: Sequence[Lora] = (), on_block: OnBlock | None = None
) -> LTXModel:
    """The transformer of `checkpoint` with its blocks on disk.

    `on_block(index, block)` is called each time a block has been loaded, before it runs (to tap it, or to change it).
    """
    blocks = StreamedBlocks(checkpoint, as_dtype(dtype), tuple(loras), on_block)
    model = LTXModel(replace(checkpoint.config.transformer, num_layers=0), blocks=blocks)
    model.config = checkpoint.config.transformer
    blocks.fill_rest(model)
    return model


@dataclass
class StreamedBlocks(Sequence["StreamedBlock"]):
    """Every transformer block of a checkpoint, none of them in memory."""

    checkpoint: Checkpoint
    dtype: mx.Dtype
    loras: tuple[Lora, ...] = ()
    on_block: OnBlock | None = None
    #: Lazy tensors of what has not been read since the file was opened: an array that has been read keeps its bytes.
    _unread: dict[int | None, tuple[dict[str, mx.array], list[LoRA]]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.checkpoint.config.transformer.num_layers

    @overload
    def __getitem__(self, index: int) -> StreamedBlock: ...
    @overload
    def __getitem__(self, index: slice) -> list[StreamedBlock]: ...
    def __getitem__(self, index: int | slice) -> StreamedBlock | list[StreamedBlock]:
        numbers = range(len(self))[index]
        return StreamedBlock(self, numbers) if isinstance(numbers, int) else [StreamedBlock(self, i) for i in numbers]

    def __iter__(self) -> Iterator[StreamedBlock]:
        return (StreamedBlock(self, i) for i in range(len(self)))

    def load(self, index: int) -> BasicAVTransformerBlock:
        """Block `index` alone, in memory as long as the caller keeps it."""
        block = make_block(self.checkpoint.config.transformer, index)
        self._fill(block, index, f"transformer_blocks.{index} of {self.checkpoint.located.root.name}")
        if self.on_block is not None:
            self.on_block(index, block)
        return block

    def fill_rest(self, model: LTXModel) -> None:
        """Load what is in no block into `model`."""
        self._fill(model, None, f"transformer of {self.checkpoint.located.root.name}")

    def _fill(self, module: LTXModel | BasicAVTransformerBlock, part: int | None, where: str) -> None:
        if part not in self._unread:
            self._open()
        weights, loras = self._unread.pop(part)
        fill(module, weights, self.dtype, where, loras)

    def _open(self) -> None:
        weights = self.checkpoint.weights(COMPONENT, self.dtype)
        loras = [LoRA.open(lora.path, lora.strength) for lora in self.loras]
        check_layers(loras, weights)
        parts: dict[int | None, dict[str, mx.array]] = {None: {}} | {i: {} for i in range(len(self))}
        for name, tensor in weights.items():
            part, tail = _part(name)
            if part in parts:
                parts[part][tail] = tensor
            else:  # of a block that the config does not have: refused where the rest is loaded
                parts[None][name] = tensor
        self._unread = {part: (found, [_of_part(lora, part) for lora in loras]) for part, found in parts.items()}


@dataclass(frozen=True)
class StreamedBlock:
    blocks: StreamedBlocks
    idx: int

    def __call__(self, video: Args, audio: Args, perturbations: BatchedPerturbationConfig | None = None) -> tuple[Args, Args]:
        block = self.blocks.load(self.idx)
        video, audio = block(video=video, audio=audio, perturbations=perturbations)
        mx.eval([args.x for args in (video, audio) if args is not None])
        del block
        mx.clear_cache()
        return video, audio


def _part(name: str) -> tuple[int | None, str]:
    """The block that a parameter belongs to (None: no block) and its name there."""
    found = _BLOCK.match(name)
    return (int(found[1]), name[found.end() :]) if found else (None, name)


def _of_part(lora: LoRA, part: int | None) -> LoRA:
    layers = ((*_part(layer), factors) for layer, factors in lora.layers.items())
    return replace(lora, layers={tail: factors for where, tail, factors in layers if where == part})
