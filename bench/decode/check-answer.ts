/** No answer, no timing: every variant's tokens are judged by the oracle before they count. */
import { topTwo } from "../../test/oracle/compare.js";
import { logitsAt } from "../../test/oracle/oracle.js";
import type { Oracle } from "../../test/oracle/oracle.js";

/**
 * A token may differ from the oracle's only where the oracle hardly prefers its own: by at most this
 * much, in logits, which deviate by 3 or more. llama.cpp moves two logits of a Q4_0 model apart by up
 * to 0.9, because it rounds activations to 8 bits.
 */
export const leadMax = 1;

/** And only on this share of an answer's tokens: near ties are rare. */
export const departuresShareMax = 1 / 8;

/** Where an answer leaves the oracle's: position in the answer, and the lead it gave up. */
export type Departure = { position: number; lead: number };

/** Departures of a greedy answer. The oracle reads the answer itself, so one does not cause the next. */
export function departures(
  oracle: Oracle,
  promptIds: readonly number[],
  answer: readonly number[],
): Departure[] {
  const logits = oracle.logits([...promptIds, ...answer.slice(0, -1)]);
  return answer.flatMap((token, position) => {
    const row = logitsAt(logits, promptIds.length - 1 + position);
    const best = topTwo(row).token;
    return best === token ? [] : [{ position, lead: (row[best] ?? 0) - (row[token] ?? 0) }];
  });
}

/** Throws unless the answer is one that the model gives, up to the rounding of activations. */
export function checkAnswer(
  variant: string,
  oracle: Oracle,
  promptIds: readonly number[],
  answer: readonly number[],
): Departure[] {
  const found = departures(oracle, promptIds, answer);
  const wrong = found.find(({ lead }) => lead > leadMax);
  if (wrong !== undefined) {
    throw new Error(
      `${variant} answers wrongly: token ${wrong.position} gives up a lead of ` +
        `${wrong.lead.toFixed(3)}, at most ${leadMax}`,
    );
  }
  if (found.length > answer.length * departuresShareMax) {
    throw new Error(
      `${variant} answers wrongly: ${found.length} of ${answer.length} tokens are not the oracle's`,
    );
  }
  return found;
}
