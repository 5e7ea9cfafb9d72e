/**
 * Variable tracking (RULER, section 3.2): a value is handed from variable to variable, four times, in
 * noise; which variables have it? One chain, as RULER's own configuration.
 */
import { hide, noise } from "../haystack.js";
import { SeededRandom } from "../random.js";
import type { Draft, Task } from "./task.js";

/** Times that the value is handed on. */
export const hops = 4;

const nameLetters = 5;
const valueDigits = 5;

function draft(seed: string, size: number): Draft {
  const random = new SeededRandom(`tracking/${seed}`);
  const names = random.different(hops + 1, () =>
    random.letters("ABCDEFGHIJKLMNOPQRSTUVWXYZ", nameLetters),
  );
  const value = random.digits(valueDigits);
  const steps = names.map((name, index) =>
    index === 0 ? `VAR ${name} = ${value}` : `VAR ${name} = VAR ${names[index - 1] ?? ""}`,
  );
  // In this order: a variable has its value before it hands it on.
  const places = steps.map(() => random.unit()).sort((a, b) => a - b);
  const lines = steps.map((text, index) => ({ text, depth: places[index] ?? 0 }));
  return {
    text:
      "Memorize and track the chain(s) of variable assignment hidden in the following text.\n" +
      `${hide(noise(size), lines)}\n` +
      `Find all variables that are assigned the value ${value} in the text above.`,
    answers: names,
  };
}

/** Variable tracking. */
export const trackingTask: Task = {
  name: "tracking",
  score: "all",
  maxTokens: 96,
  sizeMin: 1,
  draft,
};
