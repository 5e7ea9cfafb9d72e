/** One prompt and one greedy answer on an engine: what the node and workerd variants both time. */
import type { Engine, SequenceHandle } from "../../src/engine/engine.js";

/** Rows x layers of one step: a benchmark's prompt goes through in one. */
const workMax = 10_000_000;

/** One greedy answer in the making. */
export class EngineRun {
  readonly #engine: Engine;
  readonly #sequence: SequenceHandle;

  /**
   * @param engine must compute on the calling thread
   * @param sequence what goes on; unset: a new sequence under the identity plan
   */
  constructor(engine: Engine, sequence = engine.createSequence()) {
    this.#engine = engine;
    this.#sequence = sequence;
  }

  /** The engine's handle. */
  get sequence(): SequenceHandle {
    return this.#sequence;
  }

  /** Reads the prompt and gives the first token. */
  prefill(promptIds: readonly number[]): number {
    this.#engine.append(this.#sequence, "prompt", promptIds);
    return this.#step();
  }

  /** Gives `count` more tokens. */
  decode(count: number): number[] {
    return Array.from({ length: count }, () => this.#step());
  }

  /** Forgets the sequence. */
  end(): void {
    this.#engine.freeSequence(this.#sequence);
  }

  #step(): number {
    const entry = { sequence: this.#sequence, workMax, sample: true };
    const [result] = this.#engine.stepSync?.([entry]) ?? [];
    if (result?.error !== undefined) throw result.error;
    if (result?.token === undefined) throw new Error("the engine drew no token");
    return result.token;
  }
}
