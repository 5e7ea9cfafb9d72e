/** The engine as the parity tests drive it: one sequence, logits of every position. */
import type { Engine, SequenceHandle } from "../../src/engine/engine.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { loadEngine } from "../../src/engine/load-engine.js";
import type { LoadedEngine } from "../../src/engine/load-engine.js";
import { readEngineModule } from "../../src/engine/wasm/node-module.js";
import { topTwo } from "../oracle/compare.js";
import type { Logits } from "../oracle/oracle.js";

/** Backends that run in Node. */
export const backends = ["reference", "wasm"] as const;
export type NodeBackend = (typeof backends)[number];

/** Enough for SmolLM2-135M and a short conversation. */
const memoryBytesMax = 512 * 1024 * 1024;

/** Rows x layers of one step: no test is longer. */
const workMax = 1_000_000;

/** Zones so small that the tests' sequences fill pages: the identity plan must not show them. */
const zones = { sink: 16, recent: 32 };

/** A model loaded in one backend. */
export class EngineUnderTest {
  readonly loaded: LoadedEngine;
  readonly #engine: Engine;

  private constructor(loaded: LoadedEngine) {
    this.loaded = loaded;
    this.#engine = loaded.engine;
  }

  /** Loads a GGUF file. */
  static async load(path: string, backend: NodeBackend): Promise<EngineUnderTest> {
    const source = await openFileSource(path);
    try {
      const module = await readEngineModule(backend);
      return new EngineUnderTest(
        await loadEngine({ source, module, memoryBytesMax, sequencesMax: 2, ...zones }),
      );
    } finally {
      await source.close();
    }
  }

  /** Logits after every token, computed one step a token: the decode path. */
  async decodeLogits(tokens: readonly number[]): Promise<Logits> {
    const engine = this.#engine;
    const values = new Float64Array(tokens.length * engine.vocabSize);
    const sequence = engine.createSequence();
    for (const [position, token] of tokens.entries()) {
      engine.append(sequence, position === 0 ? "prompt" : "generated", [token]);
      const drawn = await this.#step(sequence);
      const row = Float64Array.from(engine.logits(sequence));
      const best = topTwo(row).token;
      if (drawn !== best) throw new Error(`the engine drew ${drawn}, its best token is ${best}`);
      values.set(row, position * engine.vocabSize);
      // The token that the engine drew is not the one that comes next.
      engine.truncate(sequence, position + 1);
    }
    engine.freeSequence(sequence);
    return { positions: tokens.length, vocabulary: engine.vocabSize, values };
  }

  /** Logits after the last token, computed as one prompt: the prefill path. */
  async prefillLogits(tokens: readonly number[]): Promise<Logits> {
    const sequence = this.#engine.createSequence();
    this.#engine.append(sequence, "prompt", tokens);
    await this.#step(sequence);
    const values = Float64Array.from(this.#engine.logits(sequence));
    this.#engine.freeSequence(sequence);
    return { positions: 1, vocabulary: values.length, values };
  }

  /** The `count` tokens that follow a prompt when the best one is always taken. */
  async greedy(prompt: readonly number[], count: number): Promise<number[]> {
    const sequence = this.#engine.createSequence();
    this.#engine.append(sequence, "prompt", prompt);
    const generated: number[] = [];
    while (generated.length < count) generated.push(await this.#step(sequence));
    this.#engine.freeSequence(sequence);
    return generated;
  }

  async #step(sequence: SequenceHandle): Promise<number> {
    const [result] = await this.#engine.step([{ sequence, workMax, sample: true }]);
    if (result?.error !== undefined) throw result.error;
    if (result?.token === undefined) {
      throw new Error(`no token after ${result?.workDone ?? 0} rows x layers`);
    }
    return result.token;
  }

  /** Ends the engine. */
  close(): void {
    this.#engine.close();
  }
}
