"""Generated retrieval tasks, after the definitions of RULER (Hsieh et al. 2024, arXiv 2404.06654).

A task is a chat: the first message holds a text of about `chars` characters with facts hidden in
it, and a question; more questions about the same text follow, so that most of what is read is used.
`level` in 0 .. 1 is the curriculum: at 0 few facts and values of one token, at 1 the whole range.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from . import words
from .tokenizer import Messages

QUESTIONS_MAX = 8
# "The grass is green ...": RULER's filler of tracking and of the first needle task.
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
LIST_LINES_MAX = 600  # of `key: value`: about 5,000 tokens
SHORT_LIST_LINES_MAX = 150
UUID_LINES_MAX = 40
UUID_NEEDLES_SHARE = 0.12  # of needle tasks: UUIDs as values, mostly as keys too
UNKNOWN_SHARE = 0.08  # questions about what the text does not say


@dataclass(frozen=True)
class Haystack:
    """Paragraphs of books that are trained on."""

    paragraphs: tuple[str, ...]

    def take(self, random: Random, chars: int) -> list[str]:
        """Neighbouring paragraphs, about `chars` characters of them."""
        at = random.randrange(len(self.paragraphs))
        taken: list[str] = []
        size = 0
        while size < chars:
            paragraph = self.paragraphs[at % len(self.paragraphs)]
            taken.append(paragraph[: max(80, chars - size)])
            size += len(paragraph) + 1
            at += 1
        return taken


def noise(random: Random, chars: int) -> list[str]:
    """Some short sentences over and over, about `chars` characters: RULER's, or others, so that
    none of them has to be known."""
    text = NOISE
    if random.random() < 0.6:
        text = " ".join(short_sentence(random) for _ in range(random.randint(2, 8)))
    return [text] * max(1, chars // (len(text) + 1))


def short_sentence(random: Random) -> str:
    """One sentence of a filler."""
    noun, other, trait = (
        random.choice(words.NOUNS),
        random.choice(words.NOUNS),
        random.choice(words.ADJECTIVES),
    )
    return random.choice((
        f"The {noun} is {trait}.", f"The {noun} was {trait}.", f"Here is the {noun}.",
        f"The {noun} and the {other} are {trait}.", f"We see the {noun}.", "And so on.",
        f"Then we come to the {noun} again.", f"There is the {trait} {noun}.", "They go on.",
        f"Nobody needs the {noun}.", f"It is {trait}.", f"The {noun} stands by the {other}.",
    ))  # fmt: skip


def scatter(random: Random, lines: list[str], facts: list[str], running: bool = False) -> str:
    """The facts between the lines, each at a place of its own choice, in any order; `running`:
    what stands between two facts is one line."""
    if running and lines:
        lines = running_lines(lines, [random.randrange(1, len(lines) + 1) for _ in facts])
    places = sorted(random.randrange(len(lines) + 1) for _ in facts)
    order = random.sample(facts, len(facts))
    merged: list[str] = []
    for index, line in enumerate([*lines, ""]):
        while places and places[0] == index:
            places.pop(0)
            merged.append(order.pop())
        if line:
            merged.append(line)
    return "\n".join(merged)


def running_lines(lines: list[str], cuts: list[int]) -> list[str]:
    """The lines as fewer and longer ones that end at the cuts."""
    ends = sorted({*cuts, len(lines)})
    return [" ".join(lines[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def spoken_list(items: list[str]) -> str:
    """a / a and b / a, b, and c."""
    if len(items) <= 2:
        return " and ".join(items)
    return ", ".join(items[:-1]) + ", and " + items[-1]


def digits(random: Random, count: int) -> str:
    """A number of `count` digits."""
    return str(random.randrange(10 ** (count - 1), 10**count))


def uuid(random: Random) -> str:
    """A random UUID, as RULER's keys and values of the hardest needle tasks."""
    text = f"{random.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def fresh(random: Random, make: Callable[[Random], str], count: int) -> list[str]:
    """`count` different values."""
    values: dict[str, None] = {}
    while len(values) < count:
        values[make(random)] = None
    return list(values)


def pair(random: Random) -> str:
    """An adjective and a noun: some 40,000 of them."""
    return f"{random.choice(words.ADJECTIVES)}-{random.choice(words.NOUNS)}"


def make_key(random: Random, level: float) -> Callable[[Random], str]:
    """How this task names its keys."""
    if random.random() < 0.06 * level:
        return uuid
    if random.random() < 0.3 + 0.3 * level:
        return pair
    return lambda r: r.choice(words.NOUNS)


def make_value(random: Random, level: float) -> tuple[str, Callable[[Random], str]]:
    """What kind of value this task hides: its name, and how one is made."""
    draw = random.random()
    if draw < 0.05 * level:
        return "uuid", uuid
    if draw < 0.3:
        return "word", pair
    if draw < 0.3 + 0.5 * (1 - level):
        return "number", lambda r: digits(r, 3)
    count = 7 if random.random() < 0.7 else random.randint(4, 8)
    return "number", lambda r: digits(r, count)


def needles(random: Random, chars: int, level: float, haystack: Haystack) -> Messages:
    """Single, multi-key, multi-value and multi-query needles in essays, noise or other needles."""
    kind, value = make_value(random, level)
    key = make_key(random, level)
    if random.random() < UUID_NEEDLES_SHARE * level:
        kind, value = "uuid", uuid
        key = random.choice((uuid, uuid, pair))
        chars = round(0.85 * chars)  # UUIDs take more than twice the tokens that their length says
    plural = kind + "s"
    one_of = random.random() < 0.5
    # Several values of one key must be gone through one by one: that takes practice.
    values_each = random.choice((2, 3, 4, 4)) if random.random() < 0.5 else 1
    room = max(1, chars // (160 if values_each == 1 else 220))
    count = min(room, 1 + random.randrange(1 + round(2 + 14 * level)))
    if random.random() < 0.2:
        count = random.randint(1, 2)  # next to nothing in a long text
    background = random.random()
    # Nothing but needles: the dense form.
    dense = background < (0.5 if key is uuid else 0.25)
    if dense:
        line_chars = 62 + 75 * (key is uuid) + 75 * (value is uuid)
        count = max(2, min(400, chars // line_chars // values_each))
    # There are too few nouns for more keys of one word.
    keys = fresh(random, key, min(count, 400 if key in (pair, uuid) else 100))
    values = {name: fresh(random, value, values_each) for name in keys}
    form = "One of the special magic {p} for {k} is: {v}." if one_of or values_each > 1 else (
        "The special magic {s} for {k} is {v}."
    )  # fmt: skip
    facts = [
        form.format(p=plural, s=kind, k=name, v=item) for name in keys for item in values[name]
    ]
    rest = chars - sum(len(fact) + 1 for fact in facts) * (2 if value is uuid else 1)
    if dense or rest < 100:
        lines: list[str] = []
    elif background < 0.6 if key is uuid else background < 0.4:
        lines = noise(random, rest)
    else:
        lines = haystack.take(random, rest)
    intro = random.choice((
        f"Some special magic {plural} are hidden within the following text. Make sure to memorize "
        f"it. I will quiz you about the {plural} afterwards.\n",
        f"A special magic {kind} is hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the {kind} afterwards.\n",
        "Read this text.\n",
        "",
    ))  # fmt: skip
    text = intro + scatter(random, lines, facts, running=random.random() < 0.5) + "\n"
    # Answers list values as the text does: an order that can be known.
    values = {
        name: sorted(items, key=lambda v: text.index(f" {v}.")) for name, items in values.items()
    }
    questions = []
    where = random.choice(("the text", "the provided text"))
    for _ in range(min(random.randint(2, QUESTIONS_MAX), 1 + len(keys))):
        asked = random.sample(keys, min(len(keys), random.choice((1, 1, 1, 2, 3, 4))))
        named = spoken_list(asked)
        if random.random() < UNKNOWN_SHARE:
            stranger = key(random)
            if stranger in values:
                continue
            question = f"What is the special magic {kind} for {stranger} mentioned in {where}?"
            answer = f"The text does not mention a special magic {kind} for {stranger}."
        elif len(asked) == 1 and values_each == 1:
            question = f"What is the special magic {kind} for {named} mentioned in {where}?"
            answer = f"The special magic {kind} for {named} mentioned in {where} is "
            answer += f"{values[named][0]}."
        else:
            asked = asked[: max(1, 6 // values_each)]
            named = spoken_list(asked)
            found = [item for name in asked for item in values[name]]
            question = f"What are all the special magic {plural} for {named} mentioned in {where}?"
            answer = f"The special magic {plural} for {named} mentioned in {where} are "
            answer += spoken_list(found) + "."
        questions.append((question, answer))
    return dialogue(text, questions)


def dialogue(text: str, questions: list[tuple[str, str]]) -> Messages:
    """The text with the first question, then the others one by one."""
    messages: Messages = []
    for index, (question, answer) in enumerate(questions):
        messages.append(("user", text + question if index == 0 else question))
        messages.append(("assistant", answer))
    return messages


def key_values(random: Random, chars: int, level: float, haystack: Haystack) -> Messages:
    """Lines of `key: value`, asked by key."""
    del haystack  # the list is all there is
    value = make_value(random, level)[1]
    key = make_key(random, level)
    count = min(random.randint(2, 8 + round(300 * level)), SHORT_LIST_LINES_MAX)
    if key is uuid:
        count = min(count, UUID_LINES_MAX)
    elif random.random() < 0.5 * level:
        # A dense list fills its text: one of 4K tokens has 500 lines.
        key, count = pair, LIST_LINES_MAX
    keys = fresh(random, key, max(2, min(count, chars // 22)))
    table = {name: value(random) for name in keys}
    lines = "\n".join(f"{name}: {item}" for name, item in table.items())
    questions = []
    for name in random.sample(keys, min(len(keys), random.randint(2, QUESTIONS_MAX))):
        questions.append(
            (f"What is the value of {name}?", f"The value of {name} is {table[name]}.")
        )
    if random.random() < 0.2:
        stranger = key(random)
        if stranger not in table:
            questions.append((f"What is the value of {stranger}?", f"The list has no {stranger}."))
    return dialogue(lines + "\n", questions)


def tracking(random: Random, chars: int, level: float, haystack: Haystack) -> Messages:
    """Chains of variables: `VAR B = VAR A`; which of them have a value?"""
    # Long chains are what is hard: they are as many as all shorter ones together.
    longest = 1 + round(3 * level)
    hops = longest if random.random() < 0.5 * level else random.randint(1, longest)
    chains = random.randint(1, 1 + round(3 * level))

    def name(r: Random) -> str:
        return "".join(
            r.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(5 if level > 0.3 else 3)
        )

    names = fresh(random, name, chains * (hops + 1))
    values = fresh(random, lambda r: digits(r, 5), chains)
    steps: list[list[str]] = []
    members: list[list[str]] = []
    for index in range(chains):
        chain = names[index * (hops + 1) : (index + 1) * (hops + 1)]
        first = f"VAR {chain[0]} = {values[index]}"
        steps.append(
            [first] + [f"VAR {b} = VAR {a}" for a, b in zip(chain, chain[1:], strict=False)]
        )
        members.append(chain)
    rest = max(0, chars - sum(len(step) + 1 for chain in steps for step in chain))
    use_noise = random.random() < 0.6
    lines = noise(random, rest) if use_noise else haystack.take(random, max(100, rest))
    # Each chain keeps its order; chains interleave at random.
    places = sorted((random.random(), index) for index, chain in enumerate(steps) for _ in chain)
    merged: list[str] = []
    at = 0
    for place, index in places:
        until = round(place * len(lines))
        merged += lines[at:until] + [steps[index].pop(0)]
        at = max(at, until)
    merged += lines[at:]
    text = (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n"
        + "\n".join(merged) + "\n"
    )  # fmt: skip
    questions = []
    for index in random.sample(range(chains), chains):
        chain = members[index]
        questions.append((
            f"Find all variables that are assigned the value {values[index]} in the text above.",
            f"The variables that are assigned the value {values[index]} are: "
            + ", ".join(chain) + ".",
        ))  # fmt: skip
        # One step of a chain alone.
        step = random.randrange(hops)
        questions.append((
            f"Which variable is assigned VAR {chain[step]}?",
            f"VAR {chain[step + 1]} is assigned VAR {chain[step]}.",
        ))  # fmt: skip
    random.shuffle(questions)
    for index in range(min(2, chains)):
        which = random.choice(members[index])
        questions.append(
            (f"What is the value of {which}?", f"The value of {which} is {values[index]}.")
        )
    return dialogue(text, questions[:QUESTIONS_MAX])


def common_words(random: Random, chars: int, level: float, haystack: Haystack) -> Messages:
    """A numbered list in which a few words occur often: which?"""
    del haystack  # the list is all there is
    top = random.randint(1, 2 + round(8 * level))
    often, rare = 6 + round(24 * level), 1 + round(2 * level)
    size = max(top * often + 4, min(chars // 13, 1500))
    pool = random.sample(
        words.NOUNS, min(len(words.NOUNS), top + max(4, (size - top * often) // rare))
    )
    listed = [word for word in pool[:top] for _ in range(often)]
    others = [word for word in pool[top:] for _ in range(rare)]
    listed += others[: max(0, size - len(listed))]
    random.shuffle(listed)
    answer = sorted(pool[:top], key=listed.index)
    lines = " ".join(f"{index}. {word}" for index, word in enumerate(listed, 1))
    question = f"What are the {top} most common words in the above list?"
    if top == 1:
        question = "What is the most common word in the above list?"
    return dialogue(
        "Below is a numbered list of words. Memorize the ones that appear most often.\n"
        + lines
        + "\n",
        [(question, "The most common words are: " + ", ".join(answer) + ".")],
    )


def biographies(random: Random, chars: int, level: float, haystack: Haystack) -> Messages:
    """Question answering over generated facts about people, one hop or two."""
    count = max(2, min(2 + round(40 * level), chars // 190))
    people = fresh(
        random, lambda r: f"{r.choice(words.FIRST_NAMES)} {r.choice(words.SURNAMES)}", count
    )
    facts = {
        name: {
            "city": random.choice(words.PLACES),
            "job": words.with_articles("a " + random.choice(words.JOBS)),
            "year": str(random.randint(1900, 2005)),
            "hobby": random.choice(words.HOBBIES),
            "friend": random.choice([other for other in people if other != name]),
        }
        for name in people
    }
    lines = [
        f"{name} was born in {fact['city']} in {fact['year']}. {name} works as {fact['job']}. "
        f"{name} likes {fact['hobby']}. The best friend of {name} is {fact['friend']}."
        for name, fact in facts.items()
    ]
    rest = chars - sum(len(line) + 1 for line in lines)
    if rest > 200:
        lines = scatter(random, haystack.take(random, rest), lines).split("\n")
    asked: list[tuple[str, str]] = []
    for name in random.sample(people, min(count, random.randint(2, QUESTIONS_MAX))):
        fact, friend = facts[name], facts[name]["friend"]
        asked.append(random.choice((
            (f"Where was {name} born?", f"{name} was born in {fact['city']}."),
            (f"When was {name} born?", f"{name} was born in {fact['year']}."),
            (f"What does {name} do for a living?", f"{name} works as {fact['job']}."),
            (f"What does {name} like?", f"{name} likes {fact['hobby']}."),
            (f"Who is the best friend of {name}?", f"The best friend of {name} is {friend}."),
            (
                f"Where was the best friend of {name} born?",
                f"The best friend of {name} is {friend}, who was born in {facts[friend]['city']}.",
            ),
        )))  # fmt: skip
    return dialogue("Answer the questions from these facts.\n" + "\n".join(lines) + "\n", asked)


# What is drawn, and how often.
TASKS: tuple[tuple[float, Callable[[Random, int, float, Haystack], Messages]], ...] = (
    (0.44, needles),
    (0.18, key_values),
    (0.28, tracking),
    (0.02, common_words),
    (0.08, biographies),
)


def retrieval_task(random: Random, chars: int, level: float, haystack: Haystack) -> Messages:
    """One task of about `chars` characters."""
    make = random.choices([task for _, task in TASKS], [share for share, _ in TASKS])[0]
    return make(random, chars, level, haystack)
