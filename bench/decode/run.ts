/** Runs a case: all rounds, each variant in a fresh process, every answer judged. */
import { memoryBytesDefault } from "../../src/engine/wasm/wasm-engine.js";
import { alternate, runChild } from "../support/child.js";
import { Judge } from "../support/judge.js";
import { fileBytesPerToken, modelPath } from "../support/models.js";
import { promptOf, tokenizerOf } from "../support/prompt.js";
import { digits } from "../support/stats.js";
import type { Case, Lengths, VariantName, VariantPlan } from "./cases.js";
import type { Measurement, Task, Workload } from "./workload.js";

const scripts: Readonly<Record<VariantName, URL>> = {
  node: new URL("run-node.ts", import.meta.url),
  workerd: new URL("run-workerd.ts", import.meta.url),
  wllama: new URL("run-wllama.ts", import.meta.url),
  "llama.cpp": new URL("run-llama-cpp.ts", import.meta.url),
};

/** One variant's rounds, in the order in which they ran. */
export type VariantRounds = { plan: VariantPlan; rounds: readonly Measurement[] };

/** What a case measured. */
export type CaseResult = {
  case: Case;
  /** Bytes of weights in the file that one decoded token reads. */
  fileBytesPerToken: number;
  variants: readonly VariantRounds[];
};

/**
 * Prompt tokens a second of one round in column `column` of `prompts`; undefined where that prompt was
 * not read.
 */
export function prefillSpeed(
  prompts: readonly number[],
  plan: VariantPlan,
  measurement: Measurement,
  column: number,
): number | undefined {
  const tokens = prompts[column];
  const ran = plan.tasks.slice(0, column).filter((task) => task !== undefined).length;
  const times = measurement.tasks[ran];
  if (tokens === undefined || times === undefined || plan.tasks[column]?.prompt !== tokens) {
    return undefined;
  }
  return (1000 * tokens) / times.prefillMs;
}

/** Generated tokens a second of one round, the first one left out: it belongs to the prompt. */
export function decodeSpeed(plan: VariantPlan, measurement: Measurement): number {
  const [lengths] = plan.tasks;
  const [times] = measurement.tasks;
  if (lengths === undefined || times === undefined) throw new Error("nothing was decoded");
  return (1000 * (lengths.generate - 1)) / times.decodeMs;
}

/** Bytes of weights that decode steps of a model read, as `fileBytesPerToken` of its file. */
export function readBytesOf(benchCase: Case): number {
  return fileBytesPerToken(modelPath(benchCase.model));
}

/** Runs a case. `workerBundle` is the folder that bundle.ts filled; `deadlineMs` as for `alternate`. */
export async function runCase(
  benchCase: Case,
  workerBundle: string,
  log: (line: string) => void,
  deadlineMs?: number,
): Promise<CaseResult> {
  const { model, prompts } = benchCase;
  const path = modelPath(model);
  const tokenizer = await tokenizerOf(path);
  const taskOf = ({ prompt, generate }: Lengths): Task => ({
    ...promptOf(tokenizer, prompt),
    generate,
  });
  const readBytes = fileBytesPerToken(path);
  const judge = new Judge(path);
  const results = new Map<VariantName, Measurement[]>();
  await alternate(
    benchCase.variants,
    async (plan, round) => {
      const { check } = plan;
      const checkTask = taskOf(check);
      const tasks = plan.tasks
        .filter((task) => task !== undefined)
        .filter(({ roundsMax = Infinity }) => round < roundsMax);
      const workload: Workload = {
        modelPath: path,
        check: checkTask,
        tasks: tasks.map(taskOf),
        // The host's default, and more only for models that no Worker could hold.
        memoryBytesMax: Math.max(memoryBytesDefault, 2 * readBytes),
        contextTokens: Math.max(
          ...[check, ...tasks].map(({ prompt, generate }) => prompt + generate + 1),
        ),
        readBytes,
        threads: 1,
        workerBundle,
      };
      const measurement = await runChild<Measurement>(scripts[plan.name], workload);
      if (measurement.checked.length !== check.generate) {
        throw new Error(
          `${plan.name} gives ${measurement.checked.length} of ${check.generate} ids`,
        );
      }
      judge.check(`${plan.name}, ${model}`, checkTask.ids, measurement.checked);
      results.set(plan.name, [...(results.get(plan.name) ?? []), measurement]);
      const prefill = plan.tasks
        .map((_, column) => prefillSpeed(prompts, plan, measurement, column))
        .map((speed) => (speed === undefined ? "-" : digits(speed)));
      log(
        `decode, ${model}, ${plan.name}: prefill ${prefill.join(" and ")}, ` +
          `decode ${digits(decodeSpeed(plan, measurement))} tok/s`,
      );
    },
    deadlineMs,
  );
  return {
    case: benchCase,
    fileBytesPerToken: readBytes,
    variants: benchCase.variants.map((plan) => ({ plan, rounds: results.get(plan.name) ?? [] })),
  };
}
