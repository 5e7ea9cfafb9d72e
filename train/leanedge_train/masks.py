"""From factors to masks: which K channels stay, at a share, at a block budget, at a byte target.

All functions take values (layers, kv_heads, head_dim): learned factors, or any other score. What
they keep is widths that are multiples of `align`, so that the result is a legal cache plan.
"""

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from .plan import CachePlan, kept_of

# Breaks ties without reordering values that differ: factors are clamped, so many are equal.
TIE_NOISE = 1e-6


def untied(values: Tensor, seed: int = 0) -> Tensor:
    """The values plus a little fixed noise, so that equal ones have a fixed order."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(values.shape, generator=generator).to(values.device)
    return values + TIE_NOISE * noise


def top_channels(values: Tensor, widths: Tensor) -> Tensor:
    """The best widths[l, h] channels of each head as 0 and 1."""
    rank = values.argsort(-1, descending=True).argsort(-1)
    return (rank < widths[..., None]).to(values.dtype)


def block_mask(values: Tensor, pruned: float, align: int = 16) -> Tensor:
    """Whole blocks of `align` channels compete over the model; the share is met to a block.

    A head's channels are sorted, so its blocks lose value from one to the next, and the best
    blocks of a head always come first.
    """
    ordered = untied(values).sort(-1, descending=True).values
    blocks = ordered.unflatten(-1, (-1, align)).sum(-1)  # (layers, kv_heads, blocks)
    count = round((1 - pruned) * blocks.numel())
    chosen = torch.zeros(blocks.numel(), dtype=torch.long, device=values.device)
    chosen[blocks.flatten().argsort(descending=True)[:count]] = 1
    return top_channels(untied(values), chosen.view_as(blocks).sum(-1) * align)


def even_width(head_dim: int, pruned: float, align: int = 16) -> int:
    """Width of every head: the nearest multiple of `align`, at least one of it."""
    return min(head_dim, max(align, round((1 - pruned) * head_dim / align) * align))


def even_mask(values: Tensor, pruned: float, align: int = 16) -> Tensor:
    """The same width in every head."""
    width = even_width(values.shape[-1], pruned, align)
    widths = torch.full(values.shape[:2], width, device=values.device)
    return top_channels(untied(values), widths)


def head_mask(values: Tensor, heads: int) -> Tensor:
    """Whole heads by their mean value, as DuoAttention keeps them: `heads` of the model stay."""
    means = untied(values).mean(-1)
    chosen = torch.zeros(means.numel(), device=values.device, dtype=values.dtype)
    chosen[means.flatten().argsort(descending=True)[:heads]] = 1
    return chosen.view_as(means)[..., None].expand_as(values).clone()


@dataclass(frozen=True)
class Candidate:
    """A way to meet a byte target."""

    plan: CachePlan
    bytes_per_token: float


# Shares of K channels that candidates prune.
PRUNED_SHARES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)


def candidates_for(
    values: Tensor,
    bytes_per_token: float,
    storages: tuple[str, ...] = ("f16", "int8", "int4", "int2"),
    slack: float = 0.15,
    align: int = 16,
    **plan: object,
) -> list[Candidate]:
    """Plans whose archive takes at most `bytes_per_token`, and at least (1 - slack) of it: K bits,
    V bits and channels chosen together. Whoever asks measures them and takes the best."""
    head_dim = values.shape[-1]
    found = []
    for pruned, storage_k, storage_v in product((0.0, *PRUNED_SHARES), storages, storages):
        kept = kept_of(block_mask(values, pruned, align))
        candidate = CachePlan(
            kept,
            head_dim,
            storage_k=storage_k,
            storage_v=storage_v,
            **plan,  # type: ignore[arg-type]
        )
        size = candidate.archive_bytes_per_token()
        if (1 - slack) * bytes_per_token <= size <= bytes_per_token:
            found.append(Candidate(candidate, size))
    return found


# Pages that a step may read, of each head.
PAGE_BUDGETS = (8, 16, 32, 64)
# How much further from the whole cache a plan with a page budget may be than the best without.
PAGE_BUDGET_SLACK = 1.05
BUDGETED_MAX = 4  # plans that page budgets are tried with


def with_page_budgets(
    plans: list[CachePlan], costs: list[float], bytes_per_token: float
) -> list[CachePlan]:
    """The best plans of a byte target under each page budget, where what they then take (f16 pages
    need bounds beside them) is still within the target."""
    order = sorted(range(len(plans)), key=costs.__getitem__)
    near = [index for index in order if costs[index] <= PAGE_BUDGET_SLACK * costs[order[0]]]
    limited = [
        replace(plans[index], pages_per_step=pages, pages_floor=pages)
        for index in near[:BUDGETED_MAX]
        for pages in PAGE_BUDGETS
    ]
    return [plan for plan in limited if plan.archive_bytes_per_token() <= bytes_per_token]


def fewest_bytes_read(
    limited: list[CachePlan], costs: list[float], cost_best: float
) -> CachePlan | None:
    """Of plans with page budgets that cost next to nothing, the one whose steps read least."""
    fitting = [
        (plan.pages_per_step * plan.page_bytes(), cost, index)
        for index, (plan, cost) in enumerate(zip(limited, costs, strict=True))
        if cost <= PAGE_BUDGET_SLACK * cost_best
    ]
    return limited[min(fitting)[2]] if fitting else None
