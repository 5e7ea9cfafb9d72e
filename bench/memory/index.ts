/** What a long prompt takes beside its pages. See README.md beside this file. */
import { runChild } from "../support/child.js";
import type { Figure } from "../support/figures.js";
import { modelPath } from "../support/models.js";
import { dense, prunedChoices } from "../support/plans.js";
import type { PlanChoice } from "../support/plans.js";
import type { BenchOptions, Section } from "../support/section.js";
import { mebibytes } from "../support/stats.js";
import type { PromptMemory, PromptWorkload } from "./run-prompt.js";

/** Beyond the sequence's own cache, in MiB. */
const besideMax = 6;
const script = new URL("run-prompt.ts", import.meta.url);

/** Everything that was there for the prompt beside its cache: scratch, and transient cache memory. */
function beside({ cacheBytes, cacheBytesPeak, scratchBytes }: PromptMemory): number {
  return scratchBytes + cacheBytesPeak - cacheBytes;
}

/** Runs one prompt under the dense plan and under a pruned one; bytes do not vary, so once. */
export async function runMemory({ tiny, log }: BenchOptions): Promise<Section> {
  const size = tiny
    ? { modelPath: modelPath("tiny-f16"), tokens: 600 }
    : { modelPath: modelPath("embedded"), tokens: 4096 };
  const rows: { choice: PlanChoice; memory: PromptMemory }[] = [];
  for (const choice of [dense, ...prunedChoices.filter(({ storage }) => storage === "int4")]) {
    const workload: PromptWorkload = { ...size, tiny, choice };
    const memory = await runChild<PromptMemory>(script, workload);
    rows.push({ choice, memory });
    log(`memory, ${choice.name}: ${mebibytes(beside(memory))} MiB beside the cache`);
  }
  return {
    name: "memory",
    markdown: [
      `A prompt of ${size.tokens} tokens, ${tiny ? "the tiny model" : "the embedded model"}; MiB beside weights and module.`,
      [
        "| plan | pages, sink and recent | cache in use at most | scratch | peak beside pages |",
        "| --- | --- | --- | --- | --- |",
        ...rows.map(({ choice, memory }) => {
          const { cacheBytes, cacheBytesPeak, scratchBytes } = memory;
          const cells = [cacheBytes, cacheBytesPeak, scratchBytes, beside(memory)].map(mebibytes);
          return `| ${choice.name} | ${cells.join(" | ")} |`;
        }),
      ].join("\n"),
    ].join("\n\n"),
    figures: rows.map(({ choice, memory }): Figure => ({
      name: `peak memory of a prompt of ${size.tokens} tokens, ${choice.name}, beside its pages`,
      measured: beside(memory) / (1024 * 1024),
      ...{ bound: besideMax, sense: "at most", unit: "MiB" },
    })),
    images: new Map(),
  };
}
