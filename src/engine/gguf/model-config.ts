/** Hyper-parameters of a model, from its metadata; the fields of ModelConfig in model.h. */
import { ModelFileError, quote } from "./errors.js";
import {
  windowTokensMax,
  dimMax,
  ffDimMax,
  headsMax,
  headDimMax,
  layersMax,
  vocabMax,
} from "./limits.js";
import { required } from "./metadata.js";
import type { Metadata } from "./metadata.js";

/** Model graphs that the engine computes. */
export type Architecture = "llama" | "qwen2" | "qwen3";

/** How rows of Q and K are ordered in the file: channel i turns with i + 1, or with i + ropeDim / 2. */
export type RopeOrder = "half" | "interleaved";

/** How positions beyond the trained window are squeezed. */
export type RopeScaling = "none" | "linear" | "yarn";

/** What the metadata says of a model. */
export interface BaseConfig {
  readonly architecture: Architecture;
  readonly layers: number;
  /** Hidden size. */
  readonly dim: number;
  /** Feed-forward size. */
  readonly ffDim: number;
  /** Query heads, a multiple of kvHeads. */
  readonly heads: number;
  readonly kvHeads: number;
  /** Channels of a head, even. */
  readonly headDim: number;
  readonly vocabSize: number;
  /** The window, in tokens. */
  readonly contextTokensMax: number;
  readonly rmsEps: number;
  readonly ropeBase: number;
  /** Channels that rotate, even, at most headDim. */
  readonly ropeDim: number;
  /** Order in the file: `interleaved` for llama, whose converters permute Q and K. */
  readonly ropeOrder: RopeOrder;
  readonly ropeScaling: RopeScaling;
  /** Linear and YaRN: positions are divided by it, at least 1; else 1. */
  readonly ropeScale: number;
  /** YaRN: the window before stretching, in tokens; else the window. */
  readonly yarnOriginalContext: number;
  /** YaRN: turns in the original window above which a channel keeps its speed. */
  readonly yarnBetaFast: number;
  /** YaRN: turns in the original window below which a channel is slowed in full. */
  readonly yarnBetaSlow: number;
  /** Multiplies cosine and sine. */
  readonly yarnAttentionFactor: number;
}

/** The metadata's part, and what the tensor table adds. */
export interface ModelConfig extends BaseConfig {
  /** The output matrix is the token embedding. */
  readonly tiedEmbeddings: boolean;
  /** attn_q, attn_k and attn_v have biases. */
  readonly qkvBias: boolean;
  /** RMS norm per head on Q and K before RoPE. */
  readonly qkNorm: boolean;
  /** A rope_freqs tensor divides the frequencies. */
  readonly ropeFactors: boolean;
}

const architectures: ReadonlySet<string> = new Set<Architecture>(["llama", "qwen2", "qwen3"]);

/** Keys that change the graph: with them it is another model than the one that is computed. */
const unsupportedCounts = ["expert_count", "expert_used_count"];

function isArchitecture(name: string): name is Architecture {
  return architectures.has(name);
}

type RopePart = Pick<
  BaseConfig,
  | "ropeScaling"
  | "ropeScale"
  | "yarnOriginalContext"
  | "yarnBetaFast"
  | "yarnBetaSlow"
  | "yarnAttentionFactor"
>;

/** YaRN's attention temperature (https://arxiv.org/abs/2309.00071, section 3.4) as ggml scales it. */
function yarnMagnitude(factor: number, multiplier: number): number {
  return factor <= 1 ? 1 : 0.1 * multiplier * Math.log(factor) + 1;
}

/**
 * RoPE scaling as llama.cpp reads it: without a type it is linear, a factor of 0 means 1, and
 * `rope.scaling.attn_factor` multiplies the magnitude whatever the type. llama.cpp reads the keys
 * `yarn_log_multiplier`, `yarn_beta_fast` and `yarn_beta_slow` for a few architectures only; here
 * they count wherever a file has them.
 */
function ropePart(metadata: Metadata, prefix: string, contextTokensMax: number): RopePart {
  const key = (name: string) => `${prefix}.rope.${name}`;
  const type = metadata.text(key("scaling.type")) ?? "linear";
  if (type !== "none" && type !== "linear" && type !== "yarn") {
    throw new ModelFileError(
      "architecture",
      `RoPE scaling ${quote(type)} is not supported, only none, linear and yarn`,
    );
  }
  const written =
    metadata.number(key("scaling.factor"), 0, windowTokensMax) ??
    metadata.number(key("scale_linear"), 0, windowTokensMax) ??
    0;
  const factor = written === 0 || type === "none" ? 1 : written;
  if (factor < 1) {
    throw new ModelFileError("metadata", `RoPE scaling factor is ${factor}, at least 1 expected`);
  }
  const attention = metadata.number(key("scaling.attn_factor"), 1e-3, 1e3) ?? 1;
  const logMultiplier = metadata.number(key("scaling.yarn_log_multiplier"), 0, 1e3) ?? 0;
  const yarn = type === "yarn";
  const magnitude =
    yarnMagnitude(factor, 1) / (logMultiplier === 0 ? 1 : yarnMagnitude(factor, logMultiplier));
  return {
    ropeScaling: factor === 1 ? "none" : type,
    ropeScale: factor,
    yarnOriginalContext:
      metadata.integer(key("scaling.original_context_length"), 1, windowTokensMax) ??
      contextTokensMax,
    yarnBetaFast: metadata.number(key("scaling.yarn_beta_fast"), 1e-3, 1e6) ?? 32,
    yarnBetaSlow: metadata.number(key("scaling.yarn_beta_slow"), 1e-3, 1e6) ?? 1,
    yarnAttentionFactor: (yarn ? magnitude : 1) * attention,
  };
}

/** Reads the hyper-parameters. `vocabSize` is that of the token table. Throws ModelFileError. */
export function readConfig(metadata: Metadata, vocabSize: number): BaseConfig {
  const name = required(metadata.text("general.architecture"), "general.architecture");
  if (!isArchitecture(name)) {
    throw new ModelFileError(
      "architecture",
      `architecture ${quote(name)} is not supported, only ${[...architectures].join(", ")}`,
    );
  }
  for (const count of unsupportedCounts) {
    if ((metadata.integer(`${name}.${count}`, 0, 1e6) ?? 0) > 0) {
      throw new ModelFileError(
        "architecture",
        `mixtures of experts (${name}.${count}) are not supported`,
      );
    }
  }
  const integer = (key: string, max: number) => metadata.uniformInteger(`${name}.${key}`, 1, max);
  const must = (key: string, max: number) => required(integer(key, max), `${name}.${key}`);

  const layers = must("block_count", layersMax);
  const dim = must("embedding_length", dimMax);
  const heads = must("attention.head_count", headsMax);
  const kvHeads = integer("attention.head_count_kv", headsMax) ?? heads;
  const contextTokensMax = must("context_length", windowTokensMax);
  if (heads % kvHeads !== 0) {
    throw new ModelFileError(
      "metadata",
      `${heads} query heads are not a multiple of ${kvHeads} KV heads`,
    );
  }
  const headDim = integer("attention.key_length", headDimMax) ?? dim / heads;
  if (!Number.isInteger(headDim) || headDim % 2 !== 0 || headDim > headDimMax) {
    throw new ModelFileError(
      "metadata",
      `head dimension is ${headDim}, an even number up to ${headDimMax} expected`,
    );
  }
  const valueDim = integer("attention.value_length", headDimMax) ?? headDim;
  if (valueDim !== headDim) {
    throw new ModelFileError(
      "architecture",
      `heads of ${headDim} K and ${valueDim} V channels are not supported`,
    );
  }
  const ropeDim = integer("rope.dimension_count", headDimMax) ?? headDim;
  if (ropeDim % 2 !== 0 || ropeDim > headDim) {
    throw new ModelFileError(
      "metadata",
      `RoPE dimension is ${ropeDim}, an even number up to ${headDim} expected`,
    );
  }
  const declared = integer("vocab_size", vocabMax) ?? vocabSize;
  if (declared !== vocabSize) {
    throw new ModelFileError(
      "metadata",
      `${name}.vocab_size is ${declared}, the token table has ${vocabSize}`,
    );
  }
  const epsKey = `${name}.attention.layer_norm_rms_epsilon`;
  return {
    architecture: name,
    layers,
    dim,
    ffDim: must("feed_forward_length", ffDimMax),
    heads,
    kvHeads,
    headDim,
    vocabSize,
    contextTokensMax,
    rmsEps: required(metadata.number(epsKey, 1e-12, 1), epsKey),
    ropeBase: metadata.number(`${name}.rope.freq_base`, 1, 1e12) ?? 10_000,
    ropeDim,
    ropeOrder: name === "llama" ? "interleaved" : "half",
    ...ropePart(metadata, name, contextTokensMax),
  };
}
