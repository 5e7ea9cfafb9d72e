"""Q4_0 and Q8_0 of weights in PyTorch: what a file's matrices will be, while the model learns."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .model import Transformer

BLOCK = 32


def as_q4_0(rows: Tensor) -> Tensor:
    """Blocks of 32 along a row: the value of greatest size becomes code 0 or 16, scale in f16."""
    blocks = rows.float().unflatten(-1, (-1, BLOCK))
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = extreme / -8
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    # In f32, product before sum, as gguf does it: rounded weights (F16) often lie half way.
    codes = (blocks * inverse + 8.5).floor().clamp(0, 15)
    return ((codes - 8) * scale.half().float()).flatten(-2)


def as_q8_0(rows: Tensor) -> Tensor:
    """Blocks of 32 along a row: scale is the greatest size / 127, in f16."""
    blocks = rows.float().unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    quotient = blocks * inverse
    codes = quotient.sign() * (quotient.abs() + 0.5).floor()  # a half goes away from 0
    return (codes * scale.half().float()).flatten(-2)


def as_stored(name: str, rows: Tensor, storage: str) -> Tensor:
    """What a GGUF file of this storage gives back for a parameter."""
    if rows.dim() < 2:
        return rows
    if storage == "f16":
        return rows.half().float()
    embedding = name in ("token_embd.weight", "output.weight")
    return as_q8_0(rows) if storage == "q8_0" or embedding else as_q4_0(rows)


@contextmanager
def stored_weights(model: Transformer, storage: str) -> Iterator[None]:
    """Within, the model computes with what a file of this storage would hold.

    Gradients taken inside belong to the stored weights; applied to the real ones afterwards they
    are the straight-through estimate that quantisation-aware training takes.
    """
    real = {name: parameter.data for name, parameter in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            parameter.data = as_stored(name, real[name], storage).to(real[name].dtype)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = real[name]
