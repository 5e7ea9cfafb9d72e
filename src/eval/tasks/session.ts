/**
 * The session test: a user tells a fact in one turn and asks for it many turns later. In between come
 * other facts, questions for these, and small talk; nothing in between names the answer again.
 */
import { SeededRandom } from "../random.js";
import {
  animals,
  colors,
  days,
  events,
  firstNames,
  foods,
  hobbies,
  jobs,
  places,
  relations,
  things,
} from "../words.js";

/** Turns between telling and asking that are looked at. */
export const sessionDistances: readonly number[] = [1, 2, 5, 10, 20, 30, 40, 50, 60];

/** Longest distance, in turns. */
export const sessionDistanceMax = 60;

/** The fact is told in one of the first so many turns. */
export const tellTurnsMax = 8;

/** Longest reply to the question, in tokens. */
export const sessionMaxTokens = 48;

/** One turn; the last one of a session has no answer yet. */
export interface SessionTurn {
  readonly user: string;
  readonly assistant: string;
}

/** A session up to its last question. */
export interface SessionDraft {
  /** Turns before the question. */
  readonly turns: readonly SessionTurn[];
  /** Turn in which the fact was told, from 1; the question is asked `distance` turns later. */
  readonly toldIn: number;
  readonly question: string;
  /** Texts that count, at least one. */
  readonly answers: readonly string[];
}

/** {k} is what the fact is about, {v} what is asked for. */
interface FactKind {
  readonly name: string;
  readonly about: (random: SeededRandom) => string;
  readonly value: (random: SeededRandom) => string;
  readonly told: readonly string[];
  readonly asked: readonly string[];
  readonly answer: string;
}

interface Fact {
  readonly kind: FactKind;
  readonly about: string;
  readonly value: string;
}

const of =
  (words: readonly string[]) =>
  (random: SeededRandom): string =>
    random.pick(words);
const none = (): string => "";
const digits =
  (count: number) =>
  (random: SeededRandom): string =>
    random.digits(count);

const kinds: readonly FactKind[] = [
  {
    name: "home",
    about: none,
    value: of(places),
    told: ["I live in {v}.", "My home is in {v}."],
    asked: ["Where do I live?", "In which city do I live?"],
    answer: "You live in {v}.",
  },
  {
    name: "food",
    about: none,
    value: of(foods),
    told: ["My favorite food is {v}.", "I like to eat {v} best."],
    asked: ["What is my favorite food?"],
    answer: "Your favorite food is {v}.",
  },
  {
    name: "hobby",
    about: none,
    value: of(hobbies),
    told: ["My hobby is {v}.", "In my free time I enjoy {v}."],
    asked: ["What is my hobby?"],
    answer: "Your hobby is {v}.",
  },
  {
    name: "phone",
    about: none,
    value: digits(7),
    told: ["My phone number is {v}.", "Please note my phone number: {v}."],
    asked: ["What is my phone number?"],
    answer: "Your phone number is {v}.",
  },
  {
    name: "code",
    about: of(["door", "locker", "safe", "garage", "alarm"]),
    value: digits(4),
    told: ["The code of my {k} is {v}.", "Remember that the code of my {k} is {v}."],
    asked: ["What is the code of my {k}?"],
    answer: "The code of your {k} is {v}.",
  },
  {
    name: "pet",
    about: of(animals),
    value: of(firstNames),
    told: ["My {k} is called {v}.", "My {k}'s name is {v}."],
    asked: ["What is my {k} called?", "What is the name of my {k}?"],
    answer: "Your {k} is called {v}.",
  },
  {
    name: "relation",
    about: of(relations),
    value: of(firstNames),
    told: ["My {k}'s name is {v}.", "My {k} is called {v}."],
    asked: ["What is my {k}'s name?", "What is my {k} called?"],
    answer: "Your {k}'s name is {v}.",
  },
  {
    name: "color",
    about: of(things),
    value: of(colors),
    told: ["My {k} is {v}.", "I painted my {k}. It is {v} now."],
    asked: ["What color is my {k}?"],
    answer: "Your {k} is {v}.",
  },
  {
    name: "price",
    about: of(things),
    value: digits(3),
    told: ["The {k} cost {v} dollars.", "I paid {v} dollars for the {k}."],
    asked: ["How much did the {k} cost?"],
    answer: "The {k} cost {v} dollars.",
  },
  {
    name: "day",
    about: of(events),
    value: of(days),
    told: ["The {k} is on {v}.", "On {v} there is the {k}."],
    asked: ["On which day is the {k}?"],
    answer: "The {k} is on {v}.",
  },
  {
    name: "friend's home",
    about: of(firstNames),
    value: of(places),
    told: ["{k} lives in {v}.", "My friend {k} lives in {v}."],
    asked: ["Where does {k} live?"],
    answer: "{k} lives in {v}.",
  },
  {
    name: "friend's job",
    about: of(firstNames),
    value: of(jobs),
    told: ["My friend {k} is a {v}.", "{k} works as a {v}."],
    asked: ["What does {k} do for a living?"],
    answer: "{k} works as a {v}.",
  },
];

const noted: readonly string[] = [
  "Noted.",
  "I will remember that.",
  "Good to know.",
  "I see.",
  "Thank you for telling me.",
  "Understood.",
];

const smallTalk: readonly SessionTurn[] = [
  { user: "How are you today?", assistant: "I am well, thank you. How are you?" },
  { user: "It rains again.", assistant: "Then it is a good day to stay inside." },
  { user: "I slept badly.", assistant: "I am sorry to hear that. I hope you can rest tonight." },
  { user: "Thank you for listening.", assistant: "You are welcome." },
  { user: "I need a cup of something warm.", assistant: "That sounds like a good idea." },
  { user: "The morning was busy.", assistant: "I hope the afternoon will be quiet." },
  { user: "Let me think for a moment.", assistant: "Take your time." },
  { user: "I like talking with you.", assistant: "I like talking with you too." },
];

/** Shares of turns that tell a fact, and that ask for one; the rest is small talk. */
const tellShare = 0.5;
const askShare = 0.25;

/** Draws for a fact that was not told yet, after which there is small talk instead. */
const drawsMax = 20;

function fill(text: string, { about, value }: Fact): string {
  const said = text
    .replaceAll("{k}", about)
    .replaceAll("{v}", value)
    .replace(/\ba (?=[aeiou])/g, "an ");
  return said.charAt(0).toUpperCase() + said.slice(1);
}

function draw(random: SeededRandom): Fact {
  const kind = random.pick(kinds);
  return { kind, about: kind.about(random), value: kind.value(random) };
}

/** Does a text name a value, as a word of its own or a part of one? */
function names(text: string, value: string): boolean {
  return text.toLowerCase().includes(value.toLowerCase());
}

/**
 * A session whose question comes `distance` turns after the fact.
 *
 * @param distance turns, 1 .. sessionDistanceMax
 */
export function sessionDraft(seed: string, distance: number): SessionDraft {
  if (!Number.isInteger(distance) || distance < 1 || distance > sessionDistanceMax) {
    throw new RangeError(`distance of ${distance} turns, 1 to ${sessionDistanceMax} expected`);
  }
  const random = new SeededRandom(`session/${seed}`);
  const fact = draw(random);
  const toldIn = 1 + random.below(tellTurnsMax);
  const known = new Map([[`${fact.kind.name}/${fact.about}`, fact]]);
  const others: Fact[] = [];
  const tell = (told: Fact): SessionTurn => ({
    user: fill(random.pick(told.kind.told), told),
    assistant: random.pick(noted),
  });
  const newFact = (): Fact | undefined => {
    for (let index = 0; index < drawsMax; index++) {
      const other = draw(random);
      const key = `${other.kind.name}/${other.about}`;
      // Nobody says the asked value a second time, nor gives a second name to the same thing.
      const isTaken = known.has(key) || (other.about !== "" && other.about === fact.about);
      const wordings = [...other.kind.told, ...other.kind.asked, other.kind.answer];
      if (isTaken || wordings.some((text) => names(fill(text, other), fact.value))) continue;
      known.set(key, other);
      others.push(other);
      return other;
    }
    return undefined;
  };
  const turns = Array.from({ length: toldIn + distance - 1 }, (_, index): SessionTurn => {
    if (index + 1 === toldIn) return tell(fact);
    const draws = random.unit();
    if (draws < tellShare) {
      const other = newFact();
      if (other !== undefined) return tell(other);
    } else if (draws < tellShare + askShare && others.length > 0) {
      const other = random.pick(others);
      return {
        user: fill(random.pick(other.kind.asked), other),
        assistant: fill(other.kind.answer, other),
      };
    }
    return random.pick(smallTalk);
  });
  return {
    turns,
    toldIn,
    question: fill(random.pick(fact.kind.asked), fact),
    answers: [fact.value],
  };
}
