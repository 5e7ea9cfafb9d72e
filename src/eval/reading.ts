/** A sample on an engine: read, and answered greedily or measured. */
import { greedySampling, type SequenceHandle } from "../engine/engine.js";
import type { Tokenizer } from "../engine/tokenizer/index.js";
import { sampleName, type ResultLine } from "./samples-file.js";
import type { Sample } from "./sample.js";
import { scoreOf } from "./score.js";
import type { Stepper } from "./stepper.js";

/** What a method makes of a sample. */
export type Reading = Pick<ResultLine, "score" | "text" | "loss">;

/**
 * Reads a sample under a plan.
 *
 * @param plan index in the stepper's engine
 * @param signal ends it between two steps
 * @throws EngineError if a step fails, or what the signal was aborted with
 */
export async function readSample(
  stepper: Stepper,
  plan: number,
  tokenizer: Tokenizer,
  sample: Sample,
  signal: AbortSignal,
): Promise<Reading> {
  await stepper.turn();
  const { engine } = stepper;
  const sequence = engine.createSequence(plan);
  try {
    for (const { kind, ids } of sample.segments) engine.append(sequence, kind, ids);
    engine.setSampling(sequence, greedySampling);
    if (sample.score === "loss") {
      const loss = await meanLoss(stepper, sequence, sample, signal);
      return { score: Math.exp(-loss), text: "", loss };
    }
    const text = tokenizer.decode(await reply(stepper, sequence, tokenizer, sample, signal));
    return { score: scoreOf(sample.score, sample.answers, text), text };
  } finally {
    engine.freeSequence(sequence);
  }
}

/** Draws the next token of a sequence, however many steps its rows take. */
async function draw(
  stepper: Stepper,
  sequence: SequenceHandle,
  sample: Sample,
  signal: AbortSignal,
): Promise<number> {
  for (;;) {
    signal.throwIfAborted();
    const { token, workDone } = await stepper.advance(sequence, true);
    if (token !== undefined) return token;
    if (workDone === 0) throw new Error(`${sampleName(sample)}: a step did nothing`);
  }
}

/** Ids of the reply to a sample whose segments were appended, without its end token. */
async function reply(
  stepper: Stepper,
  sequence: SequenceHandle,
  tokenizer: Tokenizer,
  sample: Sample,
  signal: AbortSignal,
): Promise<number[]> {
  const said: number[] = [];
  while (said.length < sample.maxTokens) {
    const token = await draw(stepper, sequence, sample, signal);
    if (tokenizer.endsGeneration(token)) break;
    said.push(token);
  }
  return said;
}

/**
 * Mean negative log-likelihood of all targets but the first, each read as if it had been generated: a
 * token is drawn for its logits, and the true one put in its place.
 */
async function meanLoss(
  stepper: Stepper,
  sequence: SequenceHandle,
  sample: Sample,
  signal: AbortSignal,
): Promise<number> {
  const { engine } = stepper;
  const { targets = [] } = sample;
  let sum = 0;
  let tokens = engine.sequenceStats(sequence).tokens;
  for (const [at, id] of targets.entries()) {
    const next = targets[at + 1];
    if (next === undefined) break;
    engine.append(sequence, "generated", [id]);
    tokens++;
    await draw(stepper, sequence, sample, signal);
    sum += negativeLogLikelihood(engine.logits(sequence), next);
    engine.truncate(sequence, tokens);
  }
  return sum / (targets.length - 1);
}

/** Of a token under logits, in nats. */
export function negativeLogLikelihood(logits: Float32Array, token: number): number {
  let highest = -Infinity;
  for (const logit of logits) highest = Math.max(highest, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - highest);
  return highest + Math.log(sum) - (logits[token] ?? NaN);
}
