"""The model: Llama, Qwen2 or Qwen3, written so that attention can be replaced from outside.

Whatever learns or measures a cache plan passes an `Attend`: it sees each layer's Q, K and V after
RoPE, which is what a cache holds, and returns what the heads read.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import ModelConfig


class Attend(Protocol):
    """Attention of one layer: q (B, H, T, D), k and v (B, KV, T, D) after RoPE -> (B, H, T, D)."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


# The same for a layer that is known. Layers share one function while training, so that one
# compiled block serves all of them.
LayerAttend = Callable[[Tensor, Tensor, Tensor], Tensor]


def expand_heads(x: Tensor, groups: int) -> Tensor:
    """(B, KV, T, D) -> (B, KV * groups, T, D): query head h reads KV head h // groups."""
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


# Scores (B, H, rows, T) computed at once: 512 MiB in f32. Rows beyond are computed in turn.
SCORES_AT_ONCE_MAX = 1 << 27


def in_pieces(
    read: Callable[[slice], Tensor], rows: int, scores_of_row: int, again: bool = False
) -> Tensor:
    """What read(some rows) gives (B, H, some rows, D), for all rows: so many at a time that memory
    stays bounded at any length. Several pieces are computed again for the gradient, or one, too."""
    at_once = max(1, SCORES_AT_ONCE_MAX // scores_of_row)
    pieces = [slice(first, min(first + at_once, rows)) for first in range(0, rows, at_once)]
    if torch.is_grad_enabled() and (again or len(pieces) > 1):
        return torch.cat([checkpoint(read, piece, use_reentrant=False) for piece in pieces], 2)
    return torch.cat([read(piece) for piece in pieces], 2)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dense causal attention: a fused kernel where torch has it, plain arithmetic elsewhere."""
    groups = q.shape[1] // k.shape[1]
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=groups > 1)
    k, v = expand_heads(k, groups), expand_heads(v, groups)
    batch, heads, rows, _ = q.shape

    def read(piece: slice) -> Tensor:
        size, end = piece.stop - piece.start, piece.stop
        scores = q[:, :, piece] @ k[:, :, :end].transpose(-1, -2) / math.sqrt(q.shape[-1])
        future = torch.ones(size, end, dtype=torch.bool, device=q.device).triu(1 + piece.start)
        return scores.masked_fill(future, -math.inf).softmax(-1) @ v[:, :, :end]

    return in_pieces(read, rows, batch * heads * rows)


def rope_table(config: ModelConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine for integer `positions` (..., T): two tensors (..., T, D / 2), f32."""
    half = config.head_dim // 2
    exponent = torch.arange(half, dtype=torch.float64, device=positions.device) / half
    frequency = config.rope_base**-exponent
    if config.rope_factors:
        frequency = frequency / torch.tensor(
            config.rope_factors, dtype=torch.float64, device=positions.device
        )
    angle = positions.double()[..., None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in half-rotation order: channel i turns with channel i + D / 2. x (B, H, T, D)."""
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


class RmsNorm(nn.Module):
    """Root mean square norm over the last dimension, computed in f32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight.float()).to(x.dtype)


class Block(nn.Module):
    """One layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        q_dim, kv_dim = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.attn_norm = RmsNorm(config.dim, config.rms_eps)
        self.attn_q = nn.Linear(config.dim, q_dim, bias=config.qkv_bias)
        self.attn_k = nn.Linear(config.dim, kv_dim, bias=config.qkv_bias)
        self.attn_v = nn.Linear(config.dim, kv_dim, bias=config.qkv_bias)
        self.attn_output = nn.Linear(q_dim, config.dim, bias=False)
        self.ffn_norm = RmsNorm(config.dim, config.rms_eps)
        self.ffn_gate = nn.Linear(config.dim, config.ff_dim, bias=False)
        self.ffn_up = nn.Linear(config.dim, config.ff_dim, bias=False)
        self.ffn_down = nn.Linear(config.ff_dim, config.dim, bias=False)
        if config.qk_norm:
            self.attn_q_norm = RmsNorm(config.head_dim, config.rms_eps)
            self.attn_k_norm = RmsNorm(config.head_dim, config.rms_eps)

    def heads_of(self, product: Tensor) -> Tensor:
        """(B, T, heads * D) -> (B, heads, T, D)."""
        return product.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: LayerAttend) -> Tensor:
        normed = self.attn_norm(x)  # (B, T, dim)
        q, k = self.heads_of(self.attn_q(normed)), self.heads_of(self.attn_k(normed))
        v = self.heads_of(self.attn_v(normed))
        if self.config.qk_norm:
            q, k = self.attn_q_norm(q), self.attn_k_norm(k)
        read = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = x + self.attn_output(read.transpose(1, 2).flatten(2))
        normed = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(normed)) * self.ffn_up(normed))


class Transformer(nn.Module):
    """A whole model. Parameter names are GGUF's, so that export and import need no table."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.dim)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.output_norm = RmsNorm(config.dim, config.rms_eps)
        if not config.tied_embeddings:
            self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def output_weight(self) -> Tensor:
        """The output matrix (vocab, dim)."""
        return self.token_embd.weight if self.config.tied_embeddings else self.output.weight

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, attend: Attend | None = None
    ) -> Tensor:
        """Hidden states after the last norm (B, T, dim) of ids (B, T); positions (T) or (B, T).

        Attention is dense and causal unless `attend` says otherwise."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        cos, sin = rope_table(self.config, positions)
        if positions.dim() == 2:
            cos, sin = cos[:, None], sin[:, None]  # one for all heads
        x = self.token_embd(ids)
        if torch.is_autocast_enabled():
            x = x.bfloat16()  # the stream too: half the traffic
        for layer, block in enumerate(self.blk):
            read = causal_attention if attend is None else partial(attend, layer)
            x = block(x, cos, sin, read)
        return self.output_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., dim) -> (..., vocab)."""
        return F.linear(hidden, self.output_weight)

    def parameter_count(self) -> int:
        """Weights, a tied output matrix counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


def initialise(model: Transformer, seed: int) -> None:
    """Random weights: normal with 1 / sqrt(fan in), the two that write to the stream start at 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                continue
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                parameter.zero_()
                continue
            std = 0.02 if name.startswith("token_embd") else parameter.shape[1] ** -0.5
            values = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(values.to(parameter.dtype))
