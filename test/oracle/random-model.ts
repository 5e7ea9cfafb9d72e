/**
 * Complete GGUF files of random weights: real shapes, real metadata, seeded values. What a model of
 * these says is nonsense, but its logits are spread like a trained model's (standard deviation about
 * `logitDeviation`), so that the first token leads the second by a margin worth comparing.
 */
import { ggufBytes, writeGguf } from "./gguf.js";
import type { GgufSource, MetadataValue, TensorSource } from "./gguf.js";
import { SeededRandom } from "./random.js";
import { encodeTensor } from "./tensor-types.js";
import type { TensorType } from "./tensor-types.js";
import { spmTextStart, vocabularyMetadata } from "./vocabulary.js";
import type { VocabularyKind } from "./vocabulary.js";

/** Architectures that leanedge reads. */
export type Architecture = "llama" | "qwen2" | "qwen3";

/** How positions are scaled beyond the trained window. */
export type RopeScaling =
  | { type: "linear"; factor: number }
  | { type: "yarn"; factor: number; originalContext: number; attentionFactor?: number };

/** A model to make up. */
export type ModelSpec = {
  architecture: Architecture;
  /** Seeds weights and vocabulary. */
  seed: number;
  layers: number;
  dim: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  ffDim: number;
  vocabulary: number;
  vocabularyKind: VocabularyKind;
  /** Positions that the file claims to be trained for. */
  context: number;
  /** Type of all matrices; norms and biases are F32 as llama.cpp demands. */
  type: TensorType;
  /** Type of the token embedding, and of the output when tied to it; `type` when absent. */
  embeddingType?: TensorType;
  /** True: no output tensor, logits come from the token embedding. */
  tied: boolean;
  ropeBase: number;
  ropeScaling?: RopeScaling;
  /** True: a `rope_freqs` tensor as Llama 3.1 has (architecture llama only). */
  ropeFactors?: boolean;
  /**
   * True: bytes and control tokens have logit 0, which is never the largest, so that greedy answers
   * are valid text. Peers that stream text fail on anything else. Not for tied models.
   */
  textOnly?: boolean;
};

/** Wanted standard deviation of the logits. */
const logitDeviation = 3;

/** Gain of Q and K over unit variance: attention logits deviate by its square, so rows attend unevenly. */
const attentionGain = 1.3;

/**
 * Rows of Q and K from half rotation (channel i pairs with i + half), the order of Hugging Face
 * checkpoints, to interleaved rotation (2i pairs with 2i + 1), the order of `llama` GGUF files: what
 * convert_hf_to_gguf does to them. Row 2i of a head is row i of the checkpoint, row 2i + 1 is row
 * i + half.
 */
export function interleaveRows(
  x: Float32Array,
  heads: number,
  headDim: number,
  columns: number,
): Float32Array {
  const out = new Float32Array(x.length);
  const half = headDim / 2;
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < headDim; row++) {
      const from = head * headDim + row;
      const to = head * headDim + (row < half ? 2 * row : 2 * (row - half) + 1);
      out.set(x.subarray(from * columns, (from + 1) * columns), to * columns);
    }
  }
  return out;
}

/**
 * The factors that Llama 3.1 derives from its long-context training: frequencies of short wavelength
 * keep 1, of long wavelength are divided by 8, with a smooth step between. `originalContext` is 8192
 * in the real model; a small one brings the step into reach of a test's positions.
 */
export function llama3Factors(
  headDim: number,
  base: number,
  originalContext: number,
): Float32Array {
  const factor = 8;
  const lowFactor = 1;
  const highFactor = 4;
  const factors = new Float32Array(headDim / 2);
  for (let i = 0; i < factors.length; i++) {
    const wavelength = 2 * Math.PI * base ** ((2 * i) / headDim);
    if (wavelength < originalContext / highFactor) factors[i] = 1;
    else if (wavelength > originalContext / lowFactor) factors[i] = factor;
    else {
      const smooth = (originalContext / wavelength - lowFactor) / (highFactor - lowFactor);
      factors[i] = 1 / ((1 - smooth) / factor + smooth);
    }
  }
  return factors;
}

function modelMetadata(spec: ModelSpec): Map<string, MetadataValue> {
  const key = (name: string): string => `${spec.architecture}.${name}`;
  const u32 = (value: number): MetadataValue => ({ type: "u32", value });
  const f32 = (value: number): MetadataValue => ({ type: "f32", value });
  const metadata = new Map<string, MetadataValue>([
    ["general.architecture", { type: "string", value: spec.architecture }],
    ["general.name", { type: "string", value: `random-${spec.architecture}-${spec.seed}` }],
    [key("context_length"), u32(spec.context)],
    [key("embedding_length"), u32(spec.dim)],
    [key("block_count"), u32(spec.layers)],
    [key("feed_forward_length"), u32(spec.ffDim)],
    [key("attention.head_count"), u32(spec.heads)],
    [key("attention.head_count_kv"), u32(spec.kvHeads)],
    [key("attention.layer_norm_rms_epsilon"), f32(1e-5)],
    [key("rope.freq_base"), f32(spec.ropeBase)],
    [key("vocab_size"), u32(spec.vocabulary)],
  ]);
  if (spec.architecture === "llama") metadata.set(key("rope.dimension_count"), u32(spec.headDim));
  if (spec.headDim * spec.heads !== spec.dim || spec.architecture === "qwen3") {
    metadata.set(key("attention.key_length"), u32(spec.headDim));
    metadata.set(key("attention.value_length"), u32(spec.headDim));
  }
  const scaling = spec.ropeScaling;
  if (scaling !== undefined) {
    metadata.set(key("rope.scaling.type"), { type: "string", value: scaling.type });
    metadata.set(key("rope.scaling.factor"), f32(scaling.factor));
    if (scaling.type === "yarn") {
      metadata.set(key("rope.scaling.original_context_length"), u32(scaling.originalContext));
      if (scaling.attentionFactor !== undefined) {
        metadata.set(key("rope.scaling.attn_factor"), f32(scaling.attentionFactor));
      }
    }
  }
  const vocabulary = vocabularyMetadata(
    spec.vocabularyKind,
    spec.vocabulary,
    SeededRandom.named(spec.seed, "vocabulary"),
  );
  return new Map([...metadata, ...vocabulary]);
}

function modelTensors(spec: ModelSpec): TensorSource[] {
  if (spec.ropeFactors === true && spec.architecture !== "llama") {
    throw new Error(`rope_freqs belongs to llama files, not to ${spec.architecture}`);
  }
  const { dim, ffDim, headDim, heads, kvHeads, vocabulary } = spec;
  const qDim = heads * headDim;
  const kvDim = kvHeads * headDim;
  const embeddingType = spec.embeddingType ?? spec.type;
  const tensors: TensorSource[] = [];

  const add = (
    name: string,
    type: TensorType,
    shape: readonly number[],
    make: (random: SeededRandom, count: number) => Float32Array,
  ): void => {
    const count = shape.reduce((product, size) => product * size, 1);
    const bytes = (): Uint8Array =>
      encodeTensor(type, make(SeededRandom.named(spec.seed, name), count));
    tensors.push({ name, type, shape, bytes });
  };
  const matrix = (name: string, columns: number, rows: number, gain: number): void =>
    add(name, spec.type, [columns, rows], (random, count) =>
      random.normals(count, gain / Math.sqrt(columns)),
    );
  const norm = (name: string, size: number, mean = 1): void =>
    add(name, "F32", [size], (random, count) => random.normals(count, 0.1 * mean, mean));
  const bias = (name: string, size: number): void =>
    add(name, "F32", [size], (random, count) => random.normals(count, 0.3));
  const rotated = (name: string, rowHeads: number): void =>
    add(name, spec.type, [dim, rowHeads * headDim], (random, count) => {
      const rows = random.normals(count, attentionGain / Math.sqrt(dim));
      return spec.architecture === "llama" ? interleaveRows(rows, rowHeads, headDim, dim) : rows;
    });

  // Tied logits are dot products with this embedding, so its deviation sets theirs. What the layers
  // add to the residual stream has to outgrow the embedding there, or every token predicts itself.
  const embeddingDeviation = logitDeviation / Math.sqrt(dim);
  const layerGain = (embeddingDeviation * Math.sqrt(dim)) / Math.sqrt(2 * spec.layers);
  add("token_embd.weight", embeddingType, [dim, vocabulary], (random, count) =>
    random.normals(count, embeddingDeviation),
  );
  for (let layer = 0; layer < spec.layers; layer++) {
    const name = (part: string): string => `blk.${layer}.${part}`;
    norm(name("attn_norm.weight"), dim);
    rotated(name("attn_q.weight"), heads);
    rotated(name("attn_k.weight"), kvHeads);
    matrix(name("attn_v.weight"), dim, kvDim, 1);
    if (spec.architecture === "qwen2") {
      bias(name("attn_q.bias"), qDim);
      bias(name("attn_k.bias"), kvDim);
      bias(name("attn_v.bias"), kvDim);
    }
    if (spec.architecture === "qwen3") {
      norm(name("attn_q_norm.weight"), headDim, attentionGain);
      norm(name("attn_k_norm.weight"), headDim, attentionGain);
    }
    // The mean of values and the gated product of unit values are smaller than one.
    matrix(name("attn_output.weight"), qDim, dim, layerGain);
    norm(name("ffn_norm.weight"), dim);
    matrix(name("ffn_gate.weight"), dim, ffDim, 1);
    matrix(name("ffn_up.weight"), dim, ffDim, 1);
    matrix(name("ffn_down.weight"), ffDim, dim, layerGain);
  }
  norm("output_norm.weight", dim);
  if (spec.tied && spec.textOnly === true) throw new Error("a tied model cannot be textOnly");
  if (!spec.tied) {
    add("output.weight", spec.type, [dim, vocabulary], (random, count) => {
      const rows = random.normals(count, logitDeviation / Math.sqrt(dim));
      return spec.textOnly === true ? rows.fill(0, 0, dim * alphabetStart(spec)) : rows;
    });
  }
  if (spec.ropeFactors === true) {
    add("rope_freqs.weight", "F32", [headDim / 2], () => llama3Factors(headDim, spec.ropeBase, 64));
  }
  return tensors;
}

/** Id of the first token of a vocabulary that is plain text: control tokens and bytes come before. */
function alphabetStart(spec: ModelSpec): number {
  if (spec.vocabularyKind !== "spm") throw new Error("textOnly is made for spm vocabularies");
  return spmTextStart;
}

/** The file that a spec describes. */
export function randomModel(spec: ModelSpec): GgufSource {
  return { metadata: modelMetadata(spec), tensors: modelTensors(spec) };
}

/** A small model in memory. */
export function randomModelBytes(spec: ModelSpec): Uint8Array {
  return ggufBytes(randomModel(spec));
}

/** Writes a model, tensor by tensor. Returns its size in bytes. */
export function writeRandomModel(path: string, spec: ModelSpec): number {
  return writeGguf(path, randomModel(spec));
}

/** Parameters of a spec, for reports: tensors' values, tied output counted once. */
export function parameterCount(spec: ModelSpec): number {
  return modelTensors(spec).reduce(
    (sum, tensor) => sum + tensor.shape.reduce((product, size) => product * size, 1),
    0,
  );
}

/** 26M parameters: 6 layers of 512, 8 query and 4 KV heads of 64, vocabulary 8,192. */
export function model26m(type: TensorType): ModelSpec {
  return {
    architecture: "llama",
    seed: 26,
    layers: 6,
    dim: 512,
    heads: 8,
    kvHeads: 4,
    headDim: 64,
    ffDim: 1408,
    vocabulary: 8192,
    vocabularyKind: "spm",
    context: 4096,
    type,
    tied: false,
    ropeBase: 10_000,
  };
}

/** 222M parameters: 16 layers of 1,024, 16 query and 8 KV heads of 64, vocabulary 16,384. */
export function model222m(type: TensorType): ModelSpec {
  return {
    ...model26m(type),
    seed: 222,
    layers: 16,
    dim: 1024,
    heads: 16,
    kvHeads: 8,
    ffDim: 2816,
    vocabulary: 16_384,
  };
}
