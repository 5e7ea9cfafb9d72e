/** Variant `llama.cpp`: native, through node-llama-cpp's prebuilt module, one thread. */
import { LlamaCpp } from "../../test/peers/llama-cpp.js";
import { runVariant } from "./workload.js";
import type { Measurement, Workload } from "./workload.js";

async function measure(workload: Workload): Promise<Measurement> {
  const { promptIds, generate, warmups } = workload;
  const peer = await LlamaCpp.load(workload.modelPath, {
    contextTokens: promptIds.length + generate,
    flashAttention: true,
  });
  for (let i = 0; i < warmups; i++) await peer.greedy(promptIds, generate);
  let first = 0;
  const start = performance.now();
  const tokens = await peer.greedy(promptIds, generate, () => {
    first ||= performance.now();
  });
  const end = performance.now();
  return {
    prefillMs: first - start,
    decodeMs: end - first,
    tokens,
    version: `node-llama-cpp ${await peer.version()}`,
  };
}

await runVariant(measure);
