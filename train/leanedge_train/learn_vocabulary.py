"""Learns vocabulary.txt: python3 -m leanedge_train.learn_vocabulary CORPUS_FOLDER."""

import argparse
from pathlib import Path
from random import Random

from .conversation import conversation
from .corpus import paragraphs_of, read_corpus
from .retrieval import Haystack, retrieval_task
from .tokenizer import MERGES_FILE, learn_merges, write_merges

# Characters of each kind of text: enough that merges settle, little enough for a minute.
BOOK_CHARS = 8_000_000
CHATS = 600


def main() -> None:
    """Reads a sample of everything that is trained on, and writes the merges."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, default=MERGES_FILE)
    arguments = parser.parse_args()
    corpus = read_corpus(arguments.corpus)
    random = Random(1)
    share = BOOK_CHARS // len(corpus.books)
    texts = []
    for book in corpus.books:
        at = random.randrange(max(1, len(book) - share))
        texts.append(book[at : at + share])
    haystack = Haystack(tuple(paragraphs_of(texts[0])))
    texts += [text for _, text in corpus.stories]
    for _ in range(CHATS):
        chat = conversation(random, 3000, corpus, haystack)
        chat += retrieval_task(random, 1500, 1.0, haystack)
        texts += [text for _, text in chat]
    write_merges(arguments.out, learn_merges(texts))


if __name__ == "__main__":
    main()
