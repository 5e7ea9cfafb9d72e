"""Batches for learning and measuring a plan: a context that is read, and rows that read it again.

Half of them are one long prompt and its answer, half a session: the last question and answer
behind earlier turns, where the question too reads the archive, as it does in the engine.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from .leank import TailBatch
from .tokenizer import Messages, Render


@dataclass(frozen=True)
class Tail:
    """One sample: ids of the context, of the tail, and where each tail row's zones are fixed."""

    context: list[int]
    tail: list[int]
    zone_positions: list[int]
    weights: list[float]


def tail_of(messages: Messages, render_chat: Render, session: bool) -> Tail:
    """Cuts a chat before its last answer, or before its last question in a session."""
    ids, spoken = render_chat(messages)
    end = _last_spoken(spoken)  # the end token: drawn, but never part of the log
    answer = end
    while answer > 0 and spoken[answer - 1] == 1:
        answer -= 1  # first id of the last answer
    start = answer
    if session and len(messages) > 2:
        # The end token of the answer before belongs to the next prompt.
        start = _last_spoken(render_chat(messages[:-2])[1])
    tail = ids[start:end]
    zones = [start if at < answer else at for at in range(start, end)]
    weights = [1.0 if at >= answer - 1 else 0.0 for at in range(start, end)]
    return Tail(ids[:start], tail, zones, weights)


def _last_spoken(spoken: list[int]) -> int:
    return len(spoken) - 1 - spoken[::-1].index(1)


def text_tail(ids: list[int], rows: int) -> Tail:
    """The last `rows` ids of a text, each read as if it had been generated behind those before."""
    start = len(ids) - rows
    return Tail(ids[:start], ids[start:], list(range(start, len(ids))), [1.0] * rows)


def batch_of(tails: list[Tail]) -> TailBatch:
    """Pads samples to one batch."""
    prompt = max(len(tail.context) for tail in tails)
    rows = max(len(tail.tail) for tail in tails)

    def padded(values: list[int], size: int, fill: int = 0) -> list[int]:
        return values + [fill] * (size - len(values))

    zones = []
    for tail in tails:
        first, last = len(tail.context), tail.zone_positions[-1]
        zones.append(padded(tail.zone_positions, rows, max(first, last)))
    return TailBatch(
        ids=torch.tensor([padded(tail.context, prompt) for tail in tails]),
        lengths=torch.tensor([len(tail.context) for tail in tails]),
        tail=torch.tensor([padded(tail.tail, rows) for tail in tails]),
        zone_positions=torch.tensor(zones),
        weights=torch.tensor([tail.weights + [0.0] * (rows - len(tail.weights)) for tail in tails]),
    )


TRIES_MAX = 50
AHEAD_MAX = 32  # batches under way


@dataclass(frozen=True)
class TailSource:
    """What tail batches are made from: `samples` chats each, of about one length, drawn evenly
    from `tokens`. make_chat(random, tokens) makes a chat of about that many tokens."""

    samples: int
    tokens: tuple[int, int]
    tail_tokens_max: int
    make_chat: Callable[[Random, int], Messages]
    render_chat: Render
    # make_text(random, tokens) -> at least that many ids of a text, which this share of samples
    # reads on.
    make_text: Callable[[Random, int], list[int]] | None = None
    text_share: float = 0.0

    def batch(self, seed: int, step: int) -> TailBatch:
        """The batch of a step."""
        random = Random(f"{seed}/{step}")
        wanted = random.randint(*self.tokens)
        tails: list[Tail] = []
        size = float(wanted)
        for _ in range(TRIES_MAX * self.samples):
            if self.make_text is not None and random.random() < self.text_share:
                ids = self.make_text(random, wanted)[:wanted]
                tails.append(text_tail(ids, min(self.tail_tokens_max, len(ids) // 2)))
                if len(tails) == self.samples:
                    return batch_of(tails)
                continue
            chat = self.make_chat(random, round(size))
            tail = tail_of(chat, self.render_chat, random.random() < 0.5)
            if len(tail.tail) > self.tail_tokens_max:
                continue
            if len(tail.context) > self.tokens[1] * 1.15:
                size *= 0.95  # a tokenizer with shorter tokens
                continue
            if len(tail.context) < wanted * 0.5 or not any(tail.weights):
                continue
            tails.append(tail)
            if len(tails) == self.samples:
                return batch_of(tails)
        raise ValueError(f"{len(tails)} of {self.samples} chats of {wanted} tokens fit")


_source: TailSource | None = None  # set before processes are forked


def _batch(order: tuple[int, int]) -> dict[str, np.ndarray]:
    assert _source is not None
    return {name: value.numpy() for name, value in vars(_source.batch(*order)).items()}


def tail_batches(source: TailSource, seed: int, processes: int = 0) -> Iterator[TailBatch]:
    """Endless batches, made by processes beside this one if there are any. Take the first one
    before the first use of a GPU: processes are forked then."""
    global _source
    if processes == 0:
        step = 0
        while True:
            yield source.batch(seed, step)
            step += 1
    _source = source
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        queue = deque(pool.apply_async(_batch, ((seed, step),)) for step in range(AHEAD_MAX))
        step = AHEAD_MAX
        while True:
            made = queue.popleft().get(timeout=120)
            queue.append(pool.apply_async(_batch, ((seed, step),)))
            step += 1
            yield TailBatch(**{name: torch.from_numpy(value) for name, value in made.items()})
