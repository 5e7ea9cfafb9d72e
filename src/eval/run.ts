/** Samples under methods: which replies are to be made, in which order, and what becomes of them. */
import { sampleHash, sampleName, type MethodLine, type ResultLine } from "./samples-file.js";
import type { Reading } from "./reading.js";
import type { Sample } from "./sample.js";
import { sideBySide } from "./stepper.js";

/** A reply that is to be made. */
export interface Job {
  readonly sample: Sample;
  /** Name of the method. */
  readonly method: string;
  /** Takes the reply, and is waited for. */
  readonly finish: (reading: Reading) => Promise<void>;
}

/** Methods whose replies are made on the same engines. */
export interface Lane {
  readonly methods: readonly MethodLine[];
  /** Makes replies, those of a list begun in its order. Ends early, by a throw, when the signal says so. */
  read(jobs: readonly Job[], signal: AbortSignal): Promise<void>;
}

/** What is run. */
export interface RunOptions {
  /** Longest log of a sequence, in tokens. */
  readonly contextTokensMax: number;
  readonly lanes: readonly Lane[];
  /** Whether lanes work at the same time, as engines can that do not compute on the calling thread. */
  readonly lanesTogether: boolean;
  /** All methods have answered so many samples before the next ones begin, at least 1. */
  readonly samplesAtOnce: number;
  readonly samples: readonly Sample[];
  /** Replies that are there already: they are not made again. */
  readonly done: readonly ResultLine[];
  /** Takes each new reply, and is waited for. */
  readonly onResult: (result: ResultLine) => Promise<void>;
  /** Told at the beginning and after each reply: how many there are, and of how many. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Ends the run between two steps. */
  readonly signal?: AbortSignal;
}

/**
 * Makes the replies that are not there yet, sample by sample, so that a run that was ended early has
 * pairs of all methods.
 *
 * @returns how many were made
 * @throws Error if a sample is longer than the engine's context, or if `done` was made from other samples
 */
export async function runSamples(options: RunOptions): Promise<number> {
  const { lanes, lanesTogether, samples, samplesAtOnce } = options;
  const signal = options.signal ?? new AbortController().signal;
  checkLengths(options.contextTokensMax, samples);
  const before = new Map(options.done.map((line) => [`${line.method}/${sampleName(line)}`, line]));
  const methods = lanes.flatMap((lane) => lane.methods.map(({ method }) => method));
  const hashes = new Map(samples.map((sample) => [sample, sampleHash(sample)]));
  let done = 0;
  for (const [sample, hash] of hashes) {
    for (const method of methods) done += isDone(before, method, sample, hash) ? 1 : 0;
  }
  const total = methods.length * samples.length;
  let made = 0;
  options.onProgress?.(done, total);
  const jobsOf = (lane: Lane, block: readonly Sample[]): Job[] =>
    block.flatMap((sample) => {
      const hash = hashes.get(sample) ?? "";
      const missing = lane.methods.filter(({ method }) => !isDone(before, method, sample, hash));
      return missing.map(({ method }) => ({
        sample,
        method,
        finish: async (reading) => {
          const { task, length, seed } = sample;
          await options.onResult({ method, task, length, seed, ...reading, sample: hash });
          made++;
          options.onProgress?.(++done, total);
        },
      }));
    });
  for (let at = 0; at < samples.length; at += samplesAtOnce) {
    const block = samples.slice(at, at + samplesAtOnce);
    if (lanesTogether) await together(lanes, (lane) => jobsOf(lane, block), signal);
    else for (const lane of lanes) await lane.read(jobsOf(lane, block), signal);
  }
  return made;
}

/** All lanes at the same time; a failure ends the others, and is thrown when they have ended. */
async function together(
  lanes: readonly Lane[],
  jobsOf: (lane: Lane) => Job[],
  signal: AbortSignal,
): Promise<void> {
  await sideBySide(lanes, lanes.length, signal, (lane, either) => lane.read(jobsOf(lane), either));
}

/** Whether a reply is there. @throws Error if it was made from another sample */
function isDone(
  before: ReadonlyMap<string, ResultLine>,
  method: string,
  sample: Sample,
  hash: string,
): boolean {
  const name = `${method}/${sampleName(sample)}`;
  const known = before.get(name);
  if (known?.sample !== undefined && known.sample !== hash) {
    throw new Error(`${name} was made from sample ${known.sample}, this one is ${hash}`);
  }
  return known !== undefined;
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
