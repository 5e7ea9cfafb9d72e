/**
 * `leanedge eval run` for a machine with a GPU and no npm: result lines of many methods over many samples, on the CUDA
 * engine through the addon.
 *
 *   node eval-run.mjs --addon leanedge.node [--library FILE] --model FILE [--plans FOLDER ...] [--seconds N]
 *     [--memory MiB] [--batch N] --out FOLDER --stage "SAMPLES METHODS [WINDOW]" [--stage ...]
 *
 * A stage has samples, methods by commas (docs/evaluation/README.md; `full` comes by itself, what has no plan is left out) and,
 * where samples are longer than the model's window, the context that it is stretched to. Samples are a file of lines (NAME.jsonl, as `leanedge eval samples`
 * and make_tasks write it), or a choice of them (NAME.json: tasks, lengths, distances, count), which are then made for the
 * model that answers them, by as many processes as there are cores, in the series NAME. Stages run in turn and write into
 * eval-NAME.jsonl; one that fails is told, and the next one runs. What is there already is not made again. When the seconds of a
 * stage are over it ends between two steps: its lines stand, and all methods have answered nearly the same samples.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { appendFile, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { performance } from "node:perf_hooks";
import { parseArgs, promisify } from "node:util";
import { fittingPlans, readPlan, type PlanFile } from "../../src/cli/plan-files.js";
import { nativePaths } from "../../src/engine/cuda/addon.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readModelFile } from "../../src/engine/gguf/index.js";
import type { CacheGeometry, CachePlan } from "../../src/engine/plan/plan.js";
import { parseMethod } from "../../src/eval/methods.js";
import {
  choiceDefault,
  runEvaluation,
  writeSamples,
  type SampleChoice,
} from "../../src/eval/command.js";
import { runHead } from "./run-head.js";

const { values: options } = parseArgs({
  options: {
    addon: { type: "string", default: "" },
    library: { type: "string" },
    model: { type: "string", default: "" },
    plans: { type: "string", multiple: true, default: [] },
    stage: { type: "string", multiple: true, default: [] },
    out: { type: "string", default: "" },
    seconds: { type: "string", default: "480" },
    memory: { type: "string", default: "4096" },
    batch: { type: "string", default: "64" },
    choice: { type: "string" },
  },
});

/** Progress is told this often, in milliseconds. */
const progressMs = 10_000;

/** A part of the run. */
interface Stage {
  readonly samplesPath: string;
  readonly methods: readonly string[];
  readonly window: number | undefined;
}

function stageOf(text: string): Stage {
  const [samplesPath, methods, window, ...rest] = text.trim().split(/\s+/);
  const tokens = Number(window ?? 1);
  if (samplesPath === undefined || methods === undefined || rest.length > 0 || !(tokens >= 1)) {
    throw new Error(`--stage "${text}", "SAMPLES METHODS [WINDOW]" expected`);
  }
  return {
    samplesPath,
    methods: methods.split(","),
    window: window === undefined ? undefined : tokens,
  };
}

/** A stage takes at most this share of the time that is left, so that those behind it have their turn; the last takes all. */
const stageShare = 0.6;
/** Processes that make samples, at most. */
const makersMax = 16;

/** The choice of a file, in the series of its name. */
async function choiceOf(path: string): Promise<SampleChoice> {
  const series = basename(path, ".json");
  const given = JSON.parse(await readFile(path, "utf8")) as Partial<SampleChoice>;
  return { ...choiceDefault, ...given, series };
}

/** Makes the samples of a choice, each process those of some seeds. @returns the file, in `folder` */
async function madeSamples(path: string, folder: string): Promise<string> {
  const choice = await choiceOf(path);
  const beganMs = performance.now();
  const out = join(folder, `${choice.series}.jsonl`);
  if (existsSync(out)) return out;
  const makers = Math.min(makersMax, availableParallelism(), choice.count);
  const each = Math.ceil(choice.count / makers);
  const parts = Array.from({ length: Math.ceil(choice.count / each) }, (_, at) => ({
    out: `${out}.${at}`,
    choice: {
      ...choice,
      firstSeed: (choice.firstSeed ?? 0) + at * each,
      count: Math.min(each, choice.count - at * each),
    },
  }));
  const script = process.argv[1] ?? "";
  await Promise.all(
    parts.map((part) =>
      promisify(execFile)(process.execPath, [
        ...process.execArgv,
        script,
        ...["--model", options.model, "--out", part.out, "--choice", JSON.stringify(part.choice)],
      ]),
    ),
  );
  for (const part of parts) await appendFile(out, await readFile(part.out));
  const seconds = ((performance.now() - beganMs) / 1000).toFixed(1);
  console.log(`${choice.series}: samples by ${parts.length} processes, ${seconds} s`);
  return out;
}

/** Plans of some folders that fit the model, by their names; a later folder's takes an earlier one's place. */
async function plansByName(): Promise<Map<string, CachePlan>> {
  const files: PlanFile[] = [];
  for (const folder of options.plans) {
    for (const name of (await readdir(folder)).sort()) {
      if (name.endsWith(".json")) {
        const file = await readPlan(join(folder, name)).catch(() => undefined);
        if (file !== undefined) files.push(file);
      }
    }
  }
  const fitting = await fittingPlans(files, options.model, basename(options.model, ".gguf"));
  return new Map(fitting.map(({ plan }) => [plan.name, plan]));
}

/** Those of some methods that there are plans for; the others are told. */
function known(
  methods: readonly string[],
  geometry: CacheGeometry,
  plans: ReadonlyMap<string, CachePlan>,
): string[] {
  return methods.filter((method) => {
    try {
      parseMethod(method, geometry, plans);
      return true;
    } catch {
      console.log(`left out ${method}: the model has no such plan`);
      return false;
    }
  });
}

/** Tells replies so far, a line now and then, and how many came a second since the last line. */
function progress(name: string): (done: number, total: number) => void {
  const beganMs = performance.now();
  let toldMs = -Infinity;
  let told = 0;
  return (done, total) => {
    const nowMs = performance.now();
    if (done < total && nowMs - toldMs < progressMs) return;
    const rate = toldMs < beganMs ? 0 : (1000 * (done - told)) / (nowMs - toldMs);
    const seconds = ((nowMs - beganMs) / 1000).toFixed(1);
    console.log(`${name}: ${done} of ${total} replies, ${seconds} s, ${rate.toFixed(1)} a second`);
    toldMs = nowMs;
    told = done;
  };
}

/** All stages. @returns how many failed */
async function runStages(scratch: string): Promise<number> {
  const stages = options.stage.map(stageOf);
  const plans = await plansByName();
  const paths = nativePaths(options.addon, options.library);
  const source = await openFileSource(options.model);
  const { config } = await readModelFile(source).finally(() => source.close());
  const endMs = performance.now() + 1000 * Number(options.seconds);
  console.log(JSON.stringify(runHead(`node eval-run.mjs, ${stages.length} stages`)));
  console.log(`plans: ${[...plans.keys()].join(", ") || "none"}`);
  let passed = 0;
  let failed = 0;
  for (const [index, { samplesPath, window, ...stage }] of stages.entries()) {
    const methods = known(stage.methods, config, plans);
    const name = basename(samplesPath).replace(/\.jsonl?$/, "");
    const leftMs = Math.max(0, endMs - performance.now());
    const stageMs = Math.round(index === stages.length - 1 ? leftMs : stageShare * leftMs);
    const signal = AbortSignal.timeout(stageMs);
    try {
      if (stageMs === 0) throw new Error("no time is left");
      const isChoice = samplesPath.endsWith(".json");
      const made = await runEvaluation({
        modelPath: options.model,
        methods,
        plans,
        choice: choiceDefault,
        samplesPath: isChoice ? await madeSamples(samplesPath, scratch) : samplesPath,
        out: join(options.out, `eval-${name}.jsonl`),
        engine: { name: "cuda", paths },
        memoryBytesMax: Number(options.memory) * 1024 * 1024,
        batch: Number(options.batch),
        ...(window === undefined ? {} : { contextTokensMax: window }),
        signal,
        onProgress: progress(name),
      });
      console.log(`ok   ${name}: ${made} new replies under ${methods.length} methods`);
      passed += 1;
    } catch (error) {
      if (stageMs === 0 || signal.aborted) {
        console.log(`left out the rest of ${name}: its ${(stageMs / 1000).toFixed(0)} s are over`);
        continue;
      }
      failed += 1;
      const said = error instanceof Error ? (error.stack ?? error.message) : String(error);
      console.log(`FAIL ${name}: ${said}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed;
}

if (options.choice !== undefined) {
  await writeSamples(options.model, JSON.parse(options.choice) as SampleChoice, options.out, true);
} else {
  const scratch = await mkdtemp(join(tmpdir(), "leanedge-eval-"));
  const failed = await runStages(scratch).finally(() => rm(scratch, { recursive: true }));
  // The process ends by itself, once engines that were closed have given back their memory.
  process.exitCode = failed > 0 ? 1 : 0;
}
