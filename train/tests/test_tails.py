"""Where a chat is cut into what is read and what reads it again, in every template."""

from dataclasses import replace
from random import Random

import pytest
import torch

from leanedge_train.tails import TailSource, batch_of, tail_batches, tail_of
from leanedge_train.tokenizer import (
    ASSISTANT,
    BOS,
    END,
    USER,
    Messages,
    Render,
    embedded_vocabulary,
    prompt_ids,
    renderer,
    tokenizer_of,
)

CHAT: Messages = [
    ("user", "My name is Ada."), ("assistant", "Noted."),
    ("user", "What is my name?"), ("assistant", "Your name is Ada."),
]  # fmt: skip
OURS = embedded_vocabulary()
CHATML = replace(
    OURS,
    tokens=("<|im_start|>", "<|im_end|>", *OURS.tokens[2:]),
    chat_template="{{'<|im_start|>' + role}}",
)


_LLAMA3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA3 = replace(
    OURS,
    tokens=("<|begin_of_text|>", *_LLAMA3_TOKENS, *OURS.tokens[4:]),
    bos_id=0,
    chat_template="{{ '<|start_header_id|>' + role + '<|end_header_id|>' }}",
)


@pytest.fixture(params=[OURS, CHATML, LLAMA3], ids=["ours", "chatml", "llama3"])
def render_chat(request: pytest.FixtureRequest) -> Render:
    return renderer(request.param)


def test_chats_are_written_as_their_templates_say() -> None:
    encode = tokenizer_of(OURS).encode
    ids, spoken = renderer(OURS)(CHAT[:2])
    assert ids == [BOS, USER, *encode("My name is Ada.").ids, END,
                   ASSISTANT, *encode("Noted.").ids, END]  # fmt: skip
    assert sum(spoken) == len(encode("Noted.").ids) + 1
    ids, spoken = renderer(CHATML)(CHAT[1:2])
    assert ids == [0, *encode("assistant\n").ids, *encode("Noted.").ids, 1, *encode("\n").ids]
    assert [i for i, says in zip(ids, spoken, strict=True) if says][-1] == 1
    ids, spoken = renderer(LLAMA3)(CHAT[:2])
    head, text = [1, *encode("user").ids, 2], encode("My name is Ada.").ids
    assert (
        ids[: len(head) + 1] == [0, *head] and ids[ids.index(3) - len(text) :][: len(text)] == text
    )
    assert ids[-1] == 3 and sum(spoken) == len(encode("Noted.").ids) + 1
    with pytest.raises(ValueError, match="ours, ChatML or Llama 3's"):
        renderer(replace(OURS, tokens=("<s>", *OURS.tokens[1:]), chat_template="[INST]"))


def test_a_prompt_ends_where_the_assistant_speaks(render_chat: Render) -> None:
    ids, spoken = render_chat(CHAT)
    prompt = prompt_ids(render_chat, CHAT[:3])
    assert ids[: len(prompt)] == prompt
    assert spoken[len(prompt)] == 1 and spoken[len(prompt) - 1] == 0


def test_the_answer_reads_the_zones_of_its_own_position(render_chat: Render) -> None:
    ids, spoken = render_chat(CHAT)
    tail = tail_of(CHAT, render_chat, session=False)
    first = len(prompt_ids(render_chat, CHAT[:3]))
    assert tail.context == ids[:first]
    assert tail.context + tail.tail == ids[: first + len(tail.tail)]
    assert ids[first + len(tail.tail)] in (END, 1, 3), "the end token is no row"
    assert tail.zone_positions == list(range(first, first + len(tail.tail)))
    assert tail.weights == [1.0] * len(tail.tail)


def test_a_session_reads_its_question_at_the_start_of_the_turn(render_chat: Render) -> None:
    ids, spoken = render_chat(CHAT)
    tail = tail_of(CHAT, render_chat, session=True)
    start = len(tail.context)
    first = len(prompt_ids(render_chat, CHAT[:3]))
    assert ids[start] in (END, 1, 3) and spoken[start] == 1, "the end token begins the next prompt"
    question = first - start
    assert tail.zone_positions[:question] == [start] * question
    assert tail.zone_positions[question:] == list(range(first, start + len(tail.tail)))
    # The row before the answer decides its first token.
    assert tail.weights == [0.0] * (question - 1) + [1.0] * (len(tail.tail) - question + 1)


def test_batches_pad_on_the_right_and_count_nothing_there() -> None:
    render_chat = renderer(OURS)
    made = batch_of([tail_of(CHAT, render_chat, True), tail_of(CHAT, render_chat, False)])
    assert made.ids.shape == (2, int(made.lengths.max()))
    assert made.weights[1, -1] == 0 and made.tail.shape == made.zone_positions.shape
    assert bool((made.zone_positions >= made.lengths[:, None]).all())


def test_batches_of_processes_are_those_of_one() -> None:
    def make_chat(random: Random, tokens: int) -> Messages:
        fact = ("user", f"The number is {random.randint(0, 999)}. " + "Well. " * (tokens // 2))
        return [fact, ("assistant", "Noted."), ("user", "Which?"), ("assistant", "I know it.")]

    source = TailSource(2, (40, 60), 40, make_chat, renderer(OURS))
    alone, beside = tail_batches(source, 1), tail_batches(source, 1, processes=2)
    for _ in range(3):
        first, second = next(alone), next(beside)
        for name, value in vars(first).items():
            assert torch.equal(value, vars(second)[name]), name
    with pytest.raises(ValueError, match="of 2 chats"):
        next(tail_batches(TailSource(2, (400, 400), 3, make_chat, renderer(OURS)), 1))


def test_a_share_of_the_samples_reads_on_in_texts() -> None:
    def make_chat(random: Random, tokens: int) -> Messages:
        raise AssertionError("no chat is wanted")

    def make_text(random: Random, tokens: int) -> list[int]:
        return list(range(10, 10 + tokens + 7))

    source = TailSource(3, (40, 60), 16, make_chat, renderer(OURS), make_text, 1.0)
    batch = source.batch(1, 0)
    tokens = int(batch.lengths[0]) + 16
    assert 40 <= tokens <= 60 and batch.tail.shape == (3, 16)
    assert batch.tail[0].tolist() == list(range(10 + tokens - 16, 10 + tokens))
    assert batch.zone_positions[0].tolist() == list(range(tokens - 16, tokens))
    assert batch.weights.eq(1).all()
