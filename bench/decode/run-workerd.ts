/**
 * Variant `workerd`: the same module in the Workers runtime, through worker.ts. Times include one HTTP
 * request on loopback each for prompt and answer; how long an empty one takes is reported beside.
 */
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { readLoopModule, readPasses, wholeTurns } from "./read-loop.js";
import { runVariant } from "./workload.js";
import type { Measurement, Workload } from "./workload.js";

const startMsMax = 120_000;
const requestMsMax = 300_000;
const require = createRequire(import.meta.url);

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts `wrangler dev` in a process group of its own; `stop` ends all of it. */
async function startWorker(): Promise<{ url: string; stop: () => void }> {
  const [port, inspectorPort] = [await freePort(), await freePort()];
  const bin = join(dirname(require.resolve("wrangler/package.json")), "bin", "wrangler.js");
  const config = fileURLToPath(new URL("wrangler.toml", import.meta.url));
  const child = spawn(
    process.execPath,
    [
      ...[bin, "dev", "--config", config, "--ip", "127.0.0.1", "--port", String(port)],
      ...["--inspector-port", String(inspectorPort), "--log-level", "warn"],
      "--show-interactive-dev-session=false",
    ],
    {
      detached: true,
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, CI: "1", WRANGLER_SEND_METRICS: "false" },
    },
  );
  const stop = (): void => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, "SIGKILL");
  };
  const url = `http://127.0.0.1:${port}`;
  const deadline = performance.now() + startMsMax;
  for (;;) {
    try {
      if ((await fetch(`${url}/nothing`)).ok) return { url, stop };
    } catch {
      // Not listening yet.
    }
    if (performance.now() > deadline || child.exitCode !== null) {
      stop();
      throw new Error(`wrangler dev does not answer within ${startMsMax} ms`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

type Timed<T> = { value: T; ms: number };

async function measure(workload: Workload): Promise<Measurement> {
  const readLoopPath = new URL("../../.cache/decode/read-loop.wasm", import.meta.url);
  mkdirSync(new URL(".", readLoopPath), { recursive: true });
  writeFileSync(readLoopPath, readLoopModule(workload.readBytes));
  const { url, stop } = await startWorker();
  try {
    const ask = async <T>(path: string, body: BodyInit): Promise<Timed<T>> => {
      const start = performance.now();
      const signal = AbortSignal.timeout(requestMsMax);
      const headers = { "memory-bytes-max": String(workload.memoryBytesMax) };
      const response = await fetch(`${url}${path}`, { method: "POST", headers, body, signal });
      if (!response.ok) throw new Error(`${path} answers ${response.status}`);
      const value = (await response.json()) as T;
      return { value, ms: performance.now() - start };
    };
    type Answer = { tokens: number[] };
    const { value: model } = await ask<{ weightBytesPerRow: number }>(
      "/load",
      readFileSync(workload.modelPath),
    );
    const prompt = JSON.stringify(workload.promptIds);
    const rest = String(workload.generate - 1);
    for (let i = 0; i < workload.warmups; i++) {
      await ask<Answer>("/prefill", prompt);
      await ask<Answer>("/decode", rest);
    }
    const empty: number[] = [];
    for (let i = 0; i < 10; i++) empty.push((await ask<object>("/nothing", "")).ms);
    const emptyMs = Math.min(...empty).toFixed(1);
    const prefill = await ask<Answer>("/prefill", prompt);
    const decode = await ask<Answer>("/decode", rest);
    const bytes = wholeTurns(workload.readBytes);
    const passes = JSON.stringify({ bytes, passes: readPasses });
    await ask<object>("/read", passes);
    const read = await ask<object>("/read", passes);
    const { version } = require("workerd/package.json") as { version: string };
    return {
      prefillMs: prefill.ms,
      decodeMs: decode.ms,
      tokens: [...prefill.value.tokens, ...decode.value.tokens],
      weightBytesPerRow: model.weightBytesPerRow,
      readBytesPerSecond: (1000 * bytes * readPasses) / read.ms,
      version: `leanedge in workerd ${version} (an empty request takes ${emptyMs} ms)`,
    };
  } finally {
    stop();
  }
}

await runVariant(measure);
