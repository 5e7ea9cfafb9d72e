"""Generated conversations: a user tells facts over many turns, corrects some, asks for them later.

The assistant answers in sentences, says when it was not told, makes small talk and tells a story.
"""

from dataclasses import dataclass, field
from random import Random

from . import words
from .corpus import Corpus
from .facts import FACT_KINDS, FactKind
from .retrieval import Haystack
from .talk import small_talk, world_question
from .tokenizer import Messages

# What an assistant says to a fact, and how often it repeats the fact instead.
NOTED = (
    "Noted.", "Thank you, I will remember that.", "Good to know.", "I see.",
    "Thank you for telling me.", "All right, I have noted that.", "Understood.",
    "That is nice to know.", "I will remember it.", "I will keep it in mind.",
)  # fmt: skip
REPEATED_SHARE = 0.25
TWO_QUESTIONS_SHARE = 0.12  # of turns that ask
COLLECTED_SHARE = 0.2  # of small talk is from the corpus, the rest is our own
GREETINGS = ("Hello!", "Hi!", "Good morning.", "Good evening.", "Hello, how are you?", "Hi there.")
GREETED = (
    "Hello! How can I help you?",
    "Hello! It is nice to meet you.",
    "Good day! What can I do for you?",
)
THANKS = (
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Good night.", "Good night!"),
)
STORY_ASKED = (
    "Tell me a short story.", "Can you tell me a story?", "Please tell me a short story about {t}.",
    "Tell me the story {t}.", "I would like to hear a story about {t}.",
)  # fmt: skip
STORY_CHARS_MAX = 1200
PASTED = (
    "Here is something that I read:",
    "Listen to this:",
    "I like this passage:",
    "From a book:",
)
PASTED_HEARD = (
    "Thank you for sharing it.",
    "That is a fine passage.",
    "I have read it.",
    "Interesting.",
)


@dataclass
class Fact:
    """A fact that was told: its slots, and what the slot `v` was before a correction."""

    kind: FactKind
    slots: dict[str, str]

    def say(self, random: Random, options: tuple[str, ...]) -> str:
        """One of some wordings of it."""
        text = words.with_articles(random.choice(options).format(**self.slots))
        return text[0].upper() + text[1:]

    @property
    def answer(self) -> str:
        """What the assistant says when it is asked."""
        return words.with_articles(self.kind.answer.format(**self.slots))


def key_slots(kind: FactKind) -> tuple[str, ...]:
    """Slots that tell facts of one kind apart: those that a question names."""
    return tuple(name for name, _ in kind.slots if "{" + name + "}" in kind.asked[0]) + (
        ("n",) if kind.about_person else ()
    )


@dataclass
class Memory:
    """What was told so far, by kind and key slots."""

    facts: dict[tuple[str, ...], Fact] = field(default_factory=dict)
    people: list[str] = field(default_factory=list)
    reserved: tuple[str, ...] | None = None  # a key that nobody speaks of

    def draw(self, random: Random) -> tuple[tuple[str, ...], Fact]:
        """A new fact, and its key."""
        while True:
            kind = random.choice(FACT_KINDS)
            slots = {name: make(random) for name, make in kind.slots}
            if kind.about_person:
                slots["n"] = random.choice(self.people)
            key = (kind.name, *(slots[name] for name in key_slots(kind)))
            if key != self.reserved:
                return key, Fact(kind, slots)


def _tell(random: Random, memory: Memory) -> tuple[str, str]:
    """The user tells one to three facts that were not told before."""
    said: list[str] = []
    last = ""
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        key, fact = memory.draw(random)
        if key in memory.facts:
            continue
        memory.facts[key] = fact
        said.append(fact.say(random, fact.kind.told))
        last = fact.answer
    if not said:
        return random.choice(THANKS)
    reply = random.choice(NOTED)
    if len(said) == 1 and random.random() < REPEATED_SHARE:
        reply = random.choice(("Noted: ", "I see: ", "")) + last
    return " ".join(said), reply


def _correct(random: Random, memory: Memory) -> tuple[str, str]:
    """The user corrects a fact; from then on the new one holds."""
    known = [fact for fact in memory.facts.values() if fact.kind.corrected]
    if not known:
        return _tell(random, memory)
    fact = random.choice(known)
    keys = key_slots(fact.kind)
    old = fact.slots.get("v", "")
    for name, make in fact.kind.slots:
        if name not in keys:
            fact.slots[name] = make(random)
    fact.slots["o"] = old
    reply = random.choice(NOTED)
    if random.random() < REPEATED_SHARE:
        reply = "Noted. " + fact.answer
    return fact.say(random, fact.kind.corrected), reply


def _ask(random: Random, memory: Memory) -> tuple[str, str]:
    """The user asks for a fact that was told, the older ones as often as the newer."""
    if not memory.facts:
        return _ask_unknown(random, memory)
    told = list(memory.facts.values())
    fact = random.choice(told)
    question, answer = fact.say(random, fact.kind.asked), fact.answer
    if len(told) > 1 and random.random() < TWO_QUESTIONS_SHARE:
        other = random.choice([one for one in told if one is not fact])
        second = other.say(random, other.kind.asked)
        if random.random() < 0.5:  # as one sentence
            question, second = question[:-1] + " and", second[0].lower() + second[1:]
        return f"{question} {second}", f"{answer} {other.answer}"
    return question, answer


def _ask_unknown(random: Random, memory: Memory) -> tuple[str, str]:
    """The user asks for what was never told."""
    for _ in range(20):
        key, fact = memory.draw(random)
        if key not in memory.facts:
            unknown = words.with_articles(fact.kind.unknown.format(**fact.slots))
            return fact.say(random, fact.kind.asked), unknown
    return random.choice(THANKS)


def _story(random: Random, corpus: Corpus) -> tuple[str, str]:
    """The user asks for a story of the collection."""
    title, text = random.choice(corpus.stories)
    short = text
    if len(text) > STORY_CHARS_MAX:
        end = text.rfind(".", 0, STORY_CHARS_MAX)
        short = text[: end + 1] if end > 0 else text[:STORY_CHARS_MAX]
    return random.choice(STORY_ASKED).format(t=title), short


def _small_talk(random: Random, corpus: Corpus) -> list[tuple[str, str]]:
    """Turns of the collection, user and assistant in turn."""
    turns = random.choice(corpus.small_talk)
    return [(turns[at], turns[at + 1]) for at in range(0, len(turns) - 1, 2)][:3]


def conversation(
    random: Random, chars: int, corpus: Corpus, haystack: Haystack, level: float = 1.0
) -> Messages:
    """A conversation of about `chars` characters, its answers included."""
    memory = Memory(
        people=random.sample(words.FIRST_NAMES, random.randint(1, 2 + round(6 * level)))
    )
    messages: Messages = []
    size = 0
    if random.random() < 0.3:
        messages += [("user", random.choice(GREETINGS)), ("assistant", random.choice(GREETED))]
    pasting = random.random() < 0.3 * level
    while size < chars:
        for turn in _turns(random, memory, corpus, haystack, chars - size, pasting):
            messages += [("user", turn[0]), ("assistant", turn[1])]
            size += len(turn[0]) + len(turn[1]) + 8  # what the template adds
    return messages


def _turns(
    random: Random, memory: Memory, corpus: Corpus, haystack: Haystack, room: int, pasting: bool
) -> list[tuple[str, str]]:
    """What happens next, in at most about `room` characters."""
    draw = random.random()
    if draw < 0.36:
        return [_tell(random, memory)]
    if draw < 0.44:
        return [_correct(random, memory)]
    if draw < 0.78:
        return [_ask(random, memory)]
    if draw < 0.86:
        return [_ask_unknown(random, memory)]
    if draw < 0.89:
        return [world_question(random)]
    if draw < 0.95:
        if corpus.small_talk and random.random() < COLLECTED_SHARE:
            return _small_talk(random, corpus)
        return [small_talk(random)]
    if draw < 0.965 and corpus.stories and room > STORY_CHARS_MAX:
        return [_story(random, corpus)]
    if pasting and room > 800:
        text = " ".join(haystack.take(random, random.randint(200, min(3000, room))))
        return [(f"{random.choice(PASTED)} {text}", random.choice(PASTED_HEARD))]
    return [_tell(random, memory)]


def session_task(
    random: Random, turns: int, corpus: Corpus, haystack: Haystack
) -> tuple[Messages, str, str]:
    """A session of `turns` turns whose first one tells a fact; then the question for it, and the
    answer. The fact is neither corrected nor asked for in between."""
    memory = Memory(people=random.sample(words.FIRST_NAMES, 5))
    key, fact = memory.draw(random)
    messages: Messages = [
        ("user", fact.say(random, fact.kind.told)), ("assistant", random.choice(NOTED)),
    ]  # fmt: skip
    others = Memory(people=memory.people, reserved=key)
    while len(messages) < 2 * turns:
        for user, assistant in _turns(random, others, corpus, haystack, 0, False):
            messages += [("user", user), ("assistant", assistant)]
    return messages[: 2 * turns], fact.say(random, fact.kind.asked), fact.answer


def story(random: Random, corpus: Corpus) -> Messages:
    """A chat that is only a story."""
    asked, told = _story(random, corpus)
    return [("user", asked), ("assistant", told)]
