"""The text: books, children's stories and small talk, and which books are never trained on."""

import hashlib
import json
import lzma
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "\x1e"
# Never trained on, nor used as haystacks while training: perplexity and the haystacks of
# evaluations come from these. One or two of several styles, so that no author's only book goes.
HELD_OUT_TITLES = (
    "The Warden",
    "Agnes Grey",
    "The Invisible Man",
    "White Fang",
    "Northanger Abbey",
    "The Railway Children",
    "The Time Machine",
    "The Sign of the Four",
)


# Small talk that a small model has no business to repeat: politics, religion, insults, sex, drugs;
# and answers that are none.
UNWELCOME = re.compile(
    r"gun|amendment|president|politic|democrat|republican|communis|government|govern|hitler|nazi|war\b|"
    r"religio|god\b|jesus|bible|christ|muslim|islam|jew|church|sex|gay|lesbian|naked|porn|drug|beer|"
    r"alcohol|drunk|kill|murder|dead|die\b|suicide|stupid|idiot|dumb|hate|fuck|shit|bitch|ass\b|damn|hell\b|"
    r"crazy|insane|clinton|bush|trump|obama|saddam|terror|bomb|racis|black people|slut|whore|alice|"
    r"SQL|javascript|python|^\W*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Corpus:
    """Documents as text."""

    books: tuple[str, ...]
    held_out: tuple[str, ...]
    stories: tuple[tuple[str, str], ...]  # (title, text)
    small_talk: tuple[tuple[str, ...], ...]  # turns, the user's first


def title_of(book: str) -> str:
    """The title in a book's first lines, or nothing."""
    found = re.search(r"^\s*Title: (.*)$", book[:400], re.MULTILINE)
    return found.group(1).strip() if found else ""


def is_held_out(title: str) -> bool:
    """Whether a book is kept away from training."""
    return title.casefold() in {held.casefold() for held in HELD_OUT_TITLES}


def _documents(path: Path) -> list[str]:
    text = lzma.decompress(path.read_bytes()).decode()
    return [document.strip() for document in text.split(SEPARATOR) if document.strip()]


def _stories(path: Path) -> list[tuple[str, str]]:
    """Stories with their titles; those of a few words and those with a note are left out."""
    stories = []
    for document in _documents(path):
        lines = [line.strip() for line in document.splitlines() if line.strip()]
        title, text = lines[0], "\n".join(lines[1:])
        if len(title) <= 60 and 300 <= len(text) <= 4000 and text.isascii():
            stories.append((title, text))
    return stories


def read_corpus(folder: Path) -> Corpus:
    """Reads whatever parts of the corpus lie in `folder`; SOURCES.md there says what they are."""
    books: list[str] = []
    held_out: list[str] = []
    paths = sorted(folder.glob("books-*.txt.xz"))
    # Decompression is most of the work, and lets other threads run.
    with ThreadPoolExecutor(max_workers=max(1, len(paths))) as pool:
        parts = list(pool.map(_documents, paths))
    for documents in parts:
        for book in documents:
            (held_out if is_held_out(title_of(book)) else books).append(book)
    if not books:
        raise FileNotFoundError(f"{folder}: no books-*.txt.xz there")
    stories, talk = folder / "stories.txt.xz", folder / "smalltalk.jsonl.xz"
    small_talk = []
    if talk.exists():
        for line in lzma.decompress(talk.read_bytes()).decode().splitlines():
            turns = tuple(str(turn).strip() for turn in json.loads(line))
            kept = all(0 < len(turn) < 200 and not UNWELCOME.search(turn) for turn in turns)
            if len(turns) >= 2 and kept:
                small_talk.append(turns)
    return Corpus(
        tuple(books),
        tuple(held_out),
        tuple(_stories(stories)) if stories.exists() else (),
        tuple(small_talk),
    )


def corpus_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the corpus files: what a model was made of."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.xz")):
        whole.update(f"{path.name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def paragraphs_of(book: str) -> list[str]:
    """Paragraphs as one line each, without headings: haystacks are made of them."""
    blocks = re.split(r"\n\s*\n", book)
    lines = (" ".join(block.split()) for block in blocks)
    return [line for line in lines if 80 <= len(line) <= 1500]
