/** A running engine, tokenizer and chat template from one model file. */
import { BoundaryEngine, type EngineLoadOptions } from "./boundary/boundary-engine.js";
import type { EngineBoundary } from "./boundary/engine-boundary.js";
import type { Engine } from "./engine.js";
import { FingerprintHasher } from "./gguf/fingerprint.js";
import { readModelFile, type ModelFile } from "./gguf/model-file.js";
import type { ModelSource } from "./gguf/source.js";
import { sha256Hex } from "./sha256.js";
import { ChatTemplate } from "./template/index.js";
import { Tokenizer } from "./tokenizer/index.js";
import { loadWasmEngine, type WasmEngineOptions } from "./wasm/wasm-engine.js";

/** What is read from the model file, and by whom. */
interface FromFile {
  /** The model file. */
  readonly source: ModelSource;
  /**
   * The file's fingerprint, where the source has checked it (a shard source does). Unset: it is
   * computed while the weights stream by, which reads the whole file.
   */
  readonly fingerprint?: string;
}

/** See loadEngine: an engine in WebAssembly. */
export type LoadEngineOptions = FromFile &
  Omit<WasmEngineOptions, "modelFile" | "source" | "stream">;

/** See loadEngine: an engine behind a boundary that was opened for it, a native one for example. */
export type LoadBoundaryOptions = FromFile &
  Omit<EngineLoadOptions, "modelFile" | "source" | "stream"> & {
    /** Fresh; the engine's from here on. */
    readonly boundary: EngineBoundary;
  };

/** A model file that is being served. */
export interface LoadedEngine {
  readonly engine: Engine;
  /** The file's description, without the token table, which the tokenizer has. */
  readonly modelFile: Omit<ModelFile, "vocabulary">;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** Fingerprint of the model file (gguf/fingerprint.ts), lower-case hexadecimal. */
  readonly fingerprint: string;
  /** SHA-256 of the template's source, lower-case hexadecimal. */
  readonly templateFingerprint: string;
  /** Weights of the model, a tied output matrix counted once. */
  readonly parameterCount: number;
}

/**
 * Reads the header, builds tokenizer and template, streams the weights into an engine.
 *
 * @throws ModelFileError, TokenizerError, TemplateError or EngineError, whoever refuses first
 */
export async function loadEngine(
  options: LoadEngineOptions | LoadBoundaryOptions,
): Promise<LoadedEngine> {
  try {
    return await load(options);
  } catch (error) {
    if ("boundary" in options) options.boundary.close();
    throw error;
  }
}

async function load(options: LoadEngineOptions | LoadBoundaryOptions): Promise<LoadedEngine> {
  const { source, fingerprint } = options;
  const { vocabulary, ...modelFile } = await readModelFile(source);
  const { tokenizer, template } = modelText({ vocabulary, chatTemplate: modelFile.chatTemplate });
  // Its buffer is one block of the file: not taken where it is not needed.
  const hasher = fingerprint === undefined ? new FingerprintHasher() : undefined;
  const from = {
    modelFile,
    source,
    stream:
      hasher === undefined
        ? {}
        : { wholeFile: true, onBytes: (bytes: Uint8Array) => hasher.update(bytes) },
  };
  const engine =
    "boundary" in options
      ? await BoundaryEngine.load(options.boundary, { ...options, ...from })
      : await loadWasmEngine({ ...options, ...from });
  return {
    engine,
    modelFile,
    tokenizer,
    template,
    fingerprint: (await hasher?.digest()) ?? fingerprint ?? "",
    templateFingerprint: await sha256Hex(
      Uint8Array.from(new TextEncoder().encode(template.source)),
    ),
    parameterCount: modelFile.tensors.reduce((sum, { rows, cols }) => sum + rows * cols, 0),
  };
}

/** Tokenizer and chat template of a model file; they need no engine. */
export function modelText(
  file: Pick<ModelFile, "vocabulary" | "chatTemplate">,
): Pick<LoadedEngine, "tokenizer" | "template"> {
  const tokenizer = new Tokenizer(file.vocabulary);
  return { tokenizer, template: new ChatTemplate(file.chatTemplate, templateTokens(tokenizer)) };
}

function templateTokens(tokenizer: Tokenizer): ConstructorParameters<typeof ChatTemplate>[1] {
  const { bos, eos } = tokenizer.facts;
  return {
    bos: bos === undefined ? "" : tokenizer.textOf(bos),
    eos: eos === undefined ? "" : tokenizer.textOf(eos),
    controlTexts: tokenizer.controlTexts,
  };
}
