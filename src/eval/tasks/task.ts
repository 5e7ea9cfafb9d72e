/** What a task is: a maker of prompts of any size, and how replies count. */
import type { ReplyScoreKind } from "../score.js";

/** A prompt and what counts as its answer. */
export interface Draft {
  /** What the user says. */
  readonly text: string;
  /** Texts that count, at least one. */
  readonly answers: readonly string[];
}

/** A task whose prompt can be filled to any length. */
export interface Task {
  readonly name: string;
  readonly score: ReplyScoreKind;
  /** Longest reply, in tokens; counted in a sample's length. */
  readonly maxTokens: number;
  /** Smallest size that `draft` takes. */
  readonly sizeMin: number;
  /**
   * A prompt of `size` units (sentences, lines or words: what the task is filled with). The same
   * seed and size give the same prompt; a larger size gives a longer one with the same question.
   */
  readonly draft: (seed: string, size: number) => Draft;
}

/** a / a and b / a, b, and c. */
export function spokenList(items: readonly string[]): string {
  if (items.length <= 2) return items.join(" and ");
  return `${items.slice(0, -1).join(", ")}, and ${items.at(-1) ?? ""}`;
}
