/** The model of random weights that most tests of a real engine use, inside workerd too. */
import { randomModelBytes, type ModelSpec } from "../oracle/random-model.js";

/** A small model whose sizes no tile divides evenly. */
export const tinyModel: ModelSpec = {
  architecture: "llama",
  seed: 5,
  layers: 2,
  dim: 96,
  heads: 6,
  kvHeads: 3,
  headDim: 16,
  ffDim: 160,
  vocabulary: 397,
  vocabularyKind: "spm",
  context: 768,
  type: "Q4_0",
  embeddingType: "Q8_0",
  tied: true,
  ropeBase: 10_000,
};

/** The model's file. */
export function tinyModelBytes(): Uint8Array {
  return randomModelBytes(tinyModel);
}
