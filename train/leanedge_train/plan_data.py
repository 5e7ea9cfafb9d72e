"""What plans are learned from and calibrated on: chats and passages of books, from a corpus."""

from collections.abc import Callable
from random import Random

from tokenizers import Tokenizer

from .conversation import conversation
from .corpus import Corpus, paragraphs_of
from .retrieval import Haystack, retrieval_task
from .rows import CHARS_PER_TOKEN
from .tokenizer import Messages

# Of the chats that are learned from.
CONVERSATION_SHARES = {"mixed": 0.35, "retrieval": 0.0, "conversations": 1.0}
TEXT_CHARS_PER_TOKEN = 5  # of English prose, a little more than in the mean


def haystack_of(corpus: Corpus, books_max: int) -> Haystack:
    """Paragraphs of a corpus's first books, in their order."""
    return Haystack(tuple(p for book in corpus.books[:books_max] for p in paragraphs_of(book)))


def chats(corpus: Corpus, haystack: Haystack, data: str) -> Callable[[Random, int], Messages]:
    """make_chat of tails.TailSource over a corpus: retrieval tasks, conversations or both."""

    def make_chat(random: Random, tokens: int) -> Messages:
        chars = round(tokens * CHARS_PER_TOKEN * 1.1)
        if random.random() < CONVERSATION_SHARES[data]:
            return conversation(random, chars, corpus, haystack)
        return retrieval_task(random, chars, 1.0, haystack)

    return make_chat


def texts(haystack: Haystack, tokenizer: Tokenizer) -> Callable[[Random, int], list[int]]:
    """make_text of tails.TailSource: passages of books."""

    def make_text(random: Random, tokens: int) -> list[int]:
        chars = TEXT_CHARS_PER_TOKEN * tokens
        while True:
            ids = tokenizer.encode("\n\n".join(haystack.take(random, chars))).ids
            if len(ids) >= tokens:
                return ids
            chars += chars // 4

    return make_text
