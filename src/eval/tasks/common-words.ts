/**
 * Common words (RULER, section 3.3): a numbered list in which ten words occur ten times as often as
 * the others; which? RULER's list has 30 and 3 of each. Here so many from 600 words on; shorter lists
 * have fewer common words, so that they are half of the list, and the others occur once.
 */
import { SeededRandom } from "../random.js";
import { adjectives, nouns } from "../words.js";
import type { Draft, Task } from "./task.js";

/** Words that are asked for. */
export const commonWords = 10;

const oftenMax = 30;
/** How much more often a common word occurs. */
const ratio = 10;
/** Share of the list that the common words may take. */
const commonShare = 0.5;
/** Shorter words hide inside others too easily. */
const lettersMin = 4;

const plain: readonly string[] = [...new Set([...nouns, ...adjectives])];

/** How often a common word and another word occur in a list of `size` words. */
export function occurrences(size: number): { readonly often: number; readonly rare: number } {
  const often = Math.min(oftenMax, Math.max(2, Math.floor((size * commonShare) / commonWords)));
  return { often, rare: often < oftenMax ? 1 : oftenMax / ratio };
}

function draft(seed: string, size: number): Draft {
  const random = new SeededRandom(`common-words/${seed}`);
  // No answer is part of another word: replies are searched for answers.
  const candidates = plain.filter(
    (word) =>
      word.length >= lettersMin && !plain.some((other) => other !== word && other.includes(word)),
  );
  const common = random.sample(candidates, commonWords);
  const { often, rare } = occurrences(size);
  const slots = Math.max(0, size - commonWords * often);
  const different = Math.ceil(slots / rare);
  const isFree = (word: string): boolean => !common.some((answer) => word.includes(answer));
  const others = random.shuffled(plain.filter(isFree)).slice(0, different);
  if (others.length < different) {
    // Long lists need more words than there are: compounds follow.
    const known = new Set(others);
    const compounds = random.different(different - others.length, () => {
      for (;;) {
        const word = random.pick(nouns) + random.pick(nouns);
        if (isFree(word) && !known.has(word)) return word;
      }
    });
    others.push(...compounds);
  }
  const repeated = (words: readonly string[], times: number): string[] =>
    words.flatMap((word) => Array.from({ length: times }, () => word));
  const list = random.shuffled([
    ...repeated(common, often),
    ...repeated(others, rare).slice(0, slots),
  ]);
  return {
    text:
      "Below is a numbered list of words. Memorize the ones that appear most often.\n" +
      `${list.map((word, index) => `${index + 1}. ${word}`).join(" ")}\n` +
      `What are the ${commonWords} most common words in the above list?`,
    answers: common,
  };
}

/** Common words. */
export const commonWordsTask: Task = {
  name: "common-words",
  score: "all",
  maxTokens: 96,
  sizeMin: commonWords * 3,
  draft,
};
