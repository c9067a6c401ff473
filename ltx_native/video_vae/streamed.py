"""The whole clip decoded a few frames at a time, without tiles: the same products, a fraction of the memory.

Every convolution looks one frame back and one ahead. So each keeps the two frames that the next ones need, the decoder is
a chain of generators, and no layer ever holds the clip. Up to the rounding of BLAS on other row counts the pixels are those
of `decoder(latent)`; its modules are not called as wholes, so a capture of their outputs takes that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import mlx.core as mx

from ltx_native.video_vae.blocks import (
    CausalConv3d,
    DepthToSpaceUpsample,
    ResnetBlock3D,
    UNetMidBlock3D,
    depth_to_space,
    unpatchify,
)
from ltx_native.video_vae.decoder import VideoDecoder

LATENT_FRAMES = 2  # taken at a time: each becomes 8 frames in the last blocks, where a frame is largest

Frames = Iterator[mx.array]  # (B, n, H, W, C), one after the other in time


def streamed_decode(decoder: VideoDecoder, latent: mx.array, latent_frames: int = LATENT_FRAMES) -> Frames:
    """(B, F, H, W, 128) normalised latents -> chunks (B, n, 32H, 32W, 3) of pixels that follow each other in time."""
    statistics, causal = decoder.per_channel_statistics, decoder.causal
    starts = range(0, latent.shape[1], latent_frames)
    x: Frames = (statistics.un_normalize(latent[:, i : i + latent_frames]) for i in starts)
    x = _conv(decoder.conv_in, x, causal)
    for block in decoder.up_blocks:
        x = _upsample(block, x, causal) if isinstance(block, DepthToSpaceUpsample) else _mid(block, x, causal)
    x = _conv(decoder.conv_out, map(decoder.conv_act, map(decoder.conv_norm_out, x)), causal)
    return map(partial(unpatchify, patch_size=decoder.patch_size), x)


# A suspended generator keeps its variables, and a chain of them that many chunks: so chunks are let go of before a yield,
# results leave through `pop`, and `map` stands where a generator expression would hold its argument.


def _conv(conv: CausalConv3d, chunks: Iterable[mx.array], causal: bool) -> Frames:
    held: mx.array | None = None
    for chunk in chunks:
        if held is None:  # the first frame stands for those before it
            held = mx.concatenate([chunk[:, :1]] * (2 if causal else 1), axis=1)
        window = mx.concatenate([held, chunk], axis=1)
        held = _copy(window, window.shape[1] - 2)
        done = [_evaluated(conv.conv(window))] if window.shape[1] > 2 else []
        del chunk, window
        if done:
            yield done.pop()
    if held is not None and not causal:  # and the last one for the one after it
        yield _evaluated(conv.conv(mx.concatenate([held, held[:, -1:]], axis=1)))


def _mid(block: UNetMidBlock3D, chunks: Frames, causal: bool) -> Frames:
    for resnet in block.res_blocks:
        chunks = _resnet(resnet, chunks, causal)
    return chunks


def _resnet(block: ResnetBlock3D, chunks: Frames, causal: bool) -> Frames:
    waiting: list[mx.array] = []  # inputs whose outputs are not there yet: two convolutions are two frames behind

    def noted(chunk: mx.array) -> mx.array:
        waiting.append(chunk)
        return block.non_linearity(block.norm1(chunk))

    def normed(chunk: mx.array) -> mx.array:
        return block.non_linearity(block.norm2(chunk))

    for out in _conv(block.conv2, map(normed, _conv(block.conv1, map(noted, chunks), causal)), causal):
        count = out.shape[1]
        inputs = waiting[0] if len(waiting) == 1 else mx.concatenate(waiting, axis=1)
        waiting[:] = [_copy(inputs, count)] if inputs.shape[1] > count else []
        done = [_evaluated(inputs[:, :count] + out)]
        del inputs, out
        yield done.pop()


def _upsample(block: DepthToSpaceUpsample, chunks: Frames, causal: bool) -> Frames:
    first = block.stride[0] == 2
    for chunk in _conv(block.conv, chunks, causal):
        x = depth_to_space(chunk, block.stride)
        done = [_evaluated(x[:, 1:] if first else x)]
        del chunk, x
        yield done.pop()
        first = False


def _copy(x: mx.array, start: int) -> mx.array:
    """Frames from `start` on in memory of their own: a slice would keep all of x alive."""
    return _evaluated(mx.concatenate([x[:, i : i + 1] for i in range(start, x.shape[1])], axis=1))


def _evaluated(x: mx.array) -> mx.array:
    mx.eval(x)
    return x
