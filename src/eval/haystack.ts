/**
 * Text that hides needles: sentences of our own, endless, and the same for the same random numbers.
 * Neither kind has a digit or a word of the questions in it.
 */
import type { SeededRandom } from "./random.js";
import { adjectives, firstNames, nouns } from "./words.js";

/** What is said over and over in a noise haystack. */
export const noiseSentences: readonly string[] = [
  "The field is wide.",
  "The road is long.",
  "The lamp is lit.",
  "We walk on.",
  "Then we come home again.",
];

type Slot = "thing" | "other" | "kind" | "trait" | "person";

/** Sentences of an essay; {thing} and {other} are nouns, {kind} and {trait} adjectives. */
const forms: readonly string[] = [
  "Whoever owns {a kind} {thing} learns sooner or later what {a trait} {other} is worth.",
  "People say that every {thing} was once {a kind} idea.",
  "I used to think that {a kind} {thing} and {a trait} {other} had nothing to say to each other.",
  "{person} held the opposite view, and kept {a thing} in the house to prove it.",
  "There is no such thing as {a trait} {other} without somebody who cares for it.",
  "The old books describe {a kind} {thing} beside {a trait} {other}, and leave it at that.",
  "What looks like {a kind} {thing} from afar may be {a trait} {other} when one comes near.",
  "When {person} asked why the {thing} was so {kind}, nobody had an answer ready.",
  "Most of us would rather have {a kind} {thing} today than {a trait} {other} in a year.",
  "That is the trouble with {a kind} {thing}: it makes every {other} look {trait}.",
  "It took a whole summer until the {thing} stood where the {other} had been.",
  "Good work shows in small matters, in the {thing} no less than in the {kind} {other}.",
  "{person} wrote long letters about the {kind} {thing}, and none of them was ever sent.",
  "If the {thing} breaks, one learns how it was made; if the {other} breaks, one learns patience.",
  "Nobody in the village remembered who had brought the {kind} {thing}.",
  "A habit is {a kind} {thing}, and it wears out more slowly than any {other}.",
  "So the question is not whether the {thing} is {kind}, but for whom.",
  "By evening the {other} was forgotten, and only the {kind} {thing} was still talked about.",
];

function withArticle(word: string): string {
  return `${/^[aeiou]/.test(word) && !/^(?:uni|use|one)/.test(word) ? "an" : "a"} ${word}`;
}

/** One sentence of an essay. */
function essaySentence(random: SeededRandom): string {
  const [thing = "", other = ""] = random.sample(nouns, 2);
  const [kind = "", trait = ""] = random.sample(adjectives, 2);
  const slots: Readonly<Record<Slot, string>> = {
    thing,
    other,
    kind,
    trait,
    person: random.pick(firstNames),
  };
  const text = random
    .pick(forms)
    .replace(/\{(a )?(\w+)\}/g, (_, article: string | undefined, slot: string) =>
      article === undefined ? slots[slot as Slot] : withArticle(slots[slot as Slot]),
    );
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The first `count` sentences of an essay; fewer sentences of the same random numbers begin alike. */
export function essay(random: SeededRandom, count: number): string[] {
  return Array.from({ length: count }, () => essaySentence(random));
}

/** `count` sentences of noise. */
export function noise(count: number): string[] {
  return Array.from(
    { length: count },
    (_, index) => noiseSentences[index % noiseSentences.length] ?? "",
  );
}

/** Steps of depth, from before the first sentence to behind the last one. */
export const depthSteps = 40;

/** `count` different depths, 0 .. 1, in any order. @throws RangeError above depthSteps */
export function depths(random: SeededRandom, count: number): number[] {
  const steps = Array.from({ length: depthSteps }, (_, step) => step / (depthSteps - 1));
  return random.sample(steps, count);
}

/** Puts lines between sentences, each on a line of its own, at its depth. */
export function hide(
  sentences: readonly string[],
  lines: readonly { readonly text: string; readonly depth: number }[],
): string {
  const sorted = [...lines].sort((a, b) => a.depth - b.depth);
  const blocks: string[] = [];
  let from = 0;
  for (const { text, depth } of sorted) {
    const until = Math.round(depth * sentences.length);
    if (until > from) blocks.push(sentences.slice(from, until).join(" "));
    blocks.push(text);
    from = Math.max(from, until);
  }
  if (from < sentences.length) blocks.push(sentences.slice(from).join(" "));
  return blocks.join("\n");
}
