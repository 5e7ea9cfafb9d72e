/** Variant `node`: the prebuilt WASM SIMD module in Node, on the main thread. */
import { loadEngine } from "../../src/engine/load-engine.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readEngineModule } from "../../src/engine/wasm/node-module.js";
import { EngineRun } from "./engine-run.js";
import { readLoopModule, readSpeed, wholeTurns } from "./read-loop.js";
import type { ReadLoop } from "./read-loop.js";
import { runVariant } from "./workload.js";
import type { Measurement, Workload } from "./workload.js";

async function measureReads(bytes: number): Promise<number> {
  const { instance } = await WebAssembly.instantiate(readLoopModule(bytes));
  return readSpeed(instance.exports as unknown as ReadLoop, wholeTurns(bytes));
}

async function measure(workload: Workload): Promise<Measurement> {
  const source = await openFileSource(workload.modelPath);
  const { promptIds, generate, memoryBytesMax } = workload;
  const module = await readEngineModule("wasm");
  const { engine } = await loadEngine({ source, module, memoryBytesMax });
  await source.close();
  for (let i = 0; i < workload.warmups; i++) {
    const warmup = new EngineRun(engine);
    warmup.prefill(promptIds);
    warmup.decode(generate - 1);
    warmup.end();
  }
  const run = new EngineRun(engine);
  const start = performance.now();
  const firstToken = run.prefill(promptIds);
  const first = performance.now();
  const rest = run.decode(generate - 1);
  const end = performance.now();
  return {
    prefillMs: first - start,
    decodeMs: end - first,
    tokens: [firstToken, ...rest],
    weightBytesPerRow: engine.stats().weightBytesPerRow,
    readBytesPerSecond: await measureReads(workload.readBytes),
    version: `leanedge in Node ${process.versions.node}, V8 ${process.versions.v8}`,
  };
}

await runVariant(measure);
