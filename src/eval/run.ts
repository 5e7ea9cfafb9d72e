/** Samples on engines: each is read under each method, and answered greedily or measured. */
import {
  greedySampling,
  type Engine,
  type SequenceHandle,
  type StepResult,
} from "../engine/engine.js";
import type { Tokenizer } from "../engine/tokenizer/index.js";
import { sampleHash, sampleName, type MethodLine, type ResultLine } from "./samples-file.js";
import type { Sample } from "./sample.js";
import { scoreOf } from "./score.js";

/** An engine for one reply, and the index of the plan in it. */
export interface OpenedPlan {
  readonly engine: Engine;
  readonly plan: number;
  /** Called after the reply. */
  readonly close: () => void;
}

/** Gives the engine that reads a sample under a method. */
export type OpenPlan = (sample: Sample, signal: AbortSignal | undefined) => Promise<OpenedPlan>;

/** A method, what results call it, and how it reads. */
export interface RunMethod extends MethodLine {
  readonly open: OpenPlan;
}

/** What is run. */
export interface RunOptions {
  /** Longest log of a sequence, in tokens. */
  readonly contextTokensMax: number;
  readonly tokenizer: Tokenizer;
  readonly methods: readonly RunMethod[];
  readonly samples: readonly Sample[];
  /** Replies that are there already: they are not made again. */
  readonly done: readonly ResultLine[];
  /** Takes each new reply, and is waited for. */
  readonly onResult: (result: ResultLine) => Promise<void>;
  /** Told before each reply: how many there are, and of how many. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Ends the run between two steps. */
  readonly signal?: AbortSignal;
}

/** Rows x layers of a step: a signal is looked at this often. */
const workMax = 1 << 14;

/**
 * Makes the replies that are not there yet, sample by sample, so that a run that was ended early has
 * pairs of all methods.
 *
 * @returns how many were made
 * @throws Error if a sample is longer than the engine's context, or if `done` was made from other samples
 */
export async function runSamples(options: RunOptions): Promise<number> {
  const { methods, samples, onResult, onProgress, signal } = options;
  const done = new Map(options.done.map((line) => [`${line.method}/${sampleName(line)}`, line]));
  checkLengths(options.contextTokensMax, samples);
  const total = methods.length * samples.length;
  let at = 0;
  let made = 0;
  for (const sample of samples) {
    const hash = sampleHash(sample);
    for (const { method, open } of methods) {
      const before = done.get(`${method}/${sampleName(sample)}`);
      if (before?.sample !== undefined && before.sample !== hash) {
        throw new Error(
          `${method}/${sampleName(sample)} was made from sample ${before.sample}, this one is ${hash}`,
        );
      }
      onProgress?.(at++, total);
      if (before !== undefined) continue;
      const { task, length, seed } = sample;
      const found = await read(options, open, sample);
      signal?.throwIfAborted();
      await onResult({ method, task, length, seed, ...found, sample: hash });
      made++;
    }
  }
  onProgress?.(at, total);
  return made;
}

function checkLengths(contextTokensMax: number, samples: readonly Sample[]): void {
  for (const sample of samples) {
    const ids = sample.segments.reduce((sum, segment) => sum + segment.ids.length, 0);
    if (ids + sample.maxTokens > contextTokensMax) {
      throw new Error(
        `${sampleName(sample)} takes ${ids + sample.maxTokens} tokens, the model's context is ${contextTokensMax}`,
      );
    }
  }
}

/** What a method makes of a sample. */
async function read(
  { tokenizer, signal }: RunOptions,
  open: OpenPlan,
  sample: Sample,
): Promise<Pick<ResultLine, "score" | "text" | "loss">> {
  const { engine, plan, close } = await open(sample, signal);
  try {
    const sequence = engine.createSequence(plan);
    try {
      for (const { kind, ids } of sample.segments) engine.append(sequence, kind, ids);
      engine.setSampling(sequence, greedySampling);
      if (sample.score === "loss") {
        const loss = await meanLoss(engine, sequence, sample.targets ?? [], signal);
        return { score: Math.exp(-loss), text: "", loss };
      }
      const text = await reply(engine, sequence, tokenizer, sample, signal);
      return { score: scoreOf(sample.score, sample.answers, text), text };
    } finally {
      engine.freeSequence(sequence);
    }
  } finally {
    close();
  }
}

/** The reply to a sample whose segments were appended, without its end token. */
async function reply(
  engine: Engine,
  sequence: SequenceHandle,
  tokenizer: Tokenizer,
  sample: Sample,
  signal: AbortSignal | undefined,
): Promise<string> {
  const said: number[] = [];
  while (said.length < sample.maxTokens) {
    signal?.throwIfAborted();
    const { token, workDone } = await advance(engine, sequence, true);
    if (token === undefined) {
      if (workDone === 0) throw new Error(`${sampleName(sample)}: a step did nothing`);
      continue;
    }
    if (tokenizer.endsGeneration(token)) break;
    said.push(token);
  }
  return tokenizer.decode(said);
}

/**
 * Mean negative log-likelihood of all targets but the first, each read as if it had been generated: a
 * token is drawn for its logits, and the true one put in its place.
 */
async function meanLoss(
  engine: Engine,
  sequence: SequenceHandle,
  targets: readonly number[],
  signal: AbortSignal | undefined,
): Promise<number> {
  let sum = 0;
  let tokens = engine.sequenceStats(sequence).tokens;
  for (const [at, id] of targets.entries()) {
    const next = targets[at + 1];
    if (next === undefined) break;
    engine.append(sequence, "generated", [id]);
    tokens++;
    for (;;) {
      signal?.throwIfAborted();
      const { token, workDone } = await advance(engine, sequence, true);
      if (token !== undefined) break;
      if (workDone === 0) throw new Error(`target ${at}: a step did nothing`);
    }
    sum += negativeLogLikelihood(engine.logits(sequence), next);
    engine.truncate(sequence, tokens);
  }
  return sum / (targets.length - 1);
}

/** Of a token under logits, in nats. */
export function negativeLogLikelihood(logits: Float32Array, token: number): number {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - highest), 0);
  return highest + Math.log(sum) - (logits[token] ?? NaN);
}

/** One step of a sequence. @throws what the step failed with */
export async function advance(
  engine: Engine,
  sequence: SequenceHandle,
  sample: boolean,
): Promise<StepResult> {
  const entries = [{ sequence, workMax, sample }];
  let results: readonly StepResult[];
  if (engine.stepSync === undefined) results = await engine.step(entries);
  else {
    // Other work of the process, a signal for example, has its turn between steps.
    await new Promise((resolve) => setImmediate(resolve));
    results = engine.stepSync(entries);
  }
  const [result] = results;
  if (result === undefined) throw new Error("a step of one entry has no result");
  if (result.error !== undefined) throw result.error;
  return result;
}
