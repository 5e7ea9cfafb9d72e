/**
 * The models that every engine backend is judged on: the whole product of three architectures, F16,
 * Q8_0 and Q4_0, grouped and ungrouped heads, tied and untied output, with and without rope factors;
 * then what that leaves out, in awkward sizes.
 */
import { SeededRandom } from "./random.js";
import type { ModelSpec, RopeScaling } from "./random-model.js";

/** A model and a sequence to run through it. */
export type ParityCase = {
  /** Unique; says what is special about it. */
  name: string;
  spec: ModelSpec;
  /** Token ids, the first of them the vocabulary's beginning-of-sequence token. */
  tokens: readonly number[];
};

/** Tokens per case: enough to pass the border of a page of 32 slots twice. */
const tokensPerCase = 72;

const base: ModelSpec = {
  architecture: "llama",
  seed: 1,
  layers: 2,
  dim: 256,
  heads: 8,
  kvHeads: 4,
  headDim: 32,
  ffDim: 352,
  vocabulary: 640,
  vocabularyKind: "spm",
  context: 512,
  type: "F32",
  tied: false,
  ropeBase: 10_000,
};

const qwen2: ModelSpec = {
  ...base,
  architecture: "qwen2",
  seed: 2,
  dim: 192,
  heads: 3,
  kvHeads: 1,
  headDim: 64,
  ffDim: 544,
  vocabularyKind: "bpe",
  ropeBase: 1_000_000,
  tied: true,
};

/** Qwen3 heads are not dim / heads wide. */
const qwen3: ModelSpec = {
  ...base,
  architecture: "qwen3",
  seed: 3,
  dim: 160,
  heads: 4,
  kvHeads: 2,
  headDim: 80,
  ffDim: 416,
  vocabularyKind: "bpe",
  ropeBase: 1_000_000,
  tied: true,
};

/** What the whole product of architectures, types, heads and outputs is built from: the smallest. */
const smallest: Partial<ModelSpec> = {
  dim: 128,
  heads: 4,
  headDim: 32,
  ffDim: 192,
  vocabulary: 448,
};

function product(): [name: string, spec: ModelSpec][] {
  const cases: [string, ModelSpec][] = [];
  for (const architecture of [base, qwen2, qwen3]) {
    for (const type of ["F16", "Q8_0", "Q4_0"] as const) {
      for (const kvHeads of [2, 4]) {
        for (const tied of [false, true]) {
          for (const ropeFactors of architecture === base ? [false, true] : [false]) {
            const heads = kvHeads === 4 ? "ungrouped" : "grouped";
            const output = tied ? "tied" : "untied";
            const factors = ropeFactors ? ", rope factors" : "";
            cases.push([
              `${architecture.architecture} ${type}, ${heads}, ${output}${factors}`,
              { ...architecture, ...smallest, type, kvHeads, tied, ropeFactors },
            ]);
          }
        }
      }
    }
  }
  return cases;
}

const yarn = (factor: number, originalContext: number, attentionFactor?: number): RopeScaling => ({
  type: "yarn",
  factor,
  originalContext,
  ...(attentionFactor === undefined ? {} : { attentionFactor }),
});

/** What the product leaves out: other types, awkward sizes, scaled positions, mixed files. */
const special: readonly [name: string, spec: ModelSpec][] = [
  ["llama F32", base],
  [
    "llama F32, heads of 20, sizes that no block divides",
    { ...base, dim: 60, heads: 3, kvHeads: 3, headDim: 20, ffDim: 172, vocabulary: 401 },
  ],
  ["llama BF16, heads of 64", { ...base, type: "BF16", heads: 4, kvHeads: 2, headDim: 64 }],
  [
    "llama Q4_0, heads of 80",
    { ...base, type: "Q4_0", dim: 320, heads: 4, kvHeads: 2, headDim: 80 },
  ],
  [
    "llama Q4_0 with a tied Q8_0 embedding, byte-level BPE",
    { ...base, type: "Q4_0", embeddingType: "Q8_0", tied: true, vocabularyKind: "bpe" },
  ],
  ["llama Q4_1", { ...base, type: "Q4_1" }],
  [
    "llama Q4_1 with a tied Q8_0 embedding, 9 heads on 3",
    {
      ...base,
      type: "Q4_1",
      embeddingType: "Q8_0",
      tied: true,
      dim: 576,
      heads: 9,
      kvHeads: 3,
      headDim: 64,
      ffDim: 768,
    },
  ],
  ["llama F32, linear scaling by 4", { ...base, ropeScaling: { type: "linear", factor: 4 } }],
  ["llama F32, YaRN by 4", { ...base, ropeScaling: yarn(4, 32) }],
  ["qwen2 F32", qwen2],
  ["qwen2 BF16", { ...qwen2, type: "BF16" }],
  ["qwen2 Q4_1, 3 heads on 1", { ...qwen2, type: "Q4_1", tied: false }],
  ["qwen2 F16, YaRN by 2.5", { ...qwen2, type: "F16", ropeScaling: yarn(2.5, 32) }],
  ["qwen2 F32, YaRN by 8 with an attention factor", { ...qwen2, ropeScaling: yarn(8, 64, 0.8) }],
  ["qwen3 F32, heads of 80", qwen3],
  ["qwen3 BF16, heads of 80", { ...qwen3, type: "BF16" }],
  ["qwen3 Q4_0, heads of 128", { ...qwen3, type: "Q4_0", headDim: 128 }],
  ["qwen3 Q4_1, heads of 80", { ...qwen3, type: "Q4_1" }],
  [
    "qwen3 Q8_0, heads of 64, YaRN by 4",
    { ...qwen3, type: "Q8_0", headDim: 64, ropeScaling: yarn(4, 32) },
  ],
];

/** A seeded sequence of `count` ids that begins with the beginning-of-sequence token. */
export function randomTokens(spec: ModelSpec, count: number): number[] {
  const random = SeededRandom.named(spec.seed, "tokens");
  return [1, ...Array.from({ length: count - 1 }, () => random.below(spec.vocabulary))];
}

/** All cases. Each model has its own seed. */
export const parityCases: readonly ParityCase[] = [...product(), ...special].map(
  ([name, spec], index) => {
    const seeded = { ...spec, seed: 1 + index };
    return { name, spec: seeded, tokens: randomTokens(seeded, tokensPerCase) };
  },
);
