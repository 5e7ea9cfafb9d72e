"""What a user can tell about, and how it is said, asked and answered."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from . import words


@dataclass(frozen=True)
class FactKind:
    """One kind of fact. Texts are formats over its slots, {n} for the person it is about."""

    name: str
    slots: tuple[tuple[str, Callable[[Random], str]], ...]
    told: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str
    unknown: str
    corrected: tuple[str, ...] = ()
    about_person: bool = False


def one_of(options: tuple[str, ...]) -> Callable[[Random], str]:
    """A slot that is one of some words."""
    return lambda random: random.choice(options)


def number(low: int, high: int) -> Callable[[Random], str]:
    """A slot that is a number, low .. high."""
    return lambda random: str(random.randint(low, high))


def clock(random: Random) -> str:
    """A time of day."""
    return f"{random.randint(1, 12)}:{random.choice(('00', '15', '30', '45'))}"


FACT_KINDS: tuple[FactKind, ...] = (
    FactKind(
        "name", (("v", one_of(words.FIRST_NAMES)),),
        ("My name is {v}.", "I am {v}.", "Hello, I'm {v}.", "You can call me {v}.",
         "I'm called {v}."),
        ("What is my name?", "Do you remember my name?", "What am I called?", "Who am I?"),
        "Your name is {v}.", "You have not told me your name.",
        ("Sorry, my name is {v}, not {o}.",),
    ),
    FactKind(
        "city", (("v", one_of(words.PLACES)),),
        ("I live in {v}.", "My home is in {v}.", "I have lived in {v} for years.",
         "I moved to {v}."),
        ("Where do I live?", "In which city do I live?", "Do you remember where I live?"),
        "You live in {v}.", "You have not told me where you live.",
        ("I have moved. Now I live in {v}.", "Actually, I live in {v}."),
    ),
    FactKind(
        "job", (("v", one_of(words.JOBS)),),
        ("I work as a {v}.", "I am a {v}.", "My job: I am a {v}.", "I earn my bread as a {v}."),
        ("What is my job?", "What do I do for a living?", "What do I work as?"),
        "You work as a {v}.", "You have not told me what your job is.",
        ("I have a new job: I am a {v} now.",),
    ),
    FactKind(
        "age", (("v", number(18, 90)),),
        ("I am {v} years old.", "I'm {v}.", "I turned {v} this year."),
        ("How old am I?", "What is my age?"),
        "You are {v} years old.", "You have not told me how old you are.",
        ("It was my birthday: I am {v} years old now.",),
    ),
    FactKind(
        "birthday", (("m", one_of(words.MONTHS)), ("d", number(1, 28))),
        ("My birthday is on {m} {d}.", "I was born on {m} {d}.", "I have my birthday on {m} {d}."),
        ("When is my birthday?", "On what day was I born?"),
        "Your birthday is on {m} {d}.", "You have not told me when your birthday is.",
    ),
    FactKind(
        "pet", (("k", one_of(words.ANIMALS)), ("v", one_of(words.FIRST_NAMES))),
        ("I have a {k} called {v}.", "My {k} is called {v}.", "My {k}'s name is {v}."),
        ("What is my {k} called?", "What is the name of my {k}?", "Do you remember my {k}'s name?"),
        "Your {k} is called {v}.", "You have not told me of a {k}.",
    ),
    FactKind(
        "color", (("v", one_of(words.COLORS)),),
        ("My favorite color is {v}.", "I like the color {v} best.", "{v} is my favorite color."),
        ("What is my favorite color?", "Which color do I like best?"),
        "Your favorite color is {v}.", "You have not told me your favorite color.",
        ("I changed my mind: my favorite color is {v} now.", "No, my favorite color is {v}."),
    ),
    FactKind(
        "food", (("v", one_of(words.FOODS)),),
        ("My favorite food is {v}.", "I like to eat {v} best.", "I love {v}.",
         "I could eat {v} every day."),
        ("What is my favorite food?", "What do I like to eat best?", "What food do I love?"),
        "Your favorite food is {v}.", "You have not told me your favorite food.",
        ("Actually, my favorite food is {v} now.",),
    ),
    FactKind(
        "drink", (("v", one_of(words.DRINKS)),),
        ("My favorite drink is {v}.", "I drink {v} every morning.",
         "I like {v} best of all drinks."),
        ("What is my favorite drink?", "What do I like to drink?"),
        "Your favorite drink is {v}.", "You have not told me your favorite drink.",
        ("I do not like {o} any more. My favorite drink is {v}.",),
    ),
    FactKind(
        "hobby", (("v", one_of(words.HOBBIES)),),
        ("My hobby is {v}.", "In my free time I enjoy {v}.", "I enjoy {v}.",
         "On weekends I go for {v}."),
        ("What is my hobby?", "What do I do in my free time?", "What do I enjoy?"),
        "Your hobby is {v}.", "You have not told me what your hobby is.",
        ("I gave up {o}. My hobby is {v} now.",),
    ),
    FactKind(
        "instrument", (("v", one_of(words.INSTRUMENTS)),),
        ("I play the {v}.", "I am learning to play the {v}."),
        ("Which instrument do I play?", "What instrument do I play?"),
        "You play the {v}.", "You have not told me of an instrument.",
    ),
    FactKind(
        "phone", (("v", number(2_000_000, 9_999_999)),),
        ("My phone number is {v}.", "You can call me at {v}.", "Please note my phone number: {v}."),
        ("What is my phone number?", "Which number can people call me at?"),
        "Your phone number is {v}.", "You have not told me your phone number.",
        ("I have a new phone number: {v}.", "My phone number is {v} now."),
    ),
    FactKind(
        "code", (("p", one_of(("door", "locker", "safe", "bicycle lock", "garage", "alarm"))),
                 ("v", number(1000, 9999))),
        ("The code of my {p} is {v}.", "My {p} code is {v}.",
         "Remember that the code of my {p} is {v}."),
        ("What is the code of my {p}?", "What is my {p} code?"),
        "The code of your {p} is {v}.", "You have not told me the code of your {p}.",
        ("I changed the code of my {p}. It is {v} now.",),
    ),
    FactKind(
        "room", (("v", number(100, 999)),),
        ("My room number is {v}.", "I am staying in room {v}.", "They gave me room {v}."),
        ("What is my room number?", "In which room am I staying?"),
        "Your room number is {v}.", "You have not told me your room number.",
        ("They moved me to room {v}.",),
    ),
    FactKind(
        "password", (("a", one_of(words.ADJECTIVES)), ("b", one_of(words.NOUNS))),
        ("The password is {a} {b}.", "My password is {a} {b}.", "The secret word is {a} {b}."),
        ("What is the password?", "Do you remember the password?"),
        "The password is {a} {b}.", "You have not told me a password.",
        ("The password is {a} {b} now.", "I changed the password to {a} {b}."),
    ),
    FactKind(
        "place of thing", (("t", one_of(words.THINGS)), ("v", one_of(words.NOUNS))),
        ("I left my {t} near the {v}.", "My {t} is behind the {v}.",
         "I put my {t} next to the {v}."),
        ("Where is my {t}?", "Where did I leave my {t}?"),
        "You left your {t} near the {v}.", "You have not told me where your {t} is.",
    ),
    FactKind(
        "color of thing", (("t", one_of(words.THINGS)), ("v", one_of(words.COLORS))),
        ("My {t} is {v}.", "I have a {v} {t}.", "I bought a {v} {t}."),
        ("What color is my {t}?", "Which color does my {t} have?"),
        "Your {t} is {v}.", "You have not told me what color your {t} is.",
        ("I painted my {t}. It is {v} now.",),
    ),
    FactKind(
        "event", (("e", one_of(words.EVENTS)), ("d", one_of(words.DAYS)), ("h", clock)),
        ("I have a {e} on {d} at {h}.", "The {e} is on {d} at {h}.",
         "On {d} at {h} there is a {e}."),
        ("When is the {e}?", "When is my {e}?", "On which day and at what time is the {e}?"),
        "The {e} is on {d} at {h}.", "You have not told me of a {e}.",
        ("The {e} was moved to {d} at {h}.", "The {e} is on {d} at {h} now."),
    ),
    FactKind(
        "event place", (("e", one_of(words.EVENTS)), ("p", one_of(words.PLACES))),
        ("The {e} will be in {p}.", "I am going to {p} for the {e}."),
        ("Where will the {e} be?", "Where is the {e}?"),
        "The {e} will be in {p}.", "You have not told me where the {e} will be.",
    ),
    FactKind(
        "train", (("p", one_of(words.PLACES)), ("h", clock)),
        ("My train to {p} leaves at {h}.", "The train to {p} leaves at {h}."),
        ("When does the train to {p} leave?", "At what time does my train to {p} leave?"),
        "The train to {p} leaves at {h}.", "You have not told me of a train to {p}.",
        ("The train to {p} is late. It leaves at {h} now.",),
    ),
    FactKind(
        "relation", (("r", one_of(words.RELATIONS)), ("v", one_of(words.FIRST_NAMES))),
        ("My {r}'s name is {v}.", "My {r} is called {v}.", "{v} is my {r}."),
        ("What is my {r}'s name?", "What is my {r} called?", "Who is my {r}?"),
        "Your {r}'s name is {v}.", "You have not told me of your {r}.",
    ),
    FactKind(
        "price", (("t", one_of(words.THINGS)), ("v", number(10, 999))),
        ("The {t} cost {v} dollars.", "I paid {v} dollars for the {t}."),
        ("How much did the {t} cost?", "What did I pay for the {t}?"),
        "The {t} cost {v} dollars.", "You have not told me what the {t} cost.",
    ),
    FactKind(
        "errand", (("s", one_of(words.SHOPS)), ("d", one_of(words.DAYS))),
        ("On {d} I must go to the {s}.", "I want to go to the {s} on {d}.",
         "I plan to visit the {s} on {d}."),
        ("When do I want to go to the {s}?", "On which day do I go to the {s}?"),
        "You want to go to the {s} on {d}.", "You have not told me that you go to the {s}.",
        ("I will go to the {s} on {d} instead.",),
    ),
    FactKind(
        "person city", (("v", one_of(words.PLACES)),),
        ("{n} lives in {v}.", "{n} has a house in {v}."),
        ("Where does {n} live?", "In which city does {n} live?"),
        "{n} lives in {v}.", "You have not told me where {n} lives.",
        ("{n} has moved to {v}.", "{n} lives in {v} now."), True,
    ),
    FactKind(
        "person job", (("v", one_of(words.JOBS)),),
        ("{n} works as a {v}.", "{n} is a {v}."),
        ("What does {n} do?", "What is {n}'s job?", "What does {n} work as?"),
        "{n} works as a {v}.", "You have not told me what {n} does.",
        ("{n} has a new job and works as a {v} now.",), True,
    ),
    FactKind(
        "person likes", (("v", one_of(words.FOODS)),),
        ("{n} likes {v}.", "{n} loves {v}.", "{n}'s favorite food is {v}."),
        ("What does {n} like?", "What food does {n} like?"),
        "{n} likes {v}.", "You have not told me what {n} likes.", (), True,
    ),
    FactKind(
        "person phone", (("v", number(2_000_000, 9_999_999)),),
        ("{n}'s phone number is {v}.", "The phone number of {n} is {v}.",
         "You can call {n} at {v}."),
        ("What is {n}'s phone number?", "What is the phone number of {n}?"),
        "{n}'s phone number is {v}.", "You have not told me {n}'s phone number.",
        ("{n} has a new phone number: {v}.",), True,
    ),
    FactKind(
        "person age", (("v", number(3, 95)),),
        ("{n} is {v} years old.", "{n} turned {v}."),
        ("How old is {n}?", "What is {n}'s age?"),
        "{n} is {v} years old.", "You have not told me how old {n} is.", (), True,
    ),
)  # fmt: skip
