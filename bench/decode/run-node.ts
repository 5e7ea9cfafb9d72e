/** Variant `node`: the prebuilt WASM module in Node, on the main thread. */
import { loadEngine } from "../../src/engine/load-engine.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readEngineModule } from "../../src/engine/wasm/node-module.js";
import { runAsChild } from "../support/child.js";
import { EngineRun } from "../support/engine-run.js";
import { measureReads } from "../support/read-loop.js";
import type { Measurement, TaskTimes, Workload } from "./workload.js";

/** Only the relaxed module has a probe of its own arithmetic. */
function moduleName(module: WebAssembly.Module): string {
  const isRelaxed = WebAssembly.Module.exports(module).some(({ name }) => name === "lew_probe");
  return isRelaxed ? "relaxed" : "simd128";
}

async function measure(workload: Workload): Promise<Measurement> {
  const source = await openFileSource(workload.modelPath);
  const { check, memoryBytesMax, contextTokens, threads } = workload;
  const module = await readEngineModule("wasm", threads);
  const { engine } = await loadEngine({
    ...{
      source,
      module,
      memoryBytesMax,
      contextTokensMax: contextTokens,
      sequencesMax: 1,
      threads,
    },
  });
  await source.close();
  const warm = new EngineRun(engine);
  const checked = [warm.prefill(check.ids), ...warm.decode(check.generate - 1)];
  warm.end();
  const tasks = workload.tasks.map(({ ids, generate }): TaskTimes => {
    const run = new EngineRun(engine);
    const start = performance.now();
    run.prefill(ids);
    const first = performance.now();
    run.decode(generate - 1);
    const end = performance.now();
    run.end();
    return { prefillMs: first - start, decodeMs: end - first };
  });
  return {
    checked,
    tasks,
    weightBytesPerRow: engine.stats().weightBytesPerRow,
    readBytesPerSecond: await measureReads(workload.readBytes),
    version: `leanedge (${moduleName(module)}) in Node ${process.versions.node}, V8 ${process.versions.v8}`,
  };
}

await runAsChild(measure);
