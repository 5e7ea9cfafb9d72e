"""Tokenizer, corpus, generated chats and rows."""

import lzma
from pathlib import Path
from random import Random
from string import ascii_uppercase

import numpy as np
import pytest

from leanedge_train.conversation import conversation, session_task
from leanedge_train.corpus import Corpus, paragraphs_of, read_corpus
from leanedge_train.retrieval import TASKS, Haystack, key_values, needles, retrieval_task, tracking
from leanedge_train.rows import ANSWER, TEXT, Mix, Source, encode_books, make_batch
from leanedge_train.tokenizer import (
    END,
    SPECIALS,
    VOCAB_SIZE,
    embedded_vocabulary,
    render,
    tokenizer_of,
)

WORDS = "the old house stood near a river and nobody had lived in it for many years".split()


def book(seed: int, title: str) -> str:
    random = Random(seed)
    lines = [" ".join(random.choices(WORDS, k=30)).capitalize() + "." for _ in range(60)]
    return f"Title: {title}\n\nAuthor: Nobody\n\n" + "\n\n".join(lines)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder: Path = tmp_path_factory.mktemp("corpus")
    books = "\x1e".join([book(1, "One"), book(2, "The Warden"), book(3, "Two")])
    (folder / "books-0.txt.xz").write_bytes(lzma.compress(books.encode()))
    story = "The boat\n\n" + "A boat went down the river to the sea. " * 12
    (folder / "stories.txt.xz").write_bytes(lzma.compress(f"{story}\x1eToo short\n\nx".encode()))
    talk = '["Hello?", "Hello!"]\n["Who won the war?", "Nobody."]\n'
    (folder / "smalltalk.jsonl.xz").write_bytes(lzma.compress(talk.encode()))
    return read_corpus(folder)


@pytest.fixture(scope="module")
def source(corpus: Corpus) -> Source:
    tokenizer = tokenizer_of(embedded_vocabulary())
    haystack = Haystack(tuple(p for text in corpus.books for p in paragraphs_of(text)))
    return Source(tokenizer, corpus, haystack, encode_books(tokenizer, corpus.books))


def test_held_out_books_are_not_trained_on(corpus: Corpus, source: Source) -> None:
    assert len(corpus.books) == 2 and len(corpus.held_out) == 1
    assert "Title: The Warden" in corpus.held_out[0]
    assert [title for title, _ in corpus.stories] == ["The boat"]
    assert corpus.small_talk == (("Hello?", "Hello!"),)
    assert "Warden" not in source.tokenizer.decode(source.text_ids.tolist())


def test_every_number_up_to_999_is_one_token(source: Source) -> None:
    assert len(embedded_vocabulary().tokens) == VOCAB_SIZE
    for number in [*range(1000), "00", "007", "070"]:
        assert len(source.tokenizer.encode(str(number)).ids) == 1, number
    assert source.tokenizer.encode("4827193").tokens == ["482", "719", "3"]


def test_every_two_capitals_are_one_token(source: Source) -> None:
    tokens = set(embedded_vocabulary().tokens)
    assert all(a + b in tokens for a in ascii_uppercase for b in ascii_uppercase)
    random = Random(5)
    names = [" " + "".join(random.choices(ascii_uppercase, k=5)) for _ in range(200)]
    assert max(len(encoding.ids) for encoding in source.tokenizer.encode_batch(names)) <= 4


def test_text_comes_back_from_its_ids(source: Source) -> None:
    text = 'Ça va? 12 345 — naïve\n\n\t"don\'t" <|end|> 日本'
    ids = source.tokenizer.encode(text).ids
    assert source.tokenizer.decode(ids) == text
    assert all(index >= len(SPECIALS) for index in ids), "special tokens are never text"


def test_only_what_the_assistant_says_is_learned(source: Source) -> None:
    ids, spoken = render(source.tokenizer, [("user", "Hi there."), ("assistant", "Hello!")])
    said = [index for index, says in zip(ids, spoken, strict=True) if says]
    assert said == [*source.tokenizer.encode("Hello!").ids, END]


def test_rows_follow_from_seed_and_step_only(source: Source) -> None:
    first = make_batch(1, 7, 4, 256, 1.0, source)
    again = make_batch(1, 7, 4, 256, 1.0, source)
    other = make_batch(1, 8, 4, 256, 1.0, source)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    ids, kinds = first
    assert ids.shape == kinds.shape == (4, 257) and ids.max() < VOCAB_SIZE
    assert (kinds[0] == TEXT).all() and (kinds == ANSWER).any()
    only_chats = make_batch(1, 7, 4, 256, 1.0, Source(**{**vars(source), "mix": Mix(text=0.0)}))
    assert not (only_chats[1] == TEXT).any()


@pytest.mark.parametrize("task", [make for _, make in TASKS], ids=lambda make: make.__name__)
def test_answers_of_tasks_stand_in_their_text(task, source: Source) -> None:
    random = Random(5)
    for _ in range(30):
        messages = task(random, random.randint(200, 3000), random.random(), source.haystack)
        text = messages[0][1]
        assert [role for role, _ in messages] == ["user", "assistant"] * (len(messages) // 2)
        for _, answer in messages[1::2]:
            last = answer.rstrip(".").split(" ")[-1]
            assert last in text or "does not mention" in answer or "has no" in answer


def test_needle_answers_list_values_in_the_order_of_the_text(source: Source) -> None:
    random = Random(8)
    seen = 0
    for _ in range(60):
        messages = needles(random, 1500, 1.0, source.haystack)
        text = messages[0][1]
        for (_, question), (_, answer) in zip(messages[::2], messages[1::2], strict=True):
            asked = question.rsplit("\n", 1)[-1]
            if " are " not in answer or " and " in asked.split(" for ")[1]:
                continue
            values = answer.rstrip(".").split(" are ")[1].replace(" and ", " ").replace(",", "")
            places = [text.index(f" {value}.") for value in values.split(" ") if value]
            assert places == sorted(places)
            seen += 1
    assert seen > 10


def test_chains_are_answered_with_all_their_variables(source: Source) -> None:
    messages = tracking(Random(2), 1500, 1.0, source.haystack)
    lists = [answer for _, answer in messages if " are: " in answer]
    assert lists
    for answer in lists:
        names = answer.split(" are: ")[1].rstrip(".").split(", ")
        value = answer.split(" value ")[1].split(" ")[0]
        assert f"VAR {names[0]} = {value}" in messages[0][1]
        for first, second in zip(names, names[1:], strict=False):
            assert f"VAR {second} = VAR {first}" in messages[0][1]


def test_dense_lists_fill_their_text_and_long_chains_are_half(source: Source) -> None:
    lines = [
        key_values(Random(seed), 12_000, 1.0, source.haystack)[0][1].count(": ")
        for seed in range(60)
    ]
    assert 18 <= sum(count > 400 for count in lines) <= 42
    assert max(lines) <= 601
    hops = [
        max(answer.count(",") for _, answer in tracking(Random(seed), 1500, 1.0, source.haystack))
        for seed in range(60)
    ]
    assert 25 <= sum(count == 4 for count in hops) <= 50
    early = [
        tracking(Random(seed), 1500, 0.0, source.haystack)[0][1].count("VAR") for seed in range(9)
    ]
    assert max(early) <= 4, "at first one chain of one step, and the question"


def test_conversations_answer_what_was_told_last(source: Source) -> None:
    random = Random(4)
    told: dict[str, str] = {}
    for _ in range(40):
        messages = conversation(random, 4000, source.corpus, source.haystack)
        told.clear()
        for (_, user), (_, assistant) in zip(messages[::2], messages[1::2], strict=True):
            for sentence in user.split(". "):
                if sentence.startswith(("I live in ", "Actually, I live in ")):
                    told["city"] = sentence.rsplit(" ", 1)[1].rstrip(".")
                if "I live in" in sentence and "Now" in sentence or "I moved to" in sentence:
                    told["city"] = sentence.rsplit(" ", 1)[1].rstrip(".")
                if sentence.startswith(("My home is in", "I have lived in")):
                    told.pop("city", None)
            if user in ("Where do I live?", "In which city do I live?") and "city" in told:
                assert assistant == f"You live in {told['city']}."


def test_sessions_ask_for_the_fact_of_their_first_turn(source: Source) -> None:
    for seed in range(20):
        messages, question, answer = session_task(Random(seed), 12, source.corpus, source.haystack)
        assert len(messages) == 24 and question.endswith("?") and answer.endswith(".")
        assert question not in [text for _, text in messages[2:]]


def test_tasks_of_any_length_are_about_that_long(source: Source) -> None:
    random = Random(1)
    for chars in (300, 1000, 8000):
        sizes = [
            sum(len(text) for _, text in retrieval_task(random, chars, 1.0, source.haystack))
            for _ in range(20)
        ]
        assert max(sizes) < 2.5 * chars + 2500
