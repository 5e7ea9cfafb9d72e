/** What `leanedge eval` does; the command line itself is src/cli/eval.ts. */
import { open, readFile } from "node:fs/promises";
import { basename } from "node:path";
import { stepEntriesMax } from "../engine/boundary/abi.js";
import { openFileSource } from "../engine/gguf/file-source.js";
import { readModelFile } from "../engine/gguf/index.js";
import { modelText } from "../engine/load-engine.js";
import type { CachePlan } from "../engine/plan/plan.js";
import { EvalModel, type EngineChoice } from "./eval-engine.js";
import { loadMethodEngines } from "./method-engines.js";
import { fullMethod, parseMethod } from "./methods.js";
import { ResultFile } from "./result-file.js";
import { runSamples } from "./run.js";
import { sessionSample, sessionTask, taskSample, type Sample, type SampleCodec } from "./sample.js";
import { readSamples, sampleLine } from "./samples-file.js";
import { sessionDistances } from "./tasks/session.js";
import { tasks, taskOf } from "./tasks/index.js";

/** Which samples are made. */
export interface SampleChoice {
  /** Names of tasks, `session` among them; empty: all. */
  readonly tasks: readonly string[];
  /** Tokens, for all tasks but the session test. */
  readonly lengths: readonly number[];
  /** Turns between telling and asking, for the session test. */
  readonly distances: readonly number[];
  /** Samples of each task and length. */
  readonly count: number;
  /** The first of their seeds, 0 unless a series is made in parts. */
  readonly firstSeed?: number;
  /** Names the series. */
  readonly series: string;
}

/** Defaults of the command. */
export const choiceDefault: SampleChoice = {
  tasks: [],
  lengths: [1_024, 2_048, 4_096],
  distances: sessionDistances,
  count: 10,
  series: "leanedge",
};

/** Samples of a choice, one of each task and length after the other. */
export function* makeSamples(codec: SampleCodec, choice: SampleChoice): Generator<Sample> {
  const names = choice.tasks.length > 0 ? choice.tasks : [...tasks.map(taskName), sessionTask];
  for (const name of names) if (name !== sessionTask) taskOf(name);
  const { firstSeed = 0, count } = choice;
  for (let seed = firstSeed; seed < firstSeed + count; seed++) {
    for (const name of names) {
      if (name === sessionTask) {
        for (const distance of choice.distances) {
          yield sessionSample(codec, distance, choice.series, seed);
        }
      } else {
        for (const tokens of choice.lengths) {
          yield taskSample(codec, taskOf(name), tokens, choice.series, seed);
        }
      }
    }
  }
}

function taskName({ name }: { readonly name: string }): string {
  return name;
}

/**
 * Writes a file of samples.
 *
 * @param withSegments keeps the turns of sessions apart, for engines; the reference evaluator reads no such file
 * @returns how many
 */
export async function writeSamples(
  modelPath: string,
  choice: SampleChoice,
  out: string,
  withSegments = false,
): Promise<number> {
  const source = await openFileSource(modelPath);
  const codec = modelText(await readModelFile(source).finally(() => source.close()));
  const file = await open(out, "w");
  let count = 0;
  try {
    for (const sample of makeSamples(codec, choice)) {
      await file.appendFile(sampleLine(sample, withSegments));
      count++;
    }
  } finally {
    await file.close();
  }
  return count;
}

/** What `leanedge eval run` needs. */
export interface RunRequest {
  readonly modelPath: string;
  /** Names of methods besides the full cache; methods.ts says what they are. */
  readonly methods: readonly string[];
  /** Plans by name, for methods that are plan files. */
  readonly plans: ReadonlyMap<string, CachePlan>;
  readonly choice: SampleChoice;
  /** File of samples instead of a choice. */
  readonly samplesPath: string | undefined;
  /** Result file; replies in it are not made again. */
  readonly out: string;
  /** What computes; default the WASM module. */
  readonly engine?: EngineChoice;
  /** Memory of an engine, in bytes; each seven methods have one. */
  readonly memoryBytesMax: number;
  /** Sequences that an engine answers side by side, 1 .. batchMax; default 1. */
  readonly batch?: number;
  /** Longest context, in tokens; beyond the model's window it extrapolates. Default: its window. */
  readonly contextTokensMax?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Most sequences that an engine answers side by side: entries of one step. */
export const batchMax = stepEntriesMax;

/** Runs samples under the full cache and each method. @returns how many replies were made */
export async function runEvaluation(request: RunRequest): Promise<number> {
  const { modelPath, plans, samplesPath, out, signal, onProgress, batch = 1 } = request;
  const { memoryBytesMax, contextTokensMax } = request;
  const model = await EvalModel.read({
    modelPath,
    engine: request.engine ?? { name: "wasm" },
    memoryBytesMax,
    sequencesMax: batch,
    ...(contextTokensMax === undefined ? {} : { contextTokensMax }),
  });
  const engines = await loadMethodEngines({
    model,
    methods: [...new Set(request.methods)]
      .filter((name) => name !== fullMethod)
      .map((name) => parseMethod(name, model.file.config, plans)),
    modelName: basename(modelPath, ".gguf"),
    series: samplesPath === undefined ? request.choice.series : basename(samplesPath, ".jsonl"),
  });
  const { lanes } = engines;
  try {
    const samples =
      samplesPath === undefined
        ? [...makeSamples(model, request.choice)]
        : readSamples(await readFile(samplesPath, "utf8"), samplesPath);
    const file = await ResultFile.open(
      out,
      lanes.flatMap(({ methods }) => methods),
    );
    try {
      return await runSamples({
        contextTokensMax: model.file.config.contextTokensMax,
        lanes,
        lanesTogether: engines.together,
        samplesAtOnce: batch,
        samples,
        done: file.before.results,
        onResult: (result) => file.append(result),
        ...(onProgress === undefined ? {} : { onProgress }),
        ...(signal === undefined ? {} : { signal }),
      });
    } finally {
      await file.close();
    }
  } finally {
    engines.close();
  }
}
