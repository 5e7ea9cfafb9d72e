"""Batches for learning and measuring a plan: a context that is read, and rows that read it again.

Half of them are one long prompt and its answer, half a session: the last question and answer
behind earlier turns, where the question too reads the archive, as it does in the engine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer

from .leank import TailBatch
from .retrieval import Messages
from .tokenizer import render

Render = Callable[[Messages], tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Tail:
    """One sample: ids of the context, of the tail, and where each tail row's zones are fixed."""

    context: list[int]
    tail: list[int]
    zone_positions: list[int]
    weights: list[float]


def renderer(tokenizer: Tokenizer) -> Render:
    """`render` with a tokenizer of this project's template."""
    return lambda messages: render(tokenizer, messages)


def tail_of(messages: Messages, render_chat: Render, session: bool) -> Tail:
    """Cuts a chat before its last answer, or before its last question in a session."""
    ids, spoken = render_chat(messages)
    answer = len(ids) - 1
    while answer > 0 and spoken[answer - 1] == 1:
        answer -= 1  # first id of the last answer
    if session and len(messages) > 2:
        start = len(render_chat(messages[:-2])[0]) - 1  # the end token belongs to the next prompt
    else:
        start = answer
    tail = ids[start:-1]
    zones = [start if at < answer else at for at in range(start, start + len(tail))]
    weights = [1.0 if at >= answer - 1 else 0.0 for at in range(start, start + len(tail))]
    return Tail(ids[:start], tail, zones, weights)


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


def tail_batches(
    seed: int,
    samples: int,
    tokens: tuple[int, int],
    tail_tokens_max: int,
    make_chat: Callable[[Random, int], Messages],
    render_chat: Render,
) -> Iterator[TailBatch]:
    """Endless batches of `samples` chats each; one batch has about one length, drawn evenly from
    `tokens`. make_chat(random, tokens) makes a chat of about that many tokens."""
    step = 0
    while True:
        random = Random(f"{seed}/{step}")
        step += 1
        wanted = random.randint(*tokens)
        tails: list[Tail] = []
        for _ in range(TRIES_MAX * samples):
            tail = tail_of(make_chat(random, wanted), render_chat, random.random() < 0.5)
            if len(tail.context) > tokens[1] * 1.15 or len(tail.tail) > tail_tokens_max:
                continue
            if len(tail.context) < wanted * 0.5 or not any(tail.weights):
                continue
            tails.append(tail)
            if len(tails) == samples:
                break
        else:
            raise ValueError(f"{len(tails)} of {samples} chats of {wanted} tokens fit")
        yield batch_of(tails)
