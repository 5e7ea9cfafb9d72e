"""Writes tasks of the training generators as evaluation tasks, from held-out books and new seeds.

A quick look between two trainings; the evaluation that counts makes its own tasks.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random

from .conversation import session_task
from .corpus import Corpus, paragraphs_of, read_corpus
from .load import open_model
from .retrieval import Haystack, biographies, digits, scatter, spoken_list, tracking
from .rows import CHARS_PER_TOKEN, encode_books
from .tasks_file import ANSWER_TOKENS, EvalTask
from .tokenizer import Render, embedded_vocabulary, prompt_ids, renderer, tokenizer_of
from .words import ADJECTIVES, NOUNS

KINDS = ("single", "multi-key", "multi-value", "multi-query", "key-value", "tracking", "facts")
OTHER_KINDS = ("session", "perplexity")
SESSION_TURNS = (1, 5, 10, 20, 40, 60)  # between telling and asking


def needle_task(random: Random, kind: str, chars: int, haystack: Haystack) -> tuple[str, list[str]]:
    """A needle task's prompt and answers: seven-digit numbers in essays."""
    keys = random.sample(NOUNS, 8) if kind != "single" else [random.choice(NOUNS)]
    each = 4 if kind == "multi-value" else 1
    values = {key: [digits(random, 7) for _ in range(each)] for key in keys}
    if kind == "multi-value":
        values = {key: values[key] for key in keys[:2]}
    facts = [
        f"One of the special magic numbers for {key} is: {value}."
        for key, listed in values.items() for value in listed
    ]  # fmt: skip
    text = scatter(random, haystack.take(random, chars), facts)
    intro = (
        "Some special magic numbers are hidden within the following text. Make sure to memorize "
        "it. I will quiz you about the numbers afterwards.\n"
    )
    asked = random.sample(list(values), 4 if kind == "multi-query" else 1)
    answers = [value for key in asked for value in values[key]]
    if len(answers) == 1:
        question = (
            f"What is the special magic number for {asked[0]} mentioned in the provided text?"
        )
    else:
        question = (
            f"What are all the special magic numbers for {spoken_list(asked)} mentioned in the "
            "provided text?"
        )
    return f"{intro}{text}\n{question}", answers


def generated_task(
    random: Random, kind: str, chars: int, haystack: Haystack
) -> tuple[str, list[str]]:
    """A prompt and the answers that count."""
    if kind == "key-value":
        count = chars // 24
        keys = {f"{random.choice(ADJECTIVES)}-{random.choice(NOUNS)}" for _ in range(count)}
        table = {key: digits(random, 7) for key in sorted(keys)}
        asked = random.choice(list(table))
        lines = "\n".join(f"{key}: {value}" for key, value in table.items())
        return f"{lines}\nWhat is the value of {asked}?", [table[asked]]
    if kind == "tracking":
        while True:
            messages = tracking(random, chars, 1.0, haystack)
            if " are: " in messages[1][1]:
                return messages[0][1], messages[1][1].split(" are: ")[1].rstrip(".").split(", ")
    if kind == "facts":
        messages = biographies(random, chars, 1.0, haystack)
        return messages[0][1], [messages[1][1].rstrip(".").split(" ")[-1]]
    return needle_task(random, kind, chars, haystack)


def session_tasks(
    seed: int, count: int, corpus: Corpus, haystack: Haystack, render_chat: Render
) -> Iterator[EvalTask]:
    """`count` sessions of each number of turns."""
    for index in range(count * len(SESSION_TURNS)):
        random = Random(f"{seed}/session/{index}")
        turns = SESSION_TURNS[index % len(SESSION_TURNS)]
        messages, question, answer = session_task(random, turns, corpus, haystack)
        ids = prompt_ids(render_chat, [*messages, ("user", question)])
        yield EvalTask("session", turns, ids, [answer], "exact", index)


def kind_tasks(
    seed: int, kind: str, length: int, count: int, haystack: Haystack, render_chat: Render
) -> Iterator[EvalTask]:
    """`count` samples of one kind that fit into `length` tokens, the answer included."""
    for index in range(count):
        random = Random(f"{seed}/{kind}/{length}/{index}")
        chars = round((length - ANSWER_TOKENS) * CHARS_PER_TOKEN)
        while True:
            prompt, answers = generated_task(random, kind, chars, haystack)
            ids = prompt_ids(render_chat, [("user", prompt)])
            if len(ids) <= length - ANSWER_TOKENS:
                break
            chars = round(chars * 0.93)
        yield EvalTask(kind, length, ids, answers, "any" if kind == "facts" else "all", index)


def perplexity_tasks(text: list[int], length: int, count: int) -> Iterator[EvalTask]:
    """`count` windows of `length` tokens, evenly spaced; their last ANSWER_TOKENS are targets."""
    span = len(text) - length
    if span < 0:
        raise ValueError(f"{len(text)} tokens of held-out text, {length} needed")
    for index in range(count):
        at = span * index // max(1, count - 1)
        yield EvalTask("perplexity", length, text[at : at + length], [], "loss", index)


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, help="whose tokenizer; unset: the embedded model's")
    options.add_argument("--corpus", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--kinds", nargs="+", choices=(*KINDS, *OTHER_KINDS))
    options.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    options.add_argument("--count", type=int, default=32, help="of each kind and length")
    options.add_argument("--seed", type=int, default=1000)
    arguments = options.parse_args()
    vocabulary = embedded_vocabulary()
    if arguments.model:
        file = open_model(arguments.model)[1]
        if file is None:
            raise ValueError(f"{arguments.model} has no vocabulary")
        vocabulary = file.vocabulary
    render_chat = renderer(vocabulary)
    corpus = read_corpus(arguments.corpus)
    haystack = Haystack(tuple(p for book in corpus.held_out for p in paragraphs_of(book)))
    kinds = arguments.kinds or (*KINDS, *OTHER_KINDS)
    seed, count = arguments.seed, arguments.count
    # Written beside and renamed: a command that is cut short leaves no half file.
    beside = arguments.out.with_suffix(".tmp")
    with beside.open("w") as out:
        if "session" in kinds:
            for task in session_tasks(seed, count, corpus, haystack, render_chat):
                out.write(task.to_json())
        held_out = []
        if "perplexity" in kinds:
            held_out = encode_books(tokenizer_of(vocabulary), corpus.held_out).tolist()
        for length in arguments.lengths:
            for kind in kinds:
                if kind in KINDS:
                    made = kind_tasks(seed, kind, length, count, haystack, render_chat)
                elif kind == "perplexity":
                    made = perplexity_tasks(held_out, length, count)
                else:
                    continue
                for task in made:
                    out.write(task.to_json())
    beside.replace(arguments.out)


if __name__ == "__main__":
    main()
