/**
 * The CUDA engine as Node sees it: addon, library and TypeScript against the WASM module in one process, over real
 * model files. Both read the same log; the next token must be the same wherever the WASM module's two best are
 * further apart than the backends' difference explains. Caches go from one to the other.
 *
 *   npx esbuild gpu-worker/device/node-check.ts --bundle --platform=node --format=esm --outfile=node-check.mjs
 *   node node-check.mjs --addon leanedge.node --library libleanedge_cuda.so --wasm leanedge-simd128.wasm
 *     --model FILE [--plan FILE ...] [--memory MiB]
 *
 * Prints each check with its figures, and ends with `N passed, N failed`. Writes node.json and node.md into the folder
 * that OUT names; LEANEDGE_COMMIT and LEANEDGE_KERNELS say what was measured.
 */
import { readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { performance } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { nativePaths } from "../../src/engine/cuda/addon.js";
import { NativeBoundary } from "../../src/engine/cuda/native-boundary.js";
import {
  greedySampling,
  type Engine,
  type LogSegment,
  type Sampling,
  type SequenceHandle,
} from "../../src/engine/engine.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { loadEngine, type LoadedEngine } from "../../src/engine/load-engine.js";
import { parsePlan } from "../../src/engine/plan/parse.js";
import type { CachePlan } from "../../src/engine/plan/plan.js";
import { EngineError } from "../../src/engine/status.js";
import { runHead } from "./run-head.js";

/**
 * RMS difference of log-probabilities. The WASM module rounds activations to int8, the CUDA engine to bf16: two
 * implementations of the former alone differ by up to 0.2 on these models, whose logits deviate by about 3.
 */
const differenceMax = 0.6;
/** Above this margin of the two best logits the token must be the same. */
const marginMin = 2 * differenceMax;
/** RMS difference of log-probabilities of one engine's rows, computed one by one and many at a time. */
const rebuiltMax = 0.2;
const allWork = 1 << 24;
const mebibyte = 1024 * 1024;

const { values: options } = parseArgs({
  options: {
    addon: { type: "string", default: "" },
    library: { type: "string", default: "" },
    wasm: { type: "string", default: "" },
    model: { type: "string", multiple: true, default: [] },
    plan: { type: "string", multiple: true, default: [] },
    memory: { type: "string", default: "2048" },
  },
});
const paths = nativePaths(options.addon, options.library);
const memoryBytesMax = Number(options.memory) * mebibyte;

const lively: Sampling = { ...greedySampling, temperature: 0.8, topK: 40, topP: 0.95, seed: 7n };

let passed = 0;
let failed = 0;
const lines: { readonly check: string; readonly good: boolean; readonly said: string }[] = [];

function described(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

/** Runs a check: what it returns is printed beside its name, what it throws is its failure. */
async function check(name: string, run: () => Promise<string>): Promise<void> {
  try {
    const said = await run();
    passed += 1;
    lines.push({ check: name, good: true, said });
    console.log(`ok   ${name}: ${said}`);
  } catch (error) {
    failed += 1;
    const said = error instanceof Error ? error.message : String(error);
    lines.push({ check: name, good: false, said });
    console.log(`FAIL ${name}: ${described(error)}`);
  }
}

/** Leaves the results in the folder OUT, if there is one. */
async function writeResults(folder: string | undefined): Promise<void> {
  if (folder === undefined || folder === "") return;
  const models = options.model.map((path) => basename(path)).join(" ");
  const head = runHead(`node node-check.mjs ${models}`);
  await writeFile(join(folder, "node.json"), `${JSON.stringify({ head, lines }, null, 1)}\n`);
  const rows = lines.map(
    ({ check, good, said }) => `| ${check} | ${good ? "ok" : "FAIL"} | ${said} |`,
  );
  await writeFile(
    join(folder, "node.md"),
    [
      `# The CUDA engine in Node beside the WASM module, on ${head.device}`,
      "",
      `Date ${head.date}, commit \`${head.commit.slice(0, 12)}\` (kernels \`${head.kernels}\`), driver ${head.driver}, Node ${head.node}.`,
      "",
      "| check | | figures |",
      "| --- | --- | --- |",
      ...rows,
      "",
    ].join("\n"),
  );
}

function expect(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

async function open(
  model: string,
  backend: "cuda" | "wasm",
  plans: readonly CachePlan[],
): Promise<LoadedEngine> {
  const source = await openFileSource(model);
  try {
    const common = { source, plans, sink: 16, recent: 64, sequencesMax: 32 };
    if (backend === "wasm") {
      const module = await WebAssembly.compile(await readFile(options.wasm));
      return await loadEngine({ ...common, module, memoryBytesMax: 512 * mebibyte });
    }
    const boundary = await NativeBoundary.open(paths, memoryBytesMax);
    return await loadEngine({ ...common, boundary, batchRowsMax: 512 });
  } finally {
    await source.close();
  }
}

function openSequence(
  engine: Engine,
  plan: number,
  log: readonly LogSegment[],
  sampling = greedySampling,
): SequenceHandle {
  const sequence = engine.createSequence(plan);
  for (const { kind, ids } of log) engine.append(sequence, kind, ids);
  engine.setSampling(sequence, sampling);
  return sequence;
}

async function draw(engine: Engine, sequence: SequenceHandle): Promise<number> {
  for (;;) {
    const [result] = await engine.step([{ sequence, workMax: allWork, sample: true }]);
    if (result?.error !== undefined) throw result.error;
    if (result?.token !== undefined) return result.token;
  }
}

async function drawMany(
  engine: Engine,
  sequence: SequenceHandle,
  count: number,
): Promise<number[]> {
  const drawn: number[] = [];
  while (drawn.length < count) drawn.push(await draw(engine, sequence));
  return drawn;
}

/** Distance of the two greatest values. */
function margin(logits: Float32Array): number {
  let first = -Infinity;
  let second = -Infinity;
  for (const value of logits) {
    if (value > first) [first, second] = [value, first];
    else if (value > second) second = value;
  }
  return first - second;
}

function best(logits: Float32Array): number {
  return logits.reduce((most, value, i) => (value > (logits[most] ?? -Infinity) ? i : most), 0);
}

/** RMS difference of the log-probabilities of two rows of logits. */
function difference(a: Float32Array, b: Float32Array): number {
  const normaliser = (x: Float32Array): number => {
    const max = x.reduce((most, value) => Math.max(most, value), -Infinity);
    return max + Math.log(x.reduce((sum, value) => sum + Math.exp(value - max), 0));
  };
  const shift = normaliser(a) - normaliser(b);
  const squares = a.reduce((sum, value, i) => sum + (value - (b[i] ?? NaN) - shift) ** 2, 0);
  return Math.sqrt(squares / a.length);
}

/** Both engines draw greedily; the WASM module's tokens are what both logs go on with. */
async function together(
  wasm: Engine,
  cuda: Engine,
  onWasm: SequenceHandle,
  onCuda: SequenceHandle,
  count: number,
): Promise<string> {
  let differ = 0;
  let worst = 0;
  let widest = 0;
  for (let i = 0; i < count; i++) {
    const expected = await draw(wasm, onWasm);
    const got = await draw(cuda, onCuda);
    const logits = wasm.logits(onWasm);
    worst = Math.max(worst, difference(logits, cuda.logits(onCuda)));
    if (got === expected) continue;
    differ += 1;
    const apart = margin(logits);
    widest = Math.max(widest, apart);
    expect(
      apart <= marginMin,
      `token ${i}: ${got}, WASM ${expected}, whose margin is ${apart}; logits differ by ${worst}`,
    );
    const { tokens } = cuda.sequenceStats(onCuda);
    cuda.truncate(onCuda, tokens - 1);
    cuda.append(onCuda, "generated", [expected]);
  }
  expect(worst <= differenceMax, `log-probabilities differ by ${worst} (RMS)`);
  return `${count - differ} of ${count} tokens alike, margins of the others up to ${widest.toFixed(3)}, log-probabilities differ by at most ${worst.toFixed(4)} (RMS)`;
}

async function checkModel(model: string, plans: readonly CachePlan[]): Promise<void> {
  const name = basename(model);
  const loadedWasm = await open(model, "wasm", plans);
  const begun = performance.now();
  const loadedCuda = await open(model, "cuda", plans);
  console.log(`${name}: loaded into the device in ${(performance.now() - begun).toFixed(0)} ms`);
  const wasm = loadedWasm.engine;
  const cuda = loadedCuda.engine;
  console.log(JSON.stringify({ backend: cuda.backend, ...cuda.stats() }));
  const text =
    "Once upon a time there was a little girl who lived in a house near the wood. One day she went out to look for ";
  const words = loadedWasm.tokenizer.encode(text.repeat(12), { parseSpecial: false });
  const most = Math.min(wasm.contextTokensMax, cuda.contextTokensMax) - 200;
  const ids = Array.from(words).slice(0, most);
  for (const { index, name: plan } of wasm.plans) {
    await check(`${name}, plan ${plan}: a prompt of ${ids.length} tokens and an answer`, () => {
      const log = [{ kind: "prompt", ids }] as const;
      return together(
        wasm,
        cuda,
        openSequence(wasm, index, log),
        openSequence(cuda, index, log),
        48,
      );
    });
    for (const [from, to] of [
      [wasm, cuda],
      [cuda, wasm],
    ] as const) {
      await check(`${name}, plan ${plan}: a cache from ${from.backend} to ${to.backend}`, () => {
        const first = openSequence(from, index, [{ kind: "prompt", ids }]);
        return continued(from, to, first, index);
      });
    }
    await check(`${name}, plan ${plan}: a rebuilt cache goes on alike`, async () => {
      const sequence = openSequence(cuda, index, [{ kind: "prompt", ids }], lively);
      await drawMany(cuda, sequence, 20);
      const { tokens } = cuda.sequenceStats(sequence);
      const fork = cuda.fork(sequence, tokens);
      cuda.setSampling(fork, lively);
      cuda.dropCache(fork);
      const [kept, rebuilt] = [await draw(cuda, sequence), await draw(cuda, fork)];
      // Tokens are drawn: whether they are the same depends on how close the draw is to a token's edge.
      const [first, second] = [cuda.logits(sequence), cuda.logits(fork)];
      const apart = difference(first, second);
      const same = best(first) === best(second);
      const said = `log-probabilities differ by ${apart.toFixed(4)} (RMS), best tokens ${best(first)} and ${best(second)}, margin ${margin(first).toFixed(3)}, drawn ${kept} and ${rebuilt}`;
      expect(apart <= rebuiltMax && (same || margin(first) < 2 * rebuiltMax), said);
      cuda.freeSequence(sequence);
      cuda.freeSequence(fork);
      return said;
    });
  }
  await checkSpeed(name, cuda, ids.slice(0, 100));
  for (const engine of [wasm, cuda]) engine.close();
}

async function continued(
  from: Engine,
  to: Engine,
  first: SequenceHandle,
  plan: number,
): Promise<string> {
  await drawMany(from, first, 40);
  const bytes = from.snapshot(first);
  const second = to.restore(plan, bytes);
  to.setSampling(second, greedySampling);
  const [wasm, cuda] = from.backend === "wasm" ? [from, to] : [to, from];
  const [onWasm, onCuda] = from.backend === "wasm" ? [first, second] : [second, first];
  const said = await together(wasm, cuda, onWasm, onCuda, 12);
  from.freeSequence(first);
  to.freeSequence(second);
  return `${bytes.length} bytes; ${said}`;
}

async function checkSpeed(name: string, cuda: Engine, ids: readonly number[]): Promise<void> {
  for (const count of [1, 16]) {
    await check(`${name}: ${count} sequences decode, the event loop turns`, async () => {
      const sequences = Array.from({ length: count }, () =>
        openSequence(cuda, 0, [{ kind: "prompt", ids }]),
      );
      const entries = sequences.map((sequence) => ({ sequence, workMax: allWork, sample: true }));
      for (let i = 0; i < 8; i++) await cuda.step(entries);
      let turns = 0;
      let done = false;
      const turn = (): void => {
        turns += 1;
        if (!done) setTimeout(turn, 1);
      };
      setTimeout(turn, 1);
      const steps = 128;
      const begun = performance.now();
      for (let i = 0; i < steps; i++) {
        const results = await cuda.step(entries);
        for (const { error } of results) if (error !== undefined) throw error;
      }
      const ms = performance.now() - begun;
      done = true;
      for (const sequence of sequences) cuda.freeSequence(sequence);
      expect(turns > ms / 8, `${turns} turns of a timer of 1 ms in ${ms} ms`);
      return `${((count * steps * 1000) / ms).toFixed(0)} tokens/s, ${(ms / steps).toFixed(3)} ms a step, ${turns} turns of a timer of 1 ms`;
    });
  }
}

async function refusal(call: () => Promise<unknown>): Promise<EngineError> {
  try {
    await call();
  } catch (error) {
    if (error instanceof EngineError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

async function checkErrors(model: string): Promise<void> {
  await check("too little memory is a typed error", async () => {
    const source = await openFileSource(model);
    try {
      const boundary = await NativeBoundary.open(paths, mebibyte);
      const error = await refusal(() => loadEngine({ source, boundary }));
      expect(error.status === "outOfMemory", `${error.status}: ${error.message}`);
      return error.message;
    } finally {
      await source.close();
    }
  });
  await check("more memory than the device has is a typed error, or is cut", async () => {
    const source = await openFileSource(model);
    try {
      const boundary = await NativeBoundary.open(paths, 2 ** 40);
      const { engine } = await loadEngine({ source, boundary });
      const { memoryBytesMax: given } = engine.stats();
      engine.close();
      return `${given} bytes`;
    } catch (error) {
      if (!(error instanceof EngineError) || error.status !== "outOfMemory") throw error;
      return `${error.status}: ${error.message}`;
    } finally {
      await source.close();
    }
  });
  await check("an engine opens again after one was closed", async () => {
    const { engine } = await open(model, "cuda", []);
    const sequence = openSequence(engine, 0, [{ kind: "prompt", ids: [1, 2, 3] }]);
    const token = await draw(engine, sequence);
    engine.close();
    return `token ${token}`;
  });
}

const plans = await Promise.all(
  options.plan.map(async (path) =>
    parsePlan(await readFile(path, "utf8"), basename(path, ".json")),
  ),
);
for (const model of options.model) {
  // The plans are those of the first model.
  await checkModel(model, model === options.model[0] ? plans : []).catch((error: unknown) => {
    failed += 1;
    console.log(`FAIL ${basename(model)}: ${described(error)}`);
  });
}
const [first] = options.model;
if (first !== undefined) await checkErrors(first);
await writeResults(process.env["OUT"]);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
