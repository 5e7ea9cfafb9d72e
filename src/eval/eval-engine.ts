/** Engines of an evaluation: one model file, read once, in as many engines as its methods need. */
import { BoundaryEngine } from "../engine/boundary/boundary-engine.js";
import { nativePaths, type NativePaths } from "../engine/cuda/addon.js";
import { deviceBatchRows, NativeBoundary } from "../engine/cuda/native-boundary.js";
import { openFileSource } from "../engine/gguf/file-source.js";
import { fingerprintSource } from "../engine/gguf/fingerprint.js";
import { readModelFile, type ModelFile } from "../engine/gguf/index.js";
import { modelText } from "../engine/load-engine.js";
import type { CachePlan } from "../engine/plan/plan.js";
import type { ChatTemplate } from "../engine/template/index.js";
import type { Tokenizer } from "../engine/tokenizer/index.js";
import { readEngineModule } from "../engine/wasm/node-module.js";
import { loadWasmEngine } from "../engine/wasm/wasm-engine.js";

/** What computes. */
export type EngineChoice =
  | { readonly name: "wasm" }
  | {
      readonly name: "cuda";
      /** Addon and library; undefined: what LEANEDGE_CUDA_ADDON says. */
      readonly paths?: NativePaths;
    };

/** What engines are opened for. */
export interface EvalModelOptions {
  readonly modelPath: string;
  readonly engine: EngineChoice;
  /** Memory of one engine, in bytes. */
  readonly memoryBytesMax: number;
  /** Most sequences of one engine at once, 1 .. 256 (entries of one step). */
  readonly sequencesMax: number;
  /** Longest context; beyond the model's window it extrapolates. Undefined: its window. */
  readonly contextTokensMax?: number;
}

/** Opens an engine of so many sequences. */
type Open = (plans: readonly CachePlan[], sequencesMax: number) => Promise<BoundaryEngine>;

/** See the head of this file. */
export class EvalModel {
  readonly #options: EvalModelOptions;
  readonly #open: Open;

  private constructor(
    options: EvalModelOptions,
    readonly file: Omit<ModelFile, "vocabulary">,
    readonly tokenizer: Tokenizer,
    readonly template: ChatTemplate,
    /** Of the model file, lower-case hexadecimal. */
    readonly fingerprint: string,
    /** The window that it was trained for; the file's config has the longest context here. */
    readonly windowTokens: number,
    open: Open,
  ) {
    this.#options = options;
    this.#open = open;
  }

  /** Reads the file. @throws EngineError `unimplemented` where there is no such engine */
  static async read(options: EvalModelOptions): Promise<EvalModel> {
    const { modelPath, memoryBytesMax } = options;
    const source = await openFileSource(modelPath);
    try {
      const { vocabulary, ...read } = await readModelFile(source);
      const { tokenizer, template } = modelText({ vocabulary, chatTemplate: read.chatTemplate });
      const contextTokensMax = options.contextTokensMax ?? read.config.contextTokensMax;
      const config = { ...read.config, contextTokensMax };
      const file = { ...read, config };
      const opener = await openerOf(options.engine);
      const open: Open = async (plans, sequencesMax) => {
        const weights = await openFileSource(modelPath);
        const common = { modelFile: file, source: weights, plans, sequencesMax };
        return opener({ ...common, memoryBytesMax }).finally(() => weights.close());
      };
      const fingerprint = await fingerprintSource(source);
      const window = read.config.contextTokensMax;
      return new EvalModel(options, file, tokenizer, template, fingerprint, window, open);
    } finally {
      await source.close();
    }
  }

  /** Most sequences of one engine at once. */
  get sequencesMax(): number {
    return this.#options.sequencesMax;
  }

  /** Whether engines compute on threads of their own, side by side. */
  get computesElsewhere(): boolean {
    return this.#options.engine.name !== "wasm";
  }

  /**
   * An engine with some plans besides the identity plan.
   *
   * @param sequencesMax for an engine of fewer sequences, which is there sooner
   */
  open(plans: readonly CachePlan[], sequencesMax = this.sequencesMax): Promise<BoundaryEngine> {
    return this.#open(plans, sequencesMax);
  }
}

type OpenOptions = Parameters<typeof BoundaryEngine.load>[1] & { readonly memoryBytesMax: number };

async function openerOf(
  choice: EngineChoice,
): Promise<(options: OpenOptions) => Promise<BoundaryEngine>> {
  if (choice.name === "wasm") {
    const module = await readEngineModule();
    return (options) => loadWasmEngine({ ...options, module });
  }
  const paths = choice.paths ?? nativePaths();
  return async (options) =>
    BoundaryEngine.load(await NativeBoundary.open(paths, options.memoryBytesMax), {
      ...options,
      batchRowsMax: deviceBatchRows,
    });
}
