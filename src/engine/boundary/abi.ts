/**
 * The structs of engine/include/leanedge as bytes: offsets and sizes of what crosses the boundary
 * of an engine. abi.test.ts compares every size with the headers' static_asserts.
 */
import type { Sampling, SequenceStats, EngineStats, StepEntry } from "../engine.js";
import { dtypeLayouts } from "../gguf/dtype.js";
import type { Architecture, ModelConfig, RopeOrder, RopeScaling } from "../gguf/model-config.js";
import { tensorRoleIds } from "../gguf/tensor-roles.js";
import type { TensorInfo } from "../gguf/tensor-table.js";

/** Version of the boundary that this code speaks (kAbiVersion). */
export const abiVersion = 2;
/** Bytes of the buffer that everything passes through (kStagingBytes). */
export const stagingBytes = 256 * 1024;
/** Sequences of one step (kStepEntriesMax). */
export const stepEntriesMax = 256;
/** Plans of one engine, the identity plan included (kPlansMax). */
export const plansMax = 8;
/** Most sequences of an engine (kSequencesMax). */
export const sequencesMax = 1024;
/** Most rows that one matrix product takes. */
export const batchRowsMax = 4096;

/** sizeof of each struct. */
export const structBytes = {
  EngineOptions: 24,
  ModelConfig: 96,
  TensorDesc: 24,
  SamplingParams: 32,
  SequenceStats: 32,
  StepEntry: 16,
  StepResult: 24,
  EngineStats: 88,
  ErrorDetail: 264,
} as const;

/** Name of a struct that crosses the boundary. */
export type StructName = keyof typeof structBytes;

/** How a device holds a model's matrices (EngineOptions.weight_form). */
export type WeightForm = "file" | "fp8";

const weightForms: Readonly<Record<WeightForm, number>> = { file: 0, fp8: 1 };

/** Limits that an engine is created with; EngineOptions. */
export interface EngineLimits {
  readonly memoryBytesMax: number;
  readonly sequencesMax: number;
  readonly batchRowsMax: number;
  readonly contextTokensMax: number;
  readonly weights: WeightForm;
}

/** Writes one struct's fields in order; `end` checks that all of it was written. */
class StructWriter {
  readonly #view: DataView;
  #at = 0;

  constructor(
    memory: ArrayBufferLike,
    address: number,
    private readonly struct: StructName,
  ) {
    this.#view = new DataView(memory, address, structBytes[struct]);
  }

  i32(...values: readonly number[]): this {
    for (const value of values) {
      this.#view.setInt32(this.#at, value, true);
      this.#at += 4;
    }
    return this;
  }

  f32(...values: readonly number[]): this {
    for (const value of values) {
      this.#view.setFloat32(this.#at, value, true);
      this.#at += 4;
    }
    return this;
  }

  u64(value: bigint): this {
    this.#view.setBigUint64(this.#at, value, true);
    this.#at += 8;
    return this;
  }

  end(): void {
    if (this.#at !== structBytes[this.struct]) {
      throw new RangeError(
        `${this.struct} has ${structBytes[this.struct]} bytes, ${this.#at} were written`,
      );
    }
  }
}

const architectures: Readonly<Record<Architecture, number>> = { llama: 0, qwen2: 1, qwen3: 2 };
const ropeOrders: Readonly<Record<RopeOrder, number>> = { half: 0, interleaved: 1 };
const ropeScalings: Readonly<Record<RopeScaling, number>> = { none: 0, linear: 1, yarn: 2 };

/** Writes EngineOptions. */
export function writeOptions(memory: ArrayBufferLike, address: number, limits: EngineLimits): void {
  new StructWriter(memory, address, "EngineOptions")
    .u64(BigInt(limits.memoryBytesMax))
    .i32(limits.sequencesMax, limits.batchRowsMax, limits.contextTokensMax)
    .i32(weightForms[limits.weights])
    .end();
}

/** Writes ModelConfig. */
export function writeConfig(memory: ArrayBufferLike, address: number, config: ModelConfig): void {
  new StructWriter(memory, address, "ModelConfig")
    .i32(architectures[config.architecture], config.layers, config.dim, config.ffDim)
    .i32(config.heads, config.kvHeads, config.headDim, config.vocabSize, config.contextTokensMax)
    .i32(config.ropeDim, ropeOrders[config.ropeOrder], ropeScalings[config.ropeScaling])
    .f32(config.rmsEps, config.ropeBase, config.ropeScale, config.yarnOriginalContext)
    .f32(config.yarnBetaFast, config.yarnBetaSlow, config.yarnAttentionFactor)
    .i32(Number(config.tiedEmbeddings), Number(config.qkvBias), Number(config.qkNorm))
    .i32(Number(config.ropeFactors), 0)
    .end();
}

/** Writes one TensorDesc. */
export function writeTensor(memory: ArrayBufferLike, address: number, tensor: TensorInfo): void {
  new StructWriter(memory, address, "TensorDesc")
    .i32(tensorRoleIds[tensor.role], tensor.layer, dtypeLayouts[tensor.dtype].id)
    .i32(tensor.rows, tensor.cols, 0)
    .end();
}

/** Writes SamplingParams. The seed's low 64 bits count. */
export function writeSampling(memory: ArrayBufferLike, address: number, sampling: Sampling): void {
  new StructWriter(memory, address, "SamplingParams")
    .f32(sampling.temperature)
    .i32(sampling.topK)
    .f32(sampling.topP, sampling.minP, sampling.repetitionPenalty)
    .i32(sampling.repetitionWindow)
    .u64(BigInt.asUintN(64, sampling.seed))
    .end();
}

/** Writes one StepEntry. */
export function writeStepEntry(memory: ArrayBufferLike, address: number, entry: StepEntry): void {
  new StructWriter(memory, address, "StepEntry")
    .i32(entry.sequence, entry.workMax, Number(entry.sample), 0)
    .end();
}

/** A StepResult as it lies in memory. */
export interface RawStepResult {
  readonly status: number;
  readonly token: number;
  readonly rowsPending: number;
  readonly workDone: number;
  readonly logprob: number;
}

/** Reads one StepResult. */
export function readStepResult(memory: ArrayBufferLike, address: number): RawStepResult {
  const view = new DataView(memory, address, structBytes.StepResult);
  return {
    status: view.getInt32(0, true),
    token: view.getInt32(4, true),
    rowsPending: view.getInt32(8, true),
    workDone: view.getInt32(12, true),
    logprob: view.getFloat32(16, true),
  };
}

/** A 64-bit count as a number; all counts here stay far below 2^53. */
function count(view: DataView, offset: number): number {
  return Number(view.getBigUint64(offset, true));
}

/** Reads SequenceStats. */
export function readSequenceStats(memory: ArrayBufferLike, address: number): SequenceStats {
  const view = new DataView(memory, address, structBytes.SequenceStats);
  return {
    tokens: view.getInt32(0, true),
    computed: view.getInt32(4, true),
    segments: view.getInt32(8, true),
    pages: view.getInt32(12, true),
    cacheBytes: count(view, 16),
  };
}

/** Reads EngineStats. */
export function readEngineStats(memory: ArrayBufferLike, address: number): EngineStats {
  const view = new DataView(memory, address, structBytes.EngineStats);
  return {
    memoryBytes: count(view, 0),
    memoryBytesMax: count(view, 8),
    weightBytes: count(view, 16),
    scratchBytes: count(view, 24),
    cacheBytes: count(view, 32),
    cacheBytesFree: count(view, 40),
    steps: count(view, 48),
    rows: count(view, 56),
    allocations: count(view, 64),
    weightBytesPerRow: count(view, 72),
    cacheBytesPeak: count(view, 80),
  };
}

/** An ErrorDetail as it lies in memory. */
export interface RawError {
  readonly status: number;
  readonly value: number;
  readonly bound: number;
  readonly message: string;
}

/** Reads ErrorDetail. */
export function readError(memory: ArrayBufferLike, address: number): RawError {
  const view = new DataView(memory, address, structBytes.ErrorDetail);
  // Copied: TextDecoder refuses views of some kinds of memory.
  const text = new Uint8Array(memory, address + 24, structBytes.ErrorDetail - 24).slice();
  const end = text.indexOf(0);
  return {
    status: view.getInt32(0, true),
    value: Number(view.getBigInt64(8, true)),
    bound: Number(view.getBigInt64(16, true)),
    message: new TextDecoder().decode(end < 0 ? text : text.subarray(0, end)),
  };
}
