import { ModelFileError } from "./errors.js";
import { fileBytesMax } from "./limits.js";
import { readConfig } from "./model-config.js";
import type { ModelConfig } from "./model-config.js";
import { parseHeader } from "./parse-header.js";
import { scanHeader } from "./scan-header.js";
import type { ModelSource } from "./source.js";
import { checkTensors } from "./tensor-table.js";
import type { TensorInfo } from "./tensor-table.js";
import { readVocabulary } from "./vocabulary.js";
import type { Vocabulary } from "./vocabulary.js";

/** Everything that a host needs of a model file but the weights themselves. */
export interface ModelFile {
  /** The file's own name of the model, where it has one. */
  readonly name: string | undefined;
  readonly config: ModelConfig;
  /** In file order; every one of them is needed. */
  readonly tensors: readonly TensorInfo[];
  readonly vocabulary: Vocabulary;
  /** Jinja source of the chat template, where the file has one. */
  readonly chatTemplate: string | undefined;
  /** First byte of tensor data. */
  readonly dataOffset: number;
  /** Size of the file, in bytes. */
  readonly sizeBytes: number;
}

/**
 * Reads and judges the header of a model file. The result is complete and consistent, or a
 * ModelFileError is thrown; the weights are not read.
 */
export async function readModelFile(source: ModelSource): Promise<ModelFile> {
  if (source.sizeBytes > fileBytesMax) {
    throw new ModelFileError(
      "limit",
      `the file has ${source.sizeBytes} bytes, at most ${fileBytesMax}`,
    );
  }
  const header = await parseHeader(await scanHeader(source));
  const { metadata } = header;
  const vocabulary = readVocabulary(metadata);
  const base = readConfig(metadata, vocabulary.tokens.length);
  const { tensors, config } = checkTensors(header, base, source.sizeBytes);
  return {
    name: metadata.text("general.name"),
    config,
    tensors,
    vocabulary,
    chatTemplate: metadata.text("tokenizer.chat_template"),
    dataOffset: header.dataOffset,
    sizeBytes: source.sizeBytes,
  };
}
