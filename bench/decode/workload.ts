/**
 * What the benchmark asks of every variant, and what each answers with. A variant runs in a process
 * of its own: it reads a workload from the file that its first argument names, and prints a
 * measurement as its last line.
 */
import { readFileSync } from "node:fs";

/** One prompt, one greedy answer, on one thread. */
export type Workload = {
  /** GGUF file. */
  modelPath: string;
  prompt: string;
  /** The prompt's ids, beginning-of-sequence token included. */
  promptIds: readonly number[];
  /** Tokens to generate, at least 2; end-of-text tokens do not end the answer. */
  generate: number;
  /** Whole runs before the one that counts. */
  warmups: number;
  /** Most memory of the engine, bytes. */
  memoryBytesMax: number;
  /** Bytes for the pure-read loop: as many as one token reads of the file's weights. */
  readBytes: number;
};

/** What one process measured. All times by the clock of the side that waits for the answer. */
export type Measurement = {
  /** From the start of the prompt until the first token is there, milliseconds. */
  prefillMs: number;
  /** From the first token until the last, milliseconds: `generate - 1` steps. */
  decodeMs: number;
  /** The answer's ids; a peer that gives only text has none. */
  tokens?: readonly number[];
  /** The answer's text, where there are no ids. */
  text?: string;
  /** Tokens that the peer counted in the prompt, where it makes its own ids. */
  promptTokens?: number;
  /** Bytes of weights that a decoded row reads in this engine's own layout. */
  weightBytesPerRow?: number;
  /** Pure-read loop, bytes a second, in the same process and runtime. */
  readBytesPerSecond?: number;
  /** Version of runtime and engine. */
  version: string;
};

/** Runs a variant's `measure` as its process: workload in, measurement out, then exits. */
export async function runVariant(
  measure: (workload: Workload) => Promise<Measurement>,
): Promise<void> {
  const path = process.argv[2];
  if (path === undefined) throw new Error("the workload's path is missing");
  const workload = JSON.parse(readFileSync(path, "utf8")) as Workload;
  const measurement = await measure(workload);
  // Peers keep handles open; what matters has been written when the callback comes.
  process.stdout.write(`\n${JSON.stringify(measurement)}\n`, () => process.exit(0));
}
