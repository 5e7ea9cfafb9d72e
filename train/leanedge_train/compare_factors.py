"""How alike factors are that were learned from different tasks: python3 -m
leanedge_train.compare_factors A/factors.pt B/factors.pt."""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from .masks import block_mask

SHARES = (0.5, 0.7, 0.8)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, over all entries."""
    a, b = a.flatten().double() - a.double().mean(), b.flatten().double() - b.double().mean()
    return float((a @ b) / (a.norm() * b.norm()))


def ranks(values: Tensor) -> Tensor:
    """Mean rank of each entry: equal values share theirs."""
    flat = values.flatten()
    ordered = flat.sort().values
    first = torch.searchsorted(ordered, flat, right=False)
    last = torch.searchsorted(ordered, flat, right=True)
    return (first + last - 1).double() / 2


def compare(a: Tensor, b: Tensor) -> dict[str, object]:
    """Correlations of two sets of factors (layers, kv_heads, head_dim), and of what they keep."""
    kept = {}
    for share in SHARES:
        first, second = block_mask(a, share), block_mask(b, share)
        kept[str(share)] = round(float((first * second).sum() / first.sum().clamp(min=1)), 4)
    return {
        "pearson": round(correlation(a, b), 4),
        "spearman": round(correlation(ranks(a), ranks(b)), 4),
        "kept_in_both": kept,
    }


def main() -> None:
    """The command: one JSON line for each L1 weight."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("a", type=Path)
    options.add_argument("b", type=Path)
    arguments = options.parse_args()
    first, second = torch.load(arguments.a), torch.load(arguments.b)
    for weight, a, b in zip(first["l1"], first["factors"], second["factors"], strict=True):
        print(json.dumps({"l1": weight, **compare(a.float(), b.float())}))


if __name__ == "__main__":
    main()
