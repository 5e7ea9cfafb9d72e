"""Rows of token ids to train on: packed chats, slices of books; deterministic by (seed, step)."""

import multiprocessing
import os
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .conversation import conversation, story
from .corpus import Corpus
from .retrieval import Haystack, retrieval_task
from .tokenizer import BOS, PAD, Messages, render

Ids = NDArray[np.uint16]
Weights = NDArray[np.uint8]

# Characters that one token stands for, a little less than in the mean: chats shall fit.
CHARS_PER_TOKEN = 3.2
CHAT_TOKENS_MIN = 96
PART_CHARS = 20_000  # of a book, tokenized at once
TRIES_MAX = 4  # to fit a chat into what is left of a row
TEXT, ANSWER = 1, 2  # what a target belongs to; 0: not learned


@dataclass(frozen=True)
class Mix:
    """Shares of rows and of chats."""

    text: float = 0.35  # rows of books
    conversations: float = 0.4  # of chats; the rest are retrieval tasks
    stories: float = 0.02  # of chats


@dataclass(frozen=True)
class Source:
    """What rows are made from."""

    tokenizer: Tokenizer
    corpus: Corpus
    haystack: Haystack
    text_ids: Ids  # the books that are trained on, one after another
    mix: Mix = Mix()


SYSTEM_SHARE = 0.15  # of chats begin with a system message
SYSTEM_TEXTS = (
    "You are a helpful assistant.",
    "You are leanedge, a small model that remembers what it is told.",
    "Answer from what you were told. Say so if you were not told.",
    "You are a friendly assistant. Keep your answers short.",
)


def draw_chat(random: Random, tokens: int, level: float, source: Source) -> Messages:
    """A chat of at most about `tokens` tokens."""
    if random.random() < SYSTEM_SHARE:
        return [("system", random.choice(SYSTEM_TEXTS)), *draw_task(random, tokens, level, source)]
    return draw_task(random, tokens, level, source)


def draw_task(random: Random, tokens: int, level: float, source: Source) -> Messages:
    """The same without a system message."""
    chars = round(tokens * CHARS_PER_TOKEN)
    draw = random.random()
    if draw < source.mix.stories and source.corpus.stories:
        return story(random, source.corpus)
    if draw < source.mix.stories + source.mix.conversations:
        return conversation(random, chars, source.corpus, source.haystack, level)
    return retrieval_task(random, chars, level, source.haystack)


def chat_row(random: Random, length: int, level: float, source: Source) -> tuple[Ids, Weights]:
    """Chats one after another, length + 1 ids, and what each id is as a target."""
    ids = np.full(length + 1, PAD, dtype=np.uint16)
    kinds = np.zeros(length + 1, dtype=np.uint8)
    at = 0
    # Half of the rows begin with a chat that shall fill them: the long distances.
    whole = random.random() < 0.5
    while length + 1 - at >= CHAT_TOKENS_MIN:
        room = length + 1 - at
        wanted = (
            room if whole else round(CHAT_TOKENS_MIN * (room / CHAT_TOKENS_MIN) ** random.random())
        )
        whole = False
        for _ in range(TRIES_MAX):
            chat, spoken = render(source.tokenizer, draw_chat(random, wanted, level, source))
            if len(chat) <= room:
                ids[at : at + len(chat)] = chat
                kinds[at : at + len(chat)] = np.multiply(spoken, ANSWER)
                at += len(chat)
                break
            wanted = round(wanted * 0.8)
        else:
            break
    return ids, kinds


def text_row(random: Random, length: int, source: Source) -> tuple[Ids, Weights]:
    """A slice of the books, length + 1 ids."""
    at = random.randrange(len(source.text_ids) - length - 1)
    return source.text_ids[at : at + length + 1], np.full(length + 1, TEXT, dtype=np.uint8)


def make_batch(
    seed: int, step: int, rows: int, length: int, level: float, source: Source
) -> tuple[Ids, Weights]:
    """The batch of a step: (rows, length + 1) ids and what each is as a target."""
    random = Random(f"{seed}/{step}")
    text_rows = round(rows * source.mix.text)
    made = [text_row(random, length, source) for _ in range(text_rows)]
    made += [chat_row(random, length, level, source) for _ in range(rows - text_rows)]
    return np.stack([ids for ids, _ in made]), np.stack([kinds for _, kinds in made])


def _parts(book: str) -> list[str]:
    """A book in parts that end where a paragraph does: no word is cut."""
    parts: list[str] = []
    at = 0
    while at < len(book):
        end = book.find("\n\n", at + PART_CHARS)
        end = len(book) if end < 0 else end + 2
        parts.append(book[at:end])
        at = end
    return parts


_encoder: Tokenizer | None = None  # set before processes are forked


def _encode(book: str) -> Ids:
    assert _encoder is not None
    encode = getattr(_encoder, "encode_batch_fast", _encoder.encode_batch)
    ids = [np.array(encoding.ids, dtype=np.uint16) for encoding in encode(_parts(book))]
    return np.concatenate([np.array([BOS], dtype=np.uint16), *ids])


def encode_books(tokenizer: Tokenizer, books: tuple[str, ...], processes: int = 0) -> Ids:
    """All books as ids, one after another, each behind BOS; over `processes` if there are any."""
    global _encoder
    _encoder = tokenizer
    if processes < 2:
        return np.concatenate([_encode(book) for book in books])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process has one thread
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        # Long books first, so that no process is left alone with one at the end.
        order = sorted(range(len(books)), key=lambda index: -len(books[index]))
        encoded = pool.map(_encode, [books[index] for index in order], chunksize=1)
    by_book = dict(zip(order, encoded, strict=True))
    return np.concatenate([by_book[index] for index in range(len(books))])
