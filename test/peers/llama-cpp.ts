/**
 * llama.cpp as the peer of the engine's tests, through node-llama-cpp's prebuilt CPU module. It is
 * not a dependency of leanedge: `npm run peers` installs it under `bench/peers`, and tests that need
 * it skip by name where it is missing.
 */
import { existsSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Logits } from "../oracle/oracle.js";
import type { Need } from "./peers.js";

const modulePath = fileURLToPath(
  new URL("../../bench/peers/node_modules/node-llama-cpp/dist/index.js", import.meta.url),
);

/** The peer as a test's need. */
export const llamaCpp: Need = { present: existsSync(modulePath), remedy: "needs `npm run peers`" };

/** Positions of a peer's context at most: its cache is allocated whole. */
const contextTokensMax = 2048;

/** Positions whose logits are held at once by `visitLogits`: 100 MB for a vocabulary of 49,152. */
const visitedTokens = 64;

// The parts of node-llama-cpp 3.x that are used here; its own types need it installed.
type PeerOutput = { next: { token?: number | null; logits?: Map<number, number> } };
type PeerInput =
  number | [token: number, options: { generateNext: { logits?: true; token?: true } }];
type PeerSequence = {
  controlledEvaluate(input: readonly PeerInput[]): Promise<(PeerOutput | undefined)[]>;
  clearHistory(): Promise<void>;
};
type PeerContext = { getSequence(): PeerSequence; dispose(): Promise<void> };
type PeerModel = {
  createContext(options: {
    contextSize: number;
    batchSize: number;
    threads: number;
    flashAttention: boolean;
    experimentalKvCacheKeyType: string;
    experimentalKvCacheValueType: string;
  }): Promise<PeerContext>;
  tokenize(text: string, specialTokens: boolean): number[];
  detokenize(tokens: readonly number[], specialTokens: boolean): string;
  dispose(): Promise<void>;
};
type PeerRuntime = { loadModel(options: { modelPath: string }): Promise<PeerModel> };
type PeerModule = {
  getModuleVersion: () => Promise<string>;
  getLlama(options: {
    gpu: false;
    build: "never";
    skipDownload: boolean;
    logLevel: string;
    maxThreads: number;
  }): Promise<PeerRuntime>;
};

/** How the peer runs a model. */
export type LlamaCppOptions = {
  /** Positions to make room for, 1 to 2048. Default 512. */
  contextTokens?: number;
  /**
   * llama.cpp's CPU flash attention adds up values in f16; without it sums are f32. Off by default:
   * the more exact peer is the stricter judge.
   */
  flashAttention?: boolean;
  /**
   * Type of the peer's cache. F16 is its default, and what an engine is compared with; F32 leaves
   * no rounding but that of f32 sums, which is how the oracle itself is proven.
   */
  cacheType?: "F16" | "F32";
};

let runtime: Promise<PeerRuntime> | undefined;

async function peerModule(): Promise<PeerModule> {
  return (await import(pathToFileURL(modulePath).href)) as PeerModule;
}

/** The native module, loaded once a process: it takes longer than a small model does. */
function peerRuntime(): Promise<PeerRuntime> {
  runtime ??= (async () => {
    const peer = await peerModule();
    return peer.getLlama({
      gpu: false,
      build: "never",
      skipDownload: true,
      logLevel: "error",
      maxThreads: 1,
    });
  })();
  return runtime;
}

/** A model loaded in llama.cpp, on one thread. */
export class LlamaCpp {
  readonly #model: PeerModel;
  readonly #context: PeerContext;
  readonly #sequence: PeerSequence;

  private constructor(model: PeerModel, context: PeerContext) {
    this.#model = model;
    this.#context = context;
    this.#sequence = context.getSequence();
  }

  /** Loads a GGUF file. Throws when the peer is not installed or refuses the file. */
  static async load(path: string, options: LlamaCppOptions = {}): Promise<LlamaCpp> {
    const { contextTokens = 512, flashAttention = false, cacheType = "F16" } = options;
    if (contextTokens < 1 || contextTokens > contextTokensMax) {
      throw new Error(`contextTokens ${contextTokens} is outside 1..${contextTokensMax}`);
    }
    const peer = await peerRuntime();
    const model = await peer.loadModel({ modelPath: path });
    const context = await model.createContext({
      contextSize: contextTokens,
      batchSize: Math.min(contextTokens, 512),
      threads: 1,
      flashAttention,
      experimentalKvCacheKeyType: cacheType,
      experimentalKvCacheValueType: cacheType,
    });
    return new LlamaCpp(model, context);
  }

  /** Token ids of a text, special tokens written out in it included. */
  tokenize(text: string): number[] {
    return [...this.#model.tokenize(text, true)];
  }

  /** Text of token ids, special tokens shown. */
  detokenize(tokens: readonly number[]): string {
    return this.#model.detokenize(tokens, true);
  }

  /** Logits after every token of a sequence that starts at position 0, evaluated as one batch. */
  async logits(tokens: readonly number[]): Promise<Logits> {
    await this.#sequence.clearHistory();
    const outputs = await this.#sequence.controlledEvaluate(
      tokens.map((token) => [token, { generateNext: { logits: true } }]),
    );
    const vocabulary = outputs[0]?.next.logits?.size ?? 0;
    const values = new Float64Array(tokens.length * vocabulary);
    for (const [position, output] of outputs.entries()) {
      const row = output?.next.logits;
      if (row?.size !== vocabulary) {
        throw new Error(`position ${position} has ${row?.size ?? 0} of ${vocabulary} logits`);
      }
      for (const [token, logit] of row) values[position * vocabulary + token] = logit;
    }
    return { positions: tokens.length, vocabulary, values };
  }

  /**
   * Looks at the logits after some positions of a sequence that starts at position 0, a few at a time: long
   * sequences have more of them than fit into memory.
   */
  async visitLogits(
    tokens: readonly number[],
    wanted: (position: number) => boolean,
    visit: (position: number, logits: ReadonlyMap<number, number>) => void,
  ): Promise<void> {
    await this.#sequence.clearHistory();
    for (let start = 0; start < tokens.length; start += visitedTokens) {
      const outputs = await this.#sequence.controlledEvaluate(
        tokens
          .slice(start, start + visitedTokens)
          .map((token, index) =>
            wanted(start + index) ? [token, { generateNext: { logits: true } }] : token,
          ),
      );
      for (const [index, output] of outputs.entries()) {
        if (output?.next.logits !== undefined) visit(start + index, output.next.logits);
      }
    }
  }

  /**
   * The `count` tokens that follow a prompt when the best one is always taken, one step at a time.
   * End-of-text tokens do not end it. `onToken` is called when a token is there.
   */
  async greedy(
    prompt: readonly number[],
    count: number,
    onToken?: (token: number) => void,
  ): Promise<number[]> {
    await this.#sequence.clearHistory();
    const generated: number[] = [];
    let input = [...prompt];
    while (generated.length < count) {
      const last = input.at(-1);
      if (last === undefined) throw new Error("greedy needs a prompt of at least one token");
      const outputs = await this.#sequence.controlledEvaluate([
        ...input.slice(0, -1),
        [last, { generateNext: { token: true } }],
      ]);
      const next = outputs.at(-1)?.next.token;
      if (next === undefined || next === null) throw new Error("the peer sampled no token");
      generated.push(next);
      onToken?.(next);
      input = [next];
    }
    return generated;
  }

  /** Version of the package that carries llama.cpp. */
  async version(): Promise<string> {
    const { getModuleVersion } = await peerModule();
    return getModuleVersion();
  }

  /** Frees the model. */
  async dispose(): Promise<void> {
    await this.#context.dispose();
    await this.#model.dispose();
  }
}
