/**
 * Frequent words (RULER, section 3.3): invented words whose counts follow a zeta distribution with
 * exponent 2; the first rank is a mark that means nothing, the next three are asked for.
 */
import { SeededRandom } from "../random.js";
import type { Draft, Task } from "./task.js";

/** Words that are asked for. */
export const frequentWords = 3;

/** What has the first rank. */
export const fillMark = "...";

const exponent = 2;
const zetaOfExponent = Math.PI ** 2 / 6;
const wordLetters = 6;

/**
 * How often each rank occurs among about `size` words: the mark's first, then the words'. The three
 * words that are asked for are always ahead of the one behind them.
 */
export function rankCounts(size: number): number[] {
  const counts: number[] = [];
  for (let rank = 1; ; rank++) {
    const count = Math.floor(size / (rank ** exponent * zetaOfExponent));
    if (count < 1 && rank > frequentWords + 2) break;
    counts.push(Math.max(1, count));
  }
  for (let rank = frequentWords; rank >= 0; rank--) {
    counts[rank] = Math.max(counts[rank] ?? 1, (counts[rank + 1] ?? 0) + 1);
  }
  return counts;
}

function draft(seed: string, size: number): Draft {
  const random = new SeededRandom(`frequent-words/${seed}`);
  const counts = rankCounts(size);
  const words = random.different(counts.length - 1, () =>
    random.letters("abcdefghijklmnopqrstuvwxyz", wordLetters),
  );
  const all = [fillMark, ...words].flatMap((word, rank) =>
    Array.from({ length: counts[rank] ?? 0 }, () => word),
  );
  return {
    text:
      "Read the following coded text and track the frequency of each coded word. Find the three most " +
      "frequently appeared coded words.\n" +
      `${random.shuffled(all).join(" ")}\n` +
      `Do not provide any explanation. Please ignore the dots "${fillMark}". What are the three most ` +
      "frequently appeared words in the above coded text?",
    answers: words.slice(0, frequentWords),
  };
}

/** Frequent words. */
export const frequentWordsTask: Task = {
  name: "frequent-words",
  score: "all",
  maxTokens: 48,
  sizeMin: 8,
  draft,
};
