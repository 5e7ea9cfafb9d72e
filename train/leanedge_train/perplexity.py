"""Perplexity of held-out text, with the whole cache and through plans.

Text is cut into windows; all but a window's last rows are read as a prompt, the last rows as if
they were generated, so that each reads the archive of its own position.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .cache import Reading, TailReader, exact_enough, prefill, tail_pass
from .corpus import read_corpus
from .load import open_model
from .methods import THINK_QUERIES, Method, Scores, parse_method
from .model import Transformer
from .rows import encode_books
from .tokenizer import tokenizer_of


@torch.no_grad()
def window_losses(
    model: Transformer, ids: Tensor, rows: int, methods: list[Method]
) -> dict[str, float]:
    """Mean loss over the last `rows` targets of windows ids (B, T + 1), for each method."""
    prompt = ids.shape[1] - 1 - rows
    lengths = torch.full((ids.shape[0],), prompt, device=ids.device)
    cache = prefill(model, ids[:, :prompt], lengths, THINK_QUERIES)
    tail, targets = ids[:, prompt:-1], ids[:, prompt + 1 :]
    positions = lengths[:, None] + torch.arange(rows, device=ids.device)
    found = {}
    for method in methods:
        dense = method.name == "full"
        reader = TailReader(cache, method.reading_for(cache) if not dense else Reading(), dense)
        logits = model.logits(tail_pass(model, reader, tail, positions)).float()
        found[method.name] = float(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    return found


def perplexities(
    model: Transformer,
    ids: NDArray[np.uint16],
    window: int,
    rows: int,
    windows: int,
    methods: list[Method],
    batch: int = 8,
) -> dict[str, float]:
    """Perplexity of each method over evenly spaced windows of `window` tokens."""
    device = model.token_embd.weight.device
    starts = np.linspace(0, len(ids) - window - 2, windows).astype(int)
    sums = dict.fromkeys((method.name for method in methods), 0.0)
    for first in range(0, windows, batch):
        part = np.stack([ids[at : at + window + 1] for at in starts[first : first + batch]])
        piece = torch.from_numpy(part.astype(np.int64)).to(device)
        for name, loss in window_losses(model, piece, rows, methods).items():
            sums[name] += loss * len(part)
    return {name: math.exp(total / windows) for name, total in sums.items()}


def main() -> None:
    """The command; prints one JSON object."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--corpus", type=Path, required=True)
    options.add_argument("--window", type=int, default=2048)
    options.add_argument("--windows", type=int, default=64)
    options.add_argument("--rows", type=int, default=96, help="measured rows of a window")
    options.add_argument("--methods", nargs="+", default=["full"])
    arguments = options.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact_enough()
    model, file = open_model(arguments.model)
    if file is None:
        raise ValueError(f"{arguments.model} has no vocabulary")
    model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    corpus = read_corpus(arguments.corpus)
    text = encode_books(tokenizer_of(file.vocabulary), corpus.held_out)
    methods = [parse_method(name, model.config, Scores()) for name in arguments.methods]
    found = perplexities(model, text, arguments.window, arguments.rows, arguments.windows, methods)
    characters = sum(len(book) for book in corpus.held_out) / len(text)
    bits = {name: math.log2(value) / characters for name, value in found.items()}
    print(json.dumps({"perplexity": found, "bits_per_character": bits, "window": arguments.window}))


if __name__ == "__main__":
    main()
