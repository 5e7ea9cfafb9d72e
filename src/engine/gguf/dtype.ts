/** Storage types of weights that the engine loads. */
import { GGMLQuantizationType } from "@huggingface/gguf";

/** A storage type, by ggml's name. */
export type Dtype = "F32" | "F16" | "BF16" | "Q8_0" | "Q4_0" | "Q4_1";

/** How a type lies in the file. */
export interface DtypeLayout {
  /** ggml's type id; also the value in model.h. */
  readonly id: number;
  /** Weights of a block; rows are whole blocks. */
  readonly blockWeights: number;
  /** Bytes of a block. */
  readonly blockBytes: number;
}

/** Layouts of the types that are loaded; blocks are described in model.h. */
export const dtypeLayouts: Readonly<Record<Dtype, DtypeLayout>> = {
  F32: { id: 0, blockWeights: 1, blockBytes: 4 },
  F16: { id: 1, blockWeights: 1, blockBytes: 2 },
  Q4_0: { id: 2, blockWeights: 32, blockBytes: 18 },
  Q4_1: { id: 3, blockWeights: 32, blockBytes: 20 },
  Q8_0: { id: 8, blockWeights: 32, blockBytes: 34 },
  BF16: { id: 30, blockWeights: 1, blockBytes: 2 },
};

const dtypeNames: ReadonlyMap<number, Dtype> = new Map([
  [0, "F32"],
  [1, "F16"],
  [2, "Q4_0"],
  [3, "Q4_1"],
  [8, "Q8_0"],
  [30, "BF16"],
]);

/** The type of an id, or undefined where it is not loaded. */
export function dtypeOf(id: number): Dtype | undefined {
  return dtypeNames.get(id);
}

/** ggml's name of any type id, for messages. */
export function dtypeName(id: number): string {
  const name: string | undefined = GGMLQuantizationType[id];
  return name ?? `number ${id}`;
}
