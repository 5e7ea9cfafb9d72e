"""Archive pages in PyTorch: the quantisation of docs/page-format.md, value for value.

Everything here is exact or a single IEEE f32 operation, so codes, scales and minima equal the
engine's bit for bit (tests/test_pages.py reads its golden file).
"""

from typing import NamedTuple

import torch
from torch import Tensor

PAGE_SLOTS = 32
GROUP_CHANNELS = 32  # V channels that share a scale and a minimum
STORAGE_BITS = {"f16": 16, "int8": 8, "int4": 4, "int2": 2}


class Quantised(NamedTuple):
    """Groups along one dimension, which `scale` and `low` keep with size 1."""

    codes: Tensor  # f32, whole numbers 0 .. levels
    scale: Tensor  # f32 that are f16 values
    low: Tensor  # f32 that are f16 values

    def values(self) -> Tensor:
        """What a reader of the page gets back, f32."""
        return self.low + self.scale * self.codes


def levels_of(storage: str) -> int:
    """Largest code: 255, 15 or 3."""
    return (1 << STORAGE_BITS[storage]) - 1


def _least_scale(span: Tensor, levels: int) -> Tensor:
    """The smallest f16 s >= 0 with s * levels >= span; span (f64) and products are exact."""
    near = (span / levels).half()
    bits = near.view(torch.int16)
    # The rounded quotient is the answer or a neighbour of it; bits of positive f16 are ordered.
    candidates = torch.stack([(bits - 1).clamp(min=0), bits, bits + 1]).view(torch.float16)
    fits = candidates.double() * levels >= span
    wide = torch.where(fits, candidates.double(), torch.inf)
    return wide.amin(0).float()


def quantise(rows: Tensor, dim: int, storage: str) -> Quantised:
    """Quantises f16 values (given in any float type) in groups along `dim`."""
    levels = levels_of(storage)
    x = rows.half().float()
    low = x.amin(dim, keepdim=True) + 0.0  # a zero minimum is +0
    high = x.amax(dim, keepdim=True)
    scale = _least_scale(high.double() - low.double(), levels)
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    return Quantised(((x - low) / divisor).round(), scale, low)


def quantise_k(k: Tensor, storage: str) -> Quantised:
    """k (..., P * 32, D) -> groups of the 32 slots of a channel: codes (..., P, 32, D)."""
    return quantise(k.unflatten(-2, (-1, PAGE_SLOTS)), -2, storage)


def stored_k(k: Tensor, storage: str) -> Tensor:
    """What pages give back for k (..., P * 32, D), f32."""
    if storage == "f16":
        return k.half().float()
    return quantise_k(k, storage).values().flatten(-3, -2)


def stored_v(v: Tensor, storage: str) -> Tensor:
    """What pages give back for v (..., T, D), f32; the last group of a slot may be shorter."""
    if storage == "f16":
        return v.half().float()
    groups = v.split(GROUP_CHANNELS, dim=-1)
    return torch.cat([quantise(group, -1, storage).values() for group in groups], dim=-1)


def page_bounds(k: Tensor, storage: str) -> tuple[Tensor, Tensor]:
    """Least and greatest value of each channel of each page, outward: two (..., P, D)."""
    if storage == "f16":
        pages = k.half().float().unflatten(-2, (-1, PAGE_SLOTS))
        return pages.amin(-2), pages.amax(-2)
    page = quantise_k(k, storage)
    return page.low.squeeze(-2), (page.low + page.scale * levels_of(storage)).squeeze(-2)
