/**
 * Variant `workerd`: the same module in the Workers runtime, through worker.ts. Times include one HTTP
 * request on loopback each for prompt and answer; how long an empty one takes is reported beside.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { serveBundle } from "../../test/support/workerd.js";
import { runAsChild } from "../support/child.js";
import { readPasses, wholeTurns } from "../support/read-loop.js";
import type { Measurement, TaskTimes, Workload } from "./workload.js";

const requestMsMax = 300_000;
const require = createRequire(import.meta.url);

type Timed<T> = { value: T; ms: number };

async function measure(workload: Workload): Promise<Measurement> {
  const server = await serveBundle(workload.workerBundle, {
    compatibilityDate: "2026-10-20",
    compatibilityFlags: [],
    vars: {},
  });
  try {
    const ask = async <T>(path: string, body: BodyInit): Promise<Timed<T>> => {
      const start = performance.now();
      const response = await fetch(`${server.url}${path}`, {
        method: "POST",
        headers: {
          "memory-bytes-max": String(workload.memoryBytesMax),
          "context-tokens": String(workload.contextTokens),
        },
        body,
        signal: AbortSignal.timeout(requestMsMax),
      });
      if (!response.ok) throw new Error(`${path} answers ${response.status}`);
      const value = (await response.json()) as T;
      return { value, ms: performance.now() - start };
    };
    const { value: model } = await ask<{ weightBytesPerRow: number; module: string }>(
      "/load",
      readFileSync(workload.modelPath),
    );
    const { check } = workload;
    const { value: first } = await ask<number[]>("/prefill", JSON.stringify(check.ids));
    const { value: rest } = await ask<number[]>("/decode", String(check.generate - 1));
    const empty: number[] = [];
    for (let i = 0; i < 10; i++) empty.push((await ask<object>("/nothing", "")).ms);
    const tasks: TaskTimes[] = [];
    for (const { ids, generate } of workload.tasks) {
      const { ms: prefillMs } = await ask<number[]>("/prefill", JSON.stringify(ids));
      const { ms: decodeMs } = await ask<number[]>("/decode", String(generate - 1));
      tasks.push({ prefillMs, decodeMs });
    }
    const bytes = wholeTurns(workload.readBytes);
    const passes = readPasses(bytes);
    const order = JSON.stringify({ bytes, passes });
    await ask<number>("/read", order);
    const read = await ask<number>("/read", order);
    const { version } = require("workerd/package.json") as { version: string };
    return {
      checked: [...first, ...rest],
      tasks,
      weightBytesPerRow: model.weightBytesPerRow,
      readBytesPerSecond: (1000 * bytes * passes) / read.ms,
      version: `leanedge (${model.module}) in workerd ${version} (an empty request takes ${Math.min(...empty).toFixed(1)} ms)`,
    };
  } finally {
    await server.stop();
  }
}

await runAsChild(measure);
