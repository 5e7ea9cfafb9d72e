/** Samples on an engine: each is read under each plan, and answered greedily. */
import { greedySampling, type Engine, type StepResult } from "../engine/engine.js";
import type { Tokenizer } from "../engine/tokenizer/index.js";
import { sampleHash, sampleName, type MethodLine, type ResultLine } from "./samples-file.js";
import type { Sample } from "./sample.js";
import { scoreOf } from "./score.js";

/** A plan of the engine, and what results call it. */
export interface RunMethod extends MethodLine {
  /** Index of the plan in the engine. */
  readonly plan: number;
}

/** What is run. */
export interface RunOptions {
  readonly engine: Engine;
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
  const { engine, methods, samples, onResult, onProgress, signal } = options;
  const done = new Map(options.done.map((line) => [`${line.method}/${sampleName(line)}`, line]));
  checkLengths(engine, samples);
  const total = methods.length * samples.length;
  let at = 0;
  let made = 0;
  for (const sample of samples) {
    const hash = sampleHash(sample);
    for (const { method, plan } of methods) {
      const before = done.get(`${method}/${sampleName(sample)}`);
      if (before?.sample !== undefined && before.sample !== hash) {
        throw new Error(
          `${method}/${sampleName(sample)} was made from sample ${before.sample}, this one is ${hash}`,
        );
      }
      onProgress?.(at++, total);
      if (before !== undefined) continue;
      const text = await reply(options, plan, sample);
      signal?.throwIfAborted();
      await onResult({
        method,
        task: sample.task,
        length: sample.length,
        seed: sample.seed,
        score: scoreOf(sample.score, sample.answers, text),
        text,
        sample: hash,
      });
      made++;
    }
  }
  onProgress?.(at, total);
  return made;
}

function checkLengths(engine: Engine, samples: readonly Sample[]): void {
  for (const sample of samples) {
    const ids = sample.segments.reduce((sum, segment) => sum + segment.ids.length, 0);
    if (ids + sample.maxTokens > engine.contextTokensMax) {
      throw new Error(
        `${sampleName(sample)} takes ${ids + sample.maxTokens} tokens, the model's context is ${engine.contextTokensMax}`,
      );
    }
  }
}

/** The reply to one sample, without its end token. */
async function reply(
  { engine, tokenizer, signal }: RunOptions,
  plan: number,
  sample: Sample,
): Promise<string> {
  const sequence = engine.createSequence(plan);
  try {
    for (const { kind, ids } of sample.segments) engine.append(sequence, kind, ids);
    engine.setSampling(sequence, greedySampling);
    const said: number[] = [];
    while (said.length < sample.maxTokens) {
      signal?.throwIfAborted();
      const [result] = await step(engine, sequence);
      if (result?.error !== undefined) throw result.error;
      if (result?.token === undefined) {
        if (result?.workDone === 0) throw new Error(`${sampleName(sample)}: a step did nothing`);
        continue;
      }
      if (tokenizer.endsGeneration(result.token)) break;
      said.push(result.token);
    }
    return tokenizer.decode(said);
  } finally {
    engine.freeSequence(sequence);
  }
}

async function step(engine: Engine, sequence: number): Promise<readonly StepResult[]> {
  const entries = [{ sequence, workMax, sample: true }];
  if (engine.stepSync === undefined) return engine.step(entries);
  // Other work of the process, a signal for example, has its turn between steps.
  await new Promise((resolve) => setImmediate(resolve));
  return engine.stepSync(entries);
}
