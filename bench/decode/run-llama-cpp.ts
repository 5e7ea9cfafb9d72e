/** Variant `llama.cpp`: native, through node-llama-cpp's prebuilt module, one thread. */
import { LlamaCpp } from "../../test/peers/llama-cpp.js";
import { runAsChild } from "../support/child.js";
import type { Measurement, TaskTimes, Workload } from "./workload.js";

async function measure(workload: Workload): Promise<Measurement> {
  const { modelPath, contextTokens, check } = workload;
  const peer = await LlamaCpp.load(modelPath, { contextTokens, flashAttention: true });
  const checked = await peer.greedy(check.ids, check.generate);
  const tasks: TaskTimes[] = [];
  for (const { ids, generate } of workload.tasks) {
    let first = 0;
    const start = performance.now();
    await peer.greedy(ids, generate, () => {
      first ||= performance.now();
    });
    tasks.push({ prefillMs: first - start, decodeMs: performance.now() - first });
  }
  return { checked, tasks, version: `node-llama-cpp ${await peer.version()}` };
}

await runAsChild(measure);
