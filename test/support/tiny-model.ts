/** A model of random weights for tests of the real engine inside workerd; made by Node, before workerd starts. */
import { randomModelBytes } from "../oracle/random-model.js";

/** The model's file. */
export function tinyModelBytes(): Uint8Array {
  return randomModelBytes({
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
  });
}
