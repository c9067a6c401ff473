"""Layers that the audio-video transformer and the text connectors share, under the official module names."""

import mlx.core as mx
import mlx.nn as nn

from ltx_native import kernels
from ltx_native.kernels import attention, gelu_tanh
from ltx_native.rope import FreqsCis, apply_rotary_emb


def rms_norm(x: mx.array, weight: mx.array | None = None, eps: float = 1e-6) -> mx.array:
    return kernels.rms_norm(x, weight, eps)


class RMSNorm(nn.RMSNorm):
    def __call__(self, x: mx.array) -> mx.array:
        return kernels.rms_norm(x, self["weight"], self.eps)


class Linear(nn.Linear):
    """nn.Linear whose argument has the official name, so that recorded inputs replay by keyword."""

    def __call__(self, input: mx.array) -> mx.array:
        return super().__call__(input)


class GELUApprox(nn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = Linear(dim_in, dim_out)

    def __call__(self, x: mx.array) -> mx.array:
        return gelu_tanh(self.proj(x))


class FeedForward(nn.Module):
    def __init__(self, dim: int, dim_out: int, mult: int = 4) -> None:
        super().__init__()
        inner_dim = int(dim * mult)
        # the middle entry is the official Identity: it keeps the keys at net.0 and net.2
        self.net = [GELUApprox(dim, inner_dim), nn.Identity(), Linear(inner_dim, dim_out)]

    def __call__(self, x: mx.array) -> mx.array:
        return self.net[2](self.net[0](x))


class Attention(nn.Module):
    def __init__(
        self,
        query_dim: int,
        context_dim: int | None,
        heads: int,
        dim_head: int,
        norm_eps: float,
        rope_type: str,
        apply_gated_attention: bool,
    ) -> None:
        super().__init__()
        inner_dim = dim_head * heads
        context_dim = query_dim if context_dim is None else context_dim
        self.heads = heads
        self.dim_head = dim_head
        self.rope_type = rope_type
        self.q_norm = RMSNorm(inner_dim, eps=norm_eps)
        self.k_norm = RMSNorm(inner_dim, eps=norm_eps)
        self.to_q = Linear(query_dim, inner_dim)
        self.to_k = Linear(context_dim, inner_dim)
        self.to_v = Linear(context_dim, inner_dim)
        self.to_gate_logits = Linear(query_dim, heads) if apply_gated_attention else None
        self.to_out = [Linear(inner_dim, query_dim)]

    def __call__(
        self,
        x: mx.array,
        context: mx.array | None = None,
        mask: mx.array | None = None,
        pe: FreqsCis | None = None,
        k_pe: FreqsCis | None = None,
        perturbation_mask: mx.array | None = None,
        all_perturbed: bool = False,
        context_rows: mx.array | None = None,
    ) -> mx.array:
        context = x if context is None else context
        v = self.to_v(context)  # (B, S, H*D)
        if context_rows is not None:
            # samples that share a context share its keys and values; whole rows are copied here, single numbers after the split
            v = mx.take(v, context_rows, axis=0)

        if all_perturbed:
            # skip-layer guidance: attention becomes the identity on the values
            out = self._split_heads(v)
        else:
            q = self.q_norm(self.to_q(x))
            k = self.k_norm(self.to_k(context))
            if context_rows is not None:
                k = mx.take(k, context_rows, axis=0)
            if pe is not None:
                q = apply_rotary_emb(q, pe, self.rope_type)
                k = apply_rotary_emb(k, pe if k_pe is None else k_pe, self.rope_type)
            q, k, values = self._split_heads(q), self._split_heads(k), self._split_heads(v)
            out = attention(q, k, values, self.dim_head**-0.5, _per_head(mask))
            if perturbation_mask is not None:
                keep = perturbation_mask[:, None]  # (B, 1, 1, 1)
                out = out * keep + values * (1 - keep)

        out = out.swapaxes(1, 2)  # (B, T, H, D)
        if self.to_gate_logits is not None:
            # twice the sigmoid: a zero logit leaves its head alone
            gates = 2.0 * mx.sigmoid(self.to_gate_logits(x))  # (B, T, H)
            out = out * gates[..., None]

        return self.to_out[0](out.flatten(2))  # (B, T, query_dim)

    def _split_heads(self, x: mx.array) -> mx.array:
        if x.ndim == 4:  # split RoPE has already done it, for as many heads as its frequencies have
            if x.shape[1] == self.heads:
                return x
            x = x.swapaxes(1, 2).flatten(2)
        b, t, _ = x.shape
        return x.reshape(b, t, self.heads, self.dim_head).swapaxes(1, 2)  # (B, H, T, D)


def _per_head(mask: mx.array | None) -> mx.array | None:
    if mask is not None and mask.ndim == 2:
        return mask[None, None]
    if mask is not None and mask.ndim == 3:
        return mask[:, None]
    return mask
