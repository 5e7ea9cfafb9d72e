/** `leanedge eval`: what compression costs. Makes samples, runs them, writes tables. */
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { InvalidArgumentError, Option, type Command } from "commander";
import { embeddedFile } from "../embedded-model.js";
import type { EngineChoice } from "../eval/index.js";
import { checkPlansFit, fittingPlans, readPlan, type PlanFile } from "./plan-files.js";
import { packagePath } from "./repository.js";

/** Flags of `eval samples` and `eval run` that choose samples. */
interface ChoiceFlags {
  readonly tasks?: readonly string[];
  readonly lengths?: readonly number[];
  readonly distances?: readonly number[];
  readonly count?: number;
  readonly series?: string;
}

interface ModelFlags extends ChoiceFlags {
  readonly model: string;
  readonly out: string;
}

interface SamplesFlags extends ModelFlags {
  readonly segments: boolean;
}

interface RunFlags extends ModelFlags {
  readonly plan: readonly string[];
  readonly plans: readonly string[];
  readonly method: readonly string[];
  readonly samples?: string;
  readonly engine: "wasm" | "cuda";
  readonly cudaAddon?: string;
  readonly library?: string;
  readonly memory?: number;
  readonly batch?: number;
  readonly window?: number;
}

const plansFolder = "models";
/** Memory of an engine where no option says it, in MiB; a GPU answers that many sequences at once. */
const engineDefaults = {
  wasm: { memory: 1_024, batch: 1 },
  cuda: { memory: 8_192, batch: 64 },
} as const;
const reportFolder = "docs/evaluation";

/** What the training package leaves beside plans. */
const notPlans: ReadonlySet<string> = new Set(["scores.json", "report.json"]);

/** Most samples of one task and length. */
const countMax = 100_000;

/** Progress is told this often, in milliseconds, where it is told by lines. */
const progressMs = 10_000;

function names(text: string): string[] {
  return text.split(",");
}

function numbers(lowest: number, highest: number): (text: string) => number[] {
  return (text) =>
    text.split(",").map((part) => {
      const value = Number(part);
      if (!Number.isInteger(value) || value < lowest || value > highest) {
        throw new InvalidArgumentError(`"${part}" is not a whole number: ${lowest} to ${highest}.`);
      }
      return value;
    });
}

/** Adds the commands to the program. */
export function addEvalCommands(
  program: Command,
  wholeNumber: (what: string, highest: number) => (text: string) => number,
): void {
  const evaluation = program
    .command("eval")
    .description("measure what cache plans cost in answers");
  const chooses = (command: Command): Command =>
    command
      .option("--model <file>", "model file, or the name of a fetched model", embeddedFile)
      .option("--tasks <names>", "tasks, by commas (default: all, and session)", names)
      .option(
        "--lengths <tokens>",
        "by commas, reply included (default 1024,2048,4096)",
        numbers(256, 32_768),
      )
      .option(
        "--distances <turns>",
        "of the session test, by commas (default 1,2,5,10,20,30,40,50,60)",
        numbers(1, 60),
      )
      .option(
        "--count <n>",
        "samples of each task and length (default 10)",
        wholeNumber("a count", countMax),
      )
      .option("--series <name>", "other names give other samples (default leanedge)");
  chooses(evaluation.command("samples").description("write samples to a file"))
    .requiredOption("--out <file>", "JSON lines to write")
    .option(
      "--segments",
      "keep the turns of sessions apart (the reference evaluator reads no such file)",
      false,
    )
    .action((flags: SamplesFlags) => samples(flags));
  chooses(
    evaluation
      .command("run")
      .description(
        "answer samples under the full cache and other methods; goes on where it was stopped",
      ),
  )
    .requiredOption("--out <file>", "result file, JSON lines")
    .option(
      "--method <names>",
      "methods, by commas (may be repeated): leank-70, leank-70+k4+v4, think-70, quest-16 ...",
      (list: string, before: readonly string[]) => [...before, ...names(list)],
      [],
    )
    .option(
      "--plans <folder>",
      `folder of plans that methods may name (may be repeated; default ${plansFolder})`,
      (folder: string, before: readonly string[]) => [...before, folder],
      [],
    )
    .option(
      "--plan <file>",
      "cache plan: a method by its own name (may be repeated)",
      (file: string, before: readonly string[]) => [...before, file],
      [],
    )
    .option("--samples <file>", "samples of a file, instead of those that the options choose")
    .addOption(
      new Option("--engine <name>", "what computes").choices(["wasm", "cuda"]).default("wasm"),
    )
    .option("--cuda-addon <file>", "addon of the cuda engine (default: LEANEDGE_CUDA_ADDON)")
    .option(
      "--library <file>",
      "library with the cuda engine (default: libleanedge_cuda.so beside the addon)",
    )
    .option(
      "--memory <MiB>",
      "memory of an engine, weights included; each seven methods have one (default 1024, with cuda 8192)",
      wholeNumber("a size in MiB", 4_000_000),
    )
    .option(
      "--batch <n>",
      "samples that an engine answers side by side (default 1, with cuda 64)",
      wholeNumber("a number of samples", 256),
    )
    .option(
      "--window <tokens>",
      "longest context; beyond the model's window it extrapolates (default: its window)",
      wholeNumber("a number of tokens", 1_048_576),
    )
    .action((flags: RunFlags) => run(flags));
  evaluation
    .command("pack <files...>")
    .description(
      "put result files of one model and series into one to commit, without the replies' words",
    )
    .requiredOption("--out <file>", "packed result file, NAME.jsonl.gz")
    .option("--model-name <name>", "what the model is called there (default: as in the files)")
    .action(async (files: readonly string[], flags: { out: string; modelName?: string }) => {
      const { packResults } = await import("../eval/index.js");
      console.log(
        `${await packResults(files, flags.out, flags.modelName)} results in ${flags.out}`,
      );
    });
  evaluation
    .command("report")
    .description("write tables and charts from result files")
    .option(
      "--folder <folder>",
      "has results/*.jsonl, plans/*.json and masks/*.json; gets results.md and images/*.svg",
      reportFolder,
    )
    .action(({ folder }: { folder: string }) => report(folder));
}

async function modelPath(model: string): Promise<string> {
  if (model === embeddedFile) return packagePath(embeddedFile);
  const { resolveModel } = await import("../pull/index.js");
  return (await resolveModel(model)).path;
}

async function samples(flags: SamplesFlags): Promise<void> {
  const { choiceDefault, writeSamples } = await import("../eval/index.js");
  const choice = { ...choiceDefault, ...chosen(flags) };
  const count = await writeSamples(await modelPath(flags.model), choice, flags.out, flags.segments);
  console.log(`${count} samples in ${flags.out}`);
}

async function run(flags: RunFlags): Promise<void> {
  const { choiceDefault, runEvaluation } = await import("../eval/index.js");
  const path = await modelPath(flags.model);
  const name = basename(path, ".gguf");
  const own = await Promise.all(flags.plan.map(readPlan));
  await checkPlansFit(own, path, name);
  // Folders may hold plans of several models.
  const found = [...(await fittingPlans(await plansOf(flags.plans), path, name)), ...own];
  const stop = new AbortController();
  const onSignal = (): void => stop.abort(new Error("stopped; the same command goes on from here"));
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  const progress = progressLine(process.stderr);
  try {
    const made = await runEvaluation({
      modelPath: path,
      methods: [...flags.method, ...own.map(({ plan }) => plan.name)],
      plans: new Map(found.map(({ plan }) => [plan.name, plan])),
      choice: { ...choiceDefault, ...chosen(flags) },
      samplesPath: flags.samples,
      out: flags.out,
      engine: await engineOf(flags),
      memoryBytesMax: (flags.memory ?? engineDefaults[flags.engine].memory) * 1024 * 1024,
      batch: flags.batch ?? engineDefaults[flags.engine].batch,
      ...(flags.window === undefined ? {} : { contextTokensMax: flags.window }),
      signal: stop.signal,
      onProgress: progress,
    });
    console.log(`${made} new replies in ${flags.out}`);
  } finally {
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}

/** What computes, found where the flags say. */
async function engineOf({ engine, cudaAddon, library }: RunFlags): Promise<EngineChoice> {
  if (engine === "wasm") return { name: "wasm" };
  const { nativePaths } = await import("../engine/cuda/addon.js");
  return { name: "cuda", paths: nativePaths(cudaAddon, library) };
}

/** Plan files of some folders. */
async function plansOf(folders: readonly string[]): Promise<PlanFile[]> {
  const found: PlanFile[] = [];
  for (const folder of folders.length > 0 ? folders : [packagePath(plansFolder)]) {
    for (const name of (await readdir(folder)).sort()) {
      const isPlan = name.endsWith(".json") && !notPlans.has(name);
      if (isPlan) found.push(await readPlan(join(folder, name)));
    }
  }
  return found;
}

async function report(folder: string): Promise<void> {
  const { writeReport } = await import("../eval/index.js");
  const target = folder === reportFolder ? packagePath(folder) : folder;
  const written = await writeReport(target, packagePath(plansFolder));
  console.log(`${written.length} files in ${target}: ${written.join(", ")}`);
}

function chosen({ tasks, lengths, distances, count, series }: ChoiceFlags): ChoiceFlags {
  return Object.fromEntries(
    Object.entries({ tasks, lengths, distances, count, series }).filter(
      ([, value]) => value !== undefined,
    ),
  );
}

/** Replies so far: redrawn in place on a terminal, a line now and then elsewhere. */
function progressLine(stream: NodeJS.WriteStream): (done: number, total: number) => void {
  const beganMs = performance.now();
  let told = beganMs;
  return (done, total) => {
    const nowMs = performance.now();
    if (!stream.isTTY && done < total && nowMs - told < progressMs) return;
    told = nowMs;
    const seconds = ((nowMs - beganMs) / 1_000).toFixed(0);
    const text = `${done} of ${total} replies, ${seconds} s`;
    stream.write(stream.isTTY ? `\r${text}${done === total ? "\n" : ""}` : `${text}\n`);
  };
}
