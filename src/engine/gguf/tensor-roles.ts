/** What each tensor of a model is for, by its name in GGUF files. */
import type { BaseConfig } from "./model-config.js";

/** The role of a tensor; TensorRole in model.h. */
export type TensorRole =
  | "tokenEmbedding"
  | "output"
  | "outputNorm"
  | "ropeFactors"
  | "attnNorm"
  | "attnQ"
  | "attnK"
  | "attnV"
  | "attnOutput"
  | "attnQBias"
  | "attnKBias"
  | "attnVBias"
  | "attnQNorm"
  | "attnKNorm"
  | "ffnNorm"
  | "ffnGate"
  | "ffnUp"
  | "ffnDown";

/** Numbers of the roles in model.h; those from 16 on stand once in each layer. */
export const tensorRoleIds: Readonly<Record<TensorRole, number>> = {
  tokenEmbedding: 0,
  output: 1,
  outputNorm: 2,
  ropeFactors: 3,
  attnNorm: 16,
  attnQ: 17,
  attnK: 18,
  attnV: 19,
  attnOutput: 20,
  attnQBias: 21,
  attnKBias: 22,
  attnVBias: 23,
  attnQNorm: 24,
  attnKNorm: 25,
  ffnNorm: 26,
  ffnGate: 27,
  ffnUp: 28,
  ffnDown: 29,
};

const modelNames: ReadonlyMap<string, TensorRole> = new Map([
  ["token_embd.weight", "tokenEmbedding"],
  ["output.weight", "output"],
  ["output_norm.weight", "outputNorm"],
  ["rope_freqs.weight", "ropeFactors"],
]);

const layerNames: ReadonlyMap<string, TensorRole> = new Map([
  ["attn_norm.weight", "attnNorm"],
  ["attn_q.weight", "attnQ"],
  ["attn_k.weight", "attnK"],
  ["attn_v.weight", "attnV"],
  ["attn_output.weight", "attnOutput"],
  ["attn_q.bias", "attnQBias"],
  ["attn_k.bias", "attnKBias"],
  ["attn_v.bias", "attnVBias"],
  ["attn_q_norm.weight", "attnQNorm"],
  ["attn_k_norm.weight", "attnKNorm"],
  ["ffn_norm.weight", "ffnNorm"],
  ["ffn_gate.weight", "ffnGate"],
  ["ffn_up.weight", "ffnUp"],
  ["ffn_down.weight", "ffnDown"],
]);

/** Role and layer (-1 outside layers) of a tensor name, or undefined for names that mean nothing here. */
export function roleOfName(name: string): { role: TensorRole; layer: number } | undefined {
  const whole = modelNames.get(name);
  if (whole !== undefined) return { role: whole, layer: -1 };
  const match = /^blk\.(0|[1-9]\d{0,3})\.(.+)$/.exec(name);
  const role = layerNames.get(match?.[2] ?? "");
  return role === undefined ? undefined : { role, layer: Number(match?.[1]) };
}

/** The name of a role in a file. */
export function nameOfRole(role: TensorRole, layer: number): string {
  for (const [name, candidate] of modelNames) if (candidate === role) return name;
  for (const [name, candidate] of layerNames) if (candidate === role) return `blk.${layer}.${name}`;
  throw new RangeError(`no tensor role ${role}`);
}

/** Shape of a role: [columns] of a vector, or [columns, rows] as GGUF counts. */
export function shapeOfRole(role: TensorRole, config: BaseConfig): readonly number[] {
  const { dim, ffDim, vocabSize, headDim } = config;
  const qDim = config.heads * headDim;
  const kvDim = config.kvHeads * headDim;
  switch (role) {
    case "tokenEmbedding":
    case "output":
      return [dim, vocabSize];
    case "outputNorm":
    case "attnNorm":
    case "ffnNorm":
      return [dim];
    case "ropeFactors":
      return [config.ropeDim / 2];
    case "attnQ":
      return [dim, qDim];
    case "attnK":
    case "attnV":
      return [dim, kvDim];
    case "attnOutput":
      return [qDim, dim];
    case "attnQBias":
      return [qDim];
    case "attnKBias":
    case "attnVBias":
      return [kvDim];
    case "attnQNorm":
    case "attnKNorm":
      return [headDim];
    case "ffnGate":
    case "ffnUp":
      return [dim, ffDim];
    case "ffnDown":
      return [ffDim, dim];
  }
}
