/** Samples: drafts of tasks as token ids of one model, filled to a length. */
import type { SegmentKind } from "../engine/engine.js";
import type { ChatTemplate } from "../engine/template/index.js";
import type { Tokenizer } from "../engine/tokenizer/index.js";
import type { ScoreKind } from "./score.js";
import { sessionDraft, sessionMaxTokens } from "./tasks/session.js";
import type { Task } from "./tasks/task.js";

/** Lengths that a task can be filled to, in tokens, the reply included. */
export const sampleTokensMin = 256;
export const sampleTokensMax = 32_768;

/** Name of the session test among the tasks. */
export const sessionTask = "session";

/** A run of ids of a sample, as a sequence's log has it. */
export interface SampleSegment {
  readonly kind: SegmentKind;
  readonly ids: readonly number[];
}

/** One question to a model. */
export interface Sample {
  readonly task: string;
  /** Tokens, the reply included; for the session test: turns between telling and asking. */
  readonly length: number;
  /** Tells samples of one task and length apart, 0 and up. */
  readonly seed: number;
  /** The log before the reply; sessions have a segment for each message that the model reads or said. */
  readonly segments: readonly SampleSegment[];
  /** Texts that count, at least one; none where the score is `loss`. */
  readonly answers: readonly string[];
  readonly score: ScoreKind;
  /** Longest reply, in tokens; how many targets there are where the score is `loss`. */
  readonly maxTokens: number;
  /** Of a `loss` sample: one id more than targets; each but the last is read, each but the first is a target. */
  readonly targets?: readonly number[];
}

/** A model's tokenizer and chat template. */
export interface SampleCodec {
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
}

/** All ids of a sample, in order. */
export function sampleIds({
  segments,
  targets = [],
}: Pick<Sample, "segments" | "targets">): number[] {
  return [...segments.flatMap(({ ids }) => [...ids]), ...targets];
}

/** Steps of the search for a size; halving alone would need no more for the longest prompts. */
const searchStepsMax = 24;

/** The search ends this close to the length: a share of it. */
const shortfall = 0.005;

/**
 * Fills a task to a length: the largest size whose prompt and reply have at most `tokens` tokens, to
 * within half a per cent where the task has units that small.
 *
 * @param tokens sampleTokensMin .. sampleTokensMax
 * @param series names a series of samples; others have other samples
 * @throws RangeError if the length is out of bounds or too short for the task
 */
export function taskSample(
  { tokenizer, template }: SampleCodec,
  task: Task,
  tokens: number,
  series: string,
  seed: number,
): Sample {
  if (!(tokens >= sampleTokensMin && tokens <= sampleTokensMax)) {
    throw new RangeError(
      `length of ${tokens} tokens, ${sampleTokensMin} to ${sampleTokensMax} expected`,
    );
  }
  const budget = tokens - task.maxTokens;
  const seedText = `${series}/${tokens}/${seed}`;
  const attempt = (size: number): { size: number; ids: number[]; answers: readonly string[] } => {
    const { text, answers } = task.draft(seedText, size);
    const pieces = template.renderFirst([{ role: "user", content: text }]);
    return { size, ids: tokenizer.encodePieces(pieces, { start: true }), answers };
  };
  let best = attempt(task.sizeMin);
  if (best.ids.length > budget) {
    throw new RangeError(
      `${task.name} needs ${best.ids.length + task.maxTokens} tokens at least, ${tokens} asked for`,
    );
  }
  const smallest = best;
  // Grows to a size that is too large; every unit is a token at least.
  let above = budget + 1;
  let guess = Math.min(above - 1, 2 * task.sizeMin + 8);
  for (let step = 0; step < searchStepsMax && above - best.size > 1; step++) {
    const tried = attempt(Math.min(above - 1, Math.max(best.size + 1, guess)));
    if (tried.ids.length > budget) above = tried.size;
    else best = tried;
    if (budget - best.ids.length < shortfall * tokens) break;
    // Along the line through the smallest and this one, every third time the middle.
    const perUnit = (tried.ids.length - smallest.ids.length) / (tried.size - smallest.size);
    guess =
      step % 3 === 2 && above <= budget
        ? Math.floor((best.size + above) / 2)
        : Math.floor(tried.size + (budget - tried.ids.length) / perUnit);
  }
  return {
    task: task.name,
    length: tokens,
    seed,
    segments: [{ kind: "prompt", ids: best.ids }],
    answers: best.answers,
    score: task.score,
    maxTokens: task.maxTokens,
  };
}

/**
 * A sample of the session test: the user's messages as prompts, the assistant's as generated ids, as
 * a session's log has them.
 *
 * @param distance turns between telling and asking
 */
export function sessionSample(
  { tokenizer, template }: SampleCodec,
  distance: number,
  series: string,
  seed: number,
): Sample {
  const { turns, question, answers } = sessionDraft(`${series}/${distance}/${seed}`, distance);
  const segments: SampleSegment[] = [];
  for (const [index, content] of [...turns.map(({ user }) => user), question].entries()) {
    const message = [{ role: "user", content }] as const;
    const pieces =
      index === 0 ? template.renderFirst(message) : template.renderContinuation(message);
    segments.push({
      kind: "prompt",
      ids: tokenizer.encodePieces(pieces, { start: index === 0 }),
    });
    const said = turns[index]?.assistant;
    if (said !== undefined) {
      const ids = tokenizer.encodePieces([{ text: said, special: false }], { start: false });
      segments.push({ kind: "generated", ids });
    }
  }
  return {
    task: sessionTask,
    length: distance,
    seed,
    segments,
    answers,
    score: "all",
    maxTokens: sessionMaxTokens,
  };
}
