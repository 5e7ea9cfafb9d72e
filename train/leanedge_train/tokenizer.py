"""The tokenizer: byte-level BPE of 8,192 tokens; each number up to 999 is one, each pair
of capitals too.

Long numbers are cut into groups of three digits (pre-tokenizer `llama-bpe`), so that copying one
takes two or three nearly unique tokens. With single digits, as the seed has them, a model saw no
reason to copy for the first 380M tokens: a digit predicts nothing. The same goes for names of
random capitals (variables): 3.3 tokens of 676 kinds now, where 4.9 of 26 kinds were; books take
1.1 % more tokens for it.

The file vocabulary.txt holds the learned merges; everything else follows from it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from string import ascii_uppercase

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from .gguf_file import Vocabulary

SPECIALS = ("<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
PAD, BOS, SYSTEM, USER, ASSISTANT, END = range(len(SPECIALS))
VOCAB_SIZE = 8192
NUMBER_TOKENS = 100 + 1000  # 00 .. 99 and 000 .. 999; the digits are bytes
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MERGES_FILE = Path(__file__).parent / "vocabulary.txt"

_CONTROL, _NORMAL = 3, 1  # gguf.TokenType


def words(digits: str) -> str:
    """Llama 3's expression for words, with the given one for digits."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )  # fmt: skip


def pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut into words, by the name that GGUF files use."""
    if pre == "llama-bpe":
        split = pre_tokenizers.Split(Regex(words(r"\p{N}{1,3}")), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, byte_level])
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return pre_tokenizers.Sequence([digits, byte_level])
    if pre == "qwen2":
        split = pre_tokenizers.Split(Regex(words(r"\p{N}")), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, byte_level])
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raise ValueError(f"pre-tokenizer {pre!r}: llama-bpe, qwen2, smollm or gpt-2 expected")


def number_merges() -> Iterator[tuple[str, str]]:
    """Merges that make every run of two or three digits one token, whatever its digits."""
    for number in range(100):
        yield f"{number:02d}"[0], f"{number:02d}"[1]
    for number in range(1000):
        a, b, c = f"{number:03d}"
        # The pair of lower rank is merged first, and ranks follow the numbers.
        yield (a + b, c) if a + b <= b + c else (a, b + c)


def capital_merges(merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Merges behind the given ones that make every two capitals a token."""
    known = {first + second for first, second in merges}
    return [pair for pair in product(ascii_uppercase, repeat=2) if "".join(pair) not in known]


def fitting(merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """As many of the first merges as leave room for the pairs of capitals."""
    room = VOCAB_SIZE - len(SPECIALS) - NUMBER_TOKENS - len(pre_tokenizers.ByteLevel.alphabet())
    count = min(len(merges), room)
    while count + len(capital_merges(merges[:count])) > room:
        count -= 1
    return merges[:count]


def learn_merges(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Learns the merges of everything but digits and pairs of capitals."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(words(r"\p{N}")), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIALS) - NUMBER_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return fitting(
        [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]
    )


def vocabulary_of(merges: list[tuple[str, str]]) -> Vocabulary:
    """The whole vocabulary from its learned merges."""
    everything = [*merges, *capital_merges(merges), *number_merges()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = (*SPECIALS, *alphabet, *(first + second for first, second in everything))
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"{len(tokens) - len(set(tokens))} tokens of the vocabulary occur twice")
    return Vocabulary(
        pre="llama-bpe",
        tokens=tokens,
        types=tuple([_CONTROL] * len(SPECIALS) + [_NORMAL] * (len(tokens) - len(SPECIALS))),
        merges=tuple(f"{first} {second}" for first, second in everything),
        bos_id=BOS,
        eos_id=END,
        padding_id=PAD,
        add_bos=True,
        chat_template=TEMPLATE,
    )


def write_merges(path: Path, merges: list[tuple[str, str]]) -> None:
    """One merge a line."""
    path.write_text("".join(f"{first} {second}\n" for first, second in merges))


def embedded_vocabulary(path: Path = MERGES_FILE) -> Vocabulary:
    """The vocabulary of the embedded model."""
    lines = path.read_text().splitlines()
    return vocabulary_of([tuple(line.split(" ")) for line in lines])  # type: ignore[misc]


def tokenizer_of(vocabulary: Vocabulary) -> Tokenizer:
    """The fast tokenizer of a vocabulary; special tokens are ids only, never text."""
    tokens = {token: index for index, token in enumerate(vocabulary.tokens)}
    merges = [(merge.split(" ")[0], merge.split(" ")[1]) for merge in vocabulary.merges]
    model = BPE(vocab=tokens, merges=merges, ignore_merges=vocabulary.pre == "llama-bpe")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer(vocabulary.pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


Messages = list[tuple[str, str]]  # (role, text)
Render = Callable[[Messages], tuple[list[int], list[int]]]


def render(tokenizer: Tokenizer, messages: Messages) -> tuple[list[int], list[int]]:
    """A chat in our template as ids, and 1 for each id that the assistant says (its end too)."""
    roles = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    ids, spoken = [BOS], [0]
    for (role, _), encoding in zip(
        messages, tokenizer.encode_batch([text for _, text in messages]), strict=True
    ):
        says = 1 if role == "assistant" else 0
        ids += [roles[role], *encoding.ids, END]
        spoken += [0] + [says] * (len(encoding.ids) + 1)
    return ids, spoken


@dataclass(frozen=True)
class Frame:
    """How a template writes a message: `head` of its role, the text, `end`, `gap`."""

    begin: tuple[int, ...]  # before the first message
    head: Callable[[str], list[int]]
    end: int  # the assistant says this, too
    gap: tuple[int, ...]


def _render_framed(
    tokenizer: Tokenizer, frame: Frame, messages: Messages
) -> tuple[list[int], list[int]]:
    """`render` for other templates."""
    ids, spoken = list(frame.begin), [0] * len(frame.begin)
    for role, text in messages:
        head, said = frame.head(role), [*tokenizer.encode(text).ids, frame.end]
        ids += [*head, *said, *frame.gap]
        spoken += [0] * len(head) + [1 if role == "assistant" else 0] * len(said)
        spoken += [0] * len(frame.gap)
    return ids, spoken


def _frame_of(vocabulary: Vocabulary, tokenizer: Tokenizer) -> Frame:
    """ChatML: <|im_start|>role, a line end, the text, <|im_end|>, a line end. Llama 3: the role
    between <|start_header_id|> and <|end_header_id|>, two line ends, the text, <|eot_id|>."""
    named, template = (
        {name: i for i, name in enumerate(vocabulary.tokens)},
        vocabulary.chat_template,
    )

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text).ids

    if "<|im_start|>" in named and "<|im_start|>" in template:
        start = named["<|im_start|>"]
        return Frame(
            (), lambda role: [start, *encode(f"{role}\n")], named["<|im_end|>"],
            tuple(encode("\n")),
        )  # fmt: skip
    if "<|start_header_id|>" in named and "<|start_header_id|>" in template:
        opened, closed = named["<|start_header_id|>"], named["<|end_header_id|>"]
        return Frame(
            () if vocabulary.bos_id is None else (vocabulary.bos_id,),
            lambda role: [opened, *encode(role), closed, *encode("\n\n")],
            named["<|eot_id|>"], (),
        )  # fmt: skip
    raise ValueError(f"chat template {template[:60]!r}: ours, ChatML or Llama 3's expected")


def renderer(vocabulary: Vocabulary) -> Render:
    """How a model's chats are written: in our template, in ChatML (SmolLM2, Qwen) or Llama 3's."""
    tokenizer = tokenizer_of(vocabulary)
    if vocabulary.tokens[: len(SPECIALS)] == SPECIALS:
        return partial(render, tokenizer)
    return partial(_render_framed, tokenizer, _frame_of(vocabulary, tokenizer))


def prompt_ids(render_chat: Render, messages: Messages) -> list[int]:
    """Ids up to where the assistant shall speak."""
    ids, spoken = render_chat([*messages, ("assistant", "")])
    return ids[: len(ids) - spoken[::-1].index(1) - 1]
