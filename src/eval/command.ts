/** What `leanedge eval` does; the command line itself is src/cli/eval.ts. */
import { open, readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { openFileSource } from "../engine/gguf/file-source.js";
import { readModelFile } from "../engine/gguf/index.js";
import { loadEngine, modelText, type LoadedEngine } from "../engine/load-engine.js";
import { planCost } from "../engine/plan/cost.js";
import { identityPlan, type CachePlan } from "../engine/plan/plan.js";
import { readEngineModule } from "../engine/wasm/node-module.js";
import { fullMethod, renderReport } from "./report.js";
import { ResultFile } from "./result-file.js";
import { runSamples, type RunMethod } from "./run.js";
import { sessionSample, sessionTask, taskSample, type Sample, type SampleCodec } from "./sample.js";
import { readResults, readSamples, sampleLine } from "./samples-file.js";
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
  for (let seed = 0; seed < choice.count; seed++) {
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

/** Writes a file of samples for the reference evaluator. @returns how many */
export async function writeSamples(
  modelPath: string,
  choice: SampleChoice,
  out: string,
): Promise<number> {
  const source = await openFileSource(modelPath);
  const codec = modelText(await readModelFile(source).finally(() => source.close()));
  const file = await open(out, "w");
  let count = 0;
  try {
    for (const sample of makeSamples(codec, choice)) {
      await file.appendFile(sampleLine(sample));
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
  /** Plans besides the full cache; their names name the methods. */
  readonly plans: readonly CachePlan[];
  readonly choice: SampleChoice;
  /** File of samples instead of a choice. */
  readonly samplesPath: string | undefined;
  /** Result file; replies in it are not made again. */
  readonly out: string;
  /** Memory of the engine, in bytes. */
  readonly memoryBytesMax: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Runs samples under the full cache and each plan. @returns how many replies were made */
export async function runEvaluation(request: RunRequest): Promise<number> {
  const { modelPath, plans, samplesPath, out, memoryBytesMax, signal, onProgress } = request;
  const source = await openFileSource(modelPath);
  const loaded = await loadEngine({
    source,
    module: await readEngineModule(),
    plans,
    memoryBytesMax,
    // One sequence at a time.
    sequencesMax: 1,
  }).finally(() => source.close());
  const { engine, tokenizer } = loaded;
  try {
    const samples =
      samplesPath === undefined
        ? [...makeSamples(loaded, request.choice)]
        : readSamples(await readFile(samplesPath, "utf8"), samplesPath);
    const series = samplesPath === undefined ? request.choice.series : basename(samplesPath);
    const methods = methodsOf(loaded, plans, basename(modelPath, ".gguf"), series);
    const file = await ResultFile.open(out, methods);
    try {
      return await runSamples({
        engine,
        tokenizer,
        methods,
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
    engine.close();
  }
}

/** The methods of an engine: its plans, the identity plan as the full cache. */
function methodsOf(
  { engine, modelFile, fingerprint }: LoadedEngine,
  plans: readonly CachePlan[],
  model: string,
  series: string,
): RunMethod[] {
  const [identity] = engine.plans;
  if (identity === undefined) throw new Error("the engine has no plans");
  const all = [identityPlan(modelFile.config, identity), ...plans];
  return engine.plans.map((plan, index): RunMethod => {
    const geometry = all[index];
    if (geometry === undefined) throw new Error(`the engine has plan ${index}, which nobody named`);
    const cost = planCost(geometry);
    return {
      plan: plan.index,
      method: index === 0 ? fullMethod : plan.name,
      model,
      modelFingerprint: fingerprint,
      planFingerprint: plan.fingerprint,
      backend: engine.backend,
      bytesPerToken: cost.archiveBytesPerToken,
      denseBytesPerToken: cost.denseBytesPerToken,
      keptFraction: cost.keptFraction,
      series,
    };
  });
}

/** Writes the report of result files. */
export async function writeReport(paths: readonly string[], out: string): Promise<void> {
  await writeFile(out, await reportOf(paths));
}

/** The report of result files. @throws Error that names the file that is refused */
export async function reportOf(paths: readonly string[]): Promise<string> {
  const files = await Promise.all(
    [...paths].sort().map(async (path) => readResults(await readFile(path, "utf8"), path)),
  );
  return renderReport(files);
}
