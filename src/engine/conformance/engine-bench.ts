/** Engines over random models, and what tests do with them again and again. */
import { onTestFinished } from "vitest";
import { randomModelBytes, type ModelSpec } from "../../../test/oracle/random-model.js";
import { SeededRandom } from "../../../test/oracle/random.js";
import { tinyModel } from "../../../test/support/tiny-model.js";
import type { NativePaths } from "../cuda/addon.js";
import { NativeBoundary } from "../cuda/native-boundary.js";
import {
  greedySampling,
  type Engine,
  type LogSegment,
  type Sampling,
  type SequenceHandle,
} from "../engine.js";
import { memorySource } from "../gguf/memory-source.js";
import { readModelFile } from "../gguf/model-file.js";
import { isThreaded } from "../wasm/threads.js";
import { BoundaryEngine } from "../boundary/boundary-engine.js";
import { loadWasmEngine, type WasmEngineOptions } from "../wasm/wasm-engine.js";

export { tinyModel };

/** Rows x layers that no test exceeds. */
export const allWork = 1 << 20;

/** Memory for a tiny model and a dozen sequences. */
export const benchMemoryBytes = 24 * 1024 * 1024;

/** Zones so small that short logs have pages. */
export const smallZones = { sink: 4, recent: 32 } as const;

/** Greedy. */
export const greedy = greedySampling;

/** Draws among many tokens. */
export const lively: Sampling = { ...greedy, temperature: 1.2, topK: 40, topP: 0.95, seed: 77n };

/** What a suite runs on: a WASM module, or a native library. */
export type SuiteModule = WebAssembly.Module | NativePaths;

/** Whether it is a native library. */
export function isNative(module: SuiteModule): module is NativePaths {
  return "library" in module;
}

/** Loads a random model. */
export async function openEngine(
  module: SuiteModule,
  spec: ModelSpec,
  options: Partial<WasmEngineOptions> = {},
): Promise<BoundaryEngine> {
  return openEngineOf(module, randomModelBytes(spec), options);
}

/** Threads of a threaded module's engines. */
const benchThreads = 2;

/**
 * Loads a model file that is in memory. A threaded module computes on two threads, a native library on one of
 * its own; call it within a test then, whose end is the engine's.
 */
export async function openEngineOf(
  module: SuiteModule,
  file: Uint8Array,
  options: Partial<WasmEngineOptions> = {},
): Promise<BoundaryEngine> {
  const source = memorySource(file);
  if (isNative(module)) {
    const boundary = await NativeBoundary.open(module, options.memoryBytesMax ?? benchMemoryBytes);
    const modelFile = await readModelFile(source);
    const engine = await BoundaryEngine.load(boundary, {
      source,
      modelFile,
      ...smallZones,
      ...options,
    });
    onTestFinished(() => {
      engine.close();
    });
    return engine;
  }
  const threaded = isThreaded(module);
  const engine = await loadWasmEngine({
    module,
    threads: threaded ? benchThreads : 1,
    source,
    modelFile: await readModelFile(source),
    memoryBytesMax: benchMemoryBytes,
    ...smallZones,
    ...options,
  });
  if (threaded) {
    onTestFinished(() => {
      engine.close();
    });
  }
  return engine;
}

/** A new sequence that holds `log`. */
export function openSequence(
  engine: Engine,
  log: readonly LogSegment[],
  sampling: Sampling = greedy,
  plan = 0,
): SequenceHandle {
  const sequence = engine.createSequence(plan);
  for (const { kind, ids } of log) engine.append(sequence, kind, ids);
  engine.setSampling(sequence, sampling);
  return sequence;
}

/** What one drawn token left behind. */
export interface Drawn {
  readonly token: number;
  readonly logprob: number;
  /** Bits of the logits that it was drawn from. */
  readonly logits: Uint32Array;
}

/** Draws one token, in steps of `workMax`. */
export async function draw(
  engine: Engine,
  sequence: SequenceHandle,
  workMax = allWork,
): Promise<Drawn> {
  for (;;) {
    const [result] = await engine.step([{ sequence, workMax, sample: true }]);
    if (result === undefined) throw new RangeError("a step of one entry has no result");
    if (result.error !== undefined) throw result.error;
    if (result.token === undefined) {
      if (result.workDone === 0) throw new RangeError("a step did nothing");
      continue;
    }
    return {
      token: result.token,
      logprob: result.logprob,
      logits: new Uint32Array(engine.logits(sequence).buffer),
    };
  }
}

/** Draws `count` tokens. */
export async function drawMany(
  engine: Engine,
  sequence: SequenceHandle,
  count: number,
): Promise<Drawn[]> {
  const drawn: Drawn[] = [];
  while (drawn.length < count) drawn.push(await draw(engine, sequence));
  return drawn;
}

/** Random ids of the tiny model. */
export function randomIds(count: number, seed: number): number[] {
  const random = new SeededRandom(seed);
  return Array.from({ length: count }, () => random.below(tinyModel.vocabulary));
}

/** Prompts of a session's turns: 3 to 20 ids each. */
export function turnPrompts(turns: number, seed: number): number[][] {
  const random = new SeededRandom(seed);
  return Array.from({ length: turns }, (_, turn) => randomIds(3 + random.below(18), seed + turn));
}

/** Tokens that each turn of playTurns draws. */
export const answerTokens = 9;

/** Plays a session: a prompt, an answer, and so on. Returns the log as it grew. */
export async function playTurns(
  engine: Engine,
  sequence: SequenceHandle,
  prompts: readonly (readonly number[])[],
): Promise<LogSegment[]> {
  const log: LogSegment[] = [];
  for (const ids of prompts) {
    engine.append(sequence, "prompt", ids);
    const drawn = await drawMany(engine, sequence, answerTokens);
    log.push({ kind: "prompt", ids }, { kind: "generated", ids: drawn.map(({ token }) => token) });
  }
  return log;
}
