/**
 * The eight needle tasks of RULER (Hsieh et al. 2024, arXiv 2404.06654, section 3.1 and appendix B):
 * `One of the special magic numbers for KEY is: VALUE.` hidden in a haystack, asked by key.
 */
import { depths, essay, hide, noise } from "../haystack.js";
import { SeededRandom } from "../random.js";
import { adjectives, nouns } from "../words.js";
import { spokenList, type Draft, type Task } from "./task.js";

type Kind = "word" | "number" | "uuid";

/** What tells one needle task from another. */
interface NeedleFacts {
  readonly name: string;
  /** What hides the needles; `needles` hides them among their like. */
  readonly haystack: "noise" | "essay" | "needles";
  readonly key: Kind;
  readonly value: "number" | "uuid";
  /** Keys in the text. */
  readonly keys: number;
  /** Values of each key. */
  readonly values: number;
  /** Keys that are asked for. */
  readonly asked: number;
}

const digitsOfNumber = 7;
const one = { keys: 1, values: 1, asked: 1 } as const;

const table: readonly NeedleFacts[] = [
  { name: "single-1", haystack: "noise", key: "word", value: "number", ...one },
  { name: "single-2", haystack: "essay", key: "word", value: "number", ...one },
  { name: "single-3", haystack: "essay", key: "word", value: "uuid", ...one },
  { name: "multi-key-1", haystack: "essay", key: "word", value: "number", ...one, keys: 4 },
  { name: "multi-key-2", haystack: "needles", key: "word", value: "number", ...one },
  { name: "multi-key-3", haystack: "needles", key: "uuid", value: "uuid", ...one },
  { name: "multi-value", haystack: "essay", key: "word", value: "number", ...one, values: 4 },
  {
    name: "multi-query",
    haystack: "essay",
    key: "word",
    value: "number",
    keys: 4,
    values: 1,
    asked: 4,
  },
];

function make(random: SeededRandom, kind: Kind): string {
  switch (kind) {
    case "word":
      return `${random.pick(adjectives)}-${random.pick(nouns)}`;
    case "number":
      return random.digits(digitsOfNumber);
    case "uuid":
      return random.uuid();
  }
}

/** The sentence that hides a value. */
export function needle(kind: string, key: string, value: string): string {
  return `One of the special magic ${kind}s for ${key} is: ${value}.`;
}

function draft(facts: NeedleFacts, seed: string, size: number): Draft {
  const { haystack, key, value, values: each, asked: askedCount } = facts;
  const random = new SeededRandom(`${facts.name}/${seed}`);
  const filler = new SeededRandom(`${facts.name}/${seed}/filler`);
  const among = haystack === "needles";
  const keys = random.different(facts.keys, () => make(random, key));
  const values = random.different(facts.keys * each, () => make(random, value));
  const needles = keys.flatMap((name, index) =>
    values.slice(index * each, (index + 1) * each).map((item) => ({ name, item })),
  );
  const places = depths(random, needles.length);
  const asked = keys.slice(0, askedCount);
  const lines = needles.map(({ name, item }, index) => ({
    text: needle(value, name, item),
    depth: places[index] ?? 0,
  }));
  let text: string;
  if (among) {
    const others = filler.different(size, () => fresh(keys, () => make(filler, key)));
    const otherValues = filler.different(size, () => fresh(values, () => make(filler, value)));
    const list = others.map((name, index) => needle(value, name, otherValues[index] ?? ""));
    for (const line of lines) list.splice(Math.round(line.depth * size), 0, line.text);
    text = list.join("\n");
  } else {
    text = hide(haystack === "noise" ? noise(size) : essay(filler, size), lines);
  }
  const answers = needles.filter(({ name }) => asked.includes(name)).map(({ item }) => item);
  const [intro, question] =
    answers.length === 1
      ? [
          `A special magic ${value} is hidden within the following text. Make sure to memorize it. I will quiz you about the ${value} afterwards.`,
          `What is the special magic ${value} for ${spokenList(asked)} mentioned in the provided text?`,
        ]
      : [
          `Some special magic ${value}s are hidden within the following text. Make sure to memorize it. I will quiz you about the ${value}s afterwards.`,
          `What are all the special magic ${value}s for ${spokenList(asked)} mentioned in the provided text?`,
        ];
  return { text: `${intro}\n${text}\n${question}`, answers };
}

/** A value that is none of the taken ones. */
function fresh(taken: readonly string[], draw: () => string): string {
  for (;;) {
    const value = draw();
    if (!taken.includes(value)) return value;
  }
}

/** Needles: single 1 to 3, multi-key 1 to 3, multi-value, multi-query. */
export const needleTasks: readonly Task[] = table.map((facts) => ({
  name: facts.name,
  score: "all",
  maxTokens: 96,
  sizeMin: 1,
  draft: (seed, size) => draft(facts, seed, size),
}));
