/** Two threads against one, in Node. See README.md beside this file. */
import { memoryBytesDefault } from "../../src/engine/wasm/wasm-engine.js";
import type { Measurement, Workload } from "../decode/workload.js";
import { alternate, runChild } from "../support/child.js";
import type { Figure } from "../support/figures.js";
import { Judge } from "../support/judge.js";
import { fileBytesPerToken, modelPath } from "../support/models.js";
import type { ModelName } from "../support/models.js";
import { promptOf, tokenizerOf } from "../support/prompt.js";
import type { BenchOptions, Section } from "../support/section.js";
import { digits, median, rounds } from "../support/stats.js";

/** Decode with two threads, of that with one. */
const ratioMin = 1.6;
const script = new URL("../decode/run-node.ts", import.meta.url);

/** A model with so many threads, and its rounds. */
type Row = { model: ModelName; threads: number; rounds: number; measured: Measurement[] };

async function workloadOf(model: ModelName, tiny: boolean): Promise<Workload> {
  const path = modelPath(model);
  const lengths = tiny ? { prompt: 20, generate: 4 } : { prompt: 127, generate: 64 };
  const prompt = promptOf(await tokenizerOf(path), lengths.prompt);
  const task = { ...prompt, generate: lengths.generate };
  return {
    modelPath: path,
    check: task,
    tasks: [task],
    memoryBytesMax: memoryBytesDefault,
    contextTokens: lengths.prompt + lengths.generate + 1,
    readBytes: fileBytesPerToken(path),
    threads: 1,
    workerBundle: "",
  };
}

function speeds({ measured }: Row, workload: Workload, what: "prefill" | "decode"): number[] {
  const [task] = workload.tasks;
  if (task === undefined) throw new Error("nothing was timed");
  return measured.flatMap(({ tasks }) =>
    tasks.map(({ prefillMs, decodeMs }) =>
      what === "prefill"
        ? (1000 * task.ids.length) / prefillMs
        : (1000 * (task.generate - 1)) / decodeMs,
    ),
  );
}

/** Runs the 26M model on one thread and on two, and its Q4_0 form too if all is wanted. */
export async function runThreads(options: BenchOptions): Promise<Section> {
  const { rounds: count, tiny, full, log } = options;
  const generated: readonly ModelName[] = full ? ["26m-q8_0", "26m-q4_0"] : ["26m-q8_0"];
  const models = tiny ? (["tiny-f16"] as const) : generated;
  const lines: string[] = [];
  const figures: Figure[] = [];
  for (const model of models) {
    const workload = await workloadOf(model, tiny);
    const judge = new Judge(workload.modelPath);
    const one: Row = { model, threads: 1, rounds: count, measured: [] };
    const two: Row = { ...one, threads: 2, measured: [] };
    await alternate(
      [one, two],
      async ({ threads, measured }) => {
        const round = await runChild<Measurement>(script, { ...workload, threads });
        judge.check(`${threads} threads, ${model}`, workload.check.ids, round.checked);
        measured.push(round);
      },
      options.deadlineMs,
    );
    for (const row of [one, two]) {
      const prefill = speeds(row, workload, "prefill");
      const decode = speeds(row, workload, "decode");
      const cells = [
        ...[model, String(row.threads), digits(median(prefill)), digits(median(decode))],
        ...[rounds(prefill), rounds(decode)],
      ];
      lines.push(`| ${cells.join(" | ")} |`);
      log(`threads, ${model}, ${row.threads}: decode ${digits(median(decode))} tok/s`);
    }
    const decoded = (row: Row): number => median(speeds(row, workload, "decode"));
    figures.push({
      name: `decode, ${model}, two threads against one`,
      measured: decoded(two) / decoded(one),
      ...{ bound: ratioMin, sense: "at least", unit: "x" },
    });
  }
  return {
    name: "threads",
    markdown: [
      "| model | threads | prefill, tok/s | decode, tok/s | prefill, each round | decode, each round |",
      "| --- | --- | --- | --- | --- | --- |",
      ...lines,
    ].join("\n"),
    figures,
    images: new Map(),
  };
}
