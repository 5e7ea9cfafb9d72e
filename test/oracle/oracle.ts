/**
 * The judge of the engine's arithmetic: a forward pass in plain JavaScript over weights dequantised
 * to f32, every sum in f64, nothing shared with the engine. It works in the channel order of Hugging
 * Face checkpoints, so a `llama` file's Q and K are brought back from interleaved rotation first.
 */
import { GgufFile } from "./gguf.js";
import type { GgufHeader, TensorInfo } from "./gguf.js";
import { ropeConfig, rotate } from "./rope.js";
import type { RopeConfig } from "./rope.js";
import { decodeTensor } from "./tensor-types.js";

/** Row-major weights, (rows, columns). */
type Matrix = { rows: number; columns: number; values: Float32Array };

type Layer = {
  attentionNorm: Float32Array; // (dim)
  q: Matrix; // (heads * headDim, dim)
  k: Matrix; // (kvHeads * headDim, dim)
  v: Matrix; // (kvHeads * headDim, dim)
  qBias: Float32Array | undefined; // (heads * headDim)
  kBias: Float32Array | undefined; // (kvHeads * headDim)
  vBias: Float32Array | undefined; // (kvHeads * headDim)
  qNorm: Float32Array | undefined; // (headDim)
  kNorm: Float32Array | undefined; // (headDim)
  output: Matrix; // (dim, heads * headDim)
  ffNorm: Float32Array; // (dim)
  gate: Matrix; // (ffDim, dim)
  up: Matrix; // (ffDim, dim)
  down: Matrix; // (dim, ffDim)
};

/** Logits of a token sequence, one row per position. */
export type Logits = {
  positions: number;
  vocabulary: number;
  /** (positions, vocabulary) */
  values: Float64Array;
};

/**
 * Attention of one layer: q (positions, heads * headDim), k and v (positions, kvHeads * headDim), after
 * norms and rotation, to what the rows attend to, (positions, heads * headDim).
 */
export type Mix = (
  layer: number,
  q: readonly Float64Array[],
  k: readonly Float64Array[],
  v: readonly Float64Array[],
) => Float64Array[];

/** One row of logits, as a view. */
export function logitsAt(logits: Logits, position: number): Float64Array {
  const { vocabulary } = logits;
  return logits.values.subarray(position * vocabulary, (position + 1) * vocabulary);
}

/** A model file, dequantised. */
export class Oracle {
  readonly architecture: string;
  readonly layers: readonly Layer[];
  readonly dim: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabulary: number;
  readonly #epsilon: number;
  readonly #rope: RopeConfig;
  readonly #embedding: Matrix;
  readonly #outputNorm: Float32Array;
  readonly #output: Matrix;

  /** @param path a GGUF file of architecture llama, qwen2 or qwen3. */
  constructor(path: string) {
    const file = new GgufFile(path);
    const { header } = file;
    this.architecture = text(header, "general.architecture");
    const key = (name: string): string => `${this.architecture}.${name}`;
    this.dim = number(header, key("embedding_length"));
    this.heads = number(header, key("attention.head_count"));
    this.kvHeads = number(header, key("attention.head_count_kv"), this.heads);
    this.headDim = number(header, key("attention.key_length"), this.dim / this.heads);
    this.#epsilon = number(header, key("attention.layer_norm_rms_epsilon"));

    const vector = (name: string): Float32Array | undefined => {
      const info = header.tensors.get(name);
      return info === undefined ? undefined : decode(file, info);
    };
    const norm = (name: string): Float32Array => {
      const values = vector(name);
      if (values === undefined) throw new Error(`tensor ${name} is missing`);
      return values;
    };
    const matrix = (name: string): Matrix => {
      const info = header.tensors.get(name);
      if (info === undefined) throw new Error(`tensor ${name} is missing`);
      const [columns = 0, rows = 0] = info.shape;
      return { rows, columns, values: decode(file, info) };
    };
    const rotated = (name: string, heads: number): Matrix => {
      const weights = matrix(name);
      return this.architecture === "llama" ? deinterleave(weights, heads) : weights;
    };

    this.#embedding = matrix("token_embd.weight");
    this.vocabulary = this.#embedding.rows;
    this.#outputNorm = norm("output_norm.weight");
    this.#output = header.tensors.has("output.weight") ? matrix("output.weight") : this.#embedding;
    this.#rope = ropeConfig(
      header.metadata,
      this.architecture,
      this.headDim,
      vector("rope_freqs.weight"),
    );
    this.layers = Array.from({ length: number(header, key("block_count")) }, (_, layer) => {
      const name = (part: string): string => `blk.${layer}.${part}`;
      return {
        attentionNorm: norm(name("attn_norm.weight")),
        q: rotated(name("attn_q.weight"), this.heads),
        k: rotated(name("attn_k.weight"), this.kvHeads),
        v: matrix(name("attn_v.weight")),
        qBias: vector(name("attn_q.bias")),
        kBias: vector(name("attn_k.bias")),
        vBias: vector(name("attn_v.bias")),
        qNorm: vector(name("attn_q_norm.weight")),
        kNorm: vector(name("attn_k_norm.weight")),
        output: matrix(name("attn_output.weight")),
        ffNorm: norm(name("ffn_norm.weight")),
        gate: matrix(name("ffn_gate.weight")),
        up: matrix(name("ffn_up.weight")),
        down: matrix(name("ffn_down.weight")),
      };
    });
  }

  /**
   * Logits after every token of a sequence that starts at position 0.
   *
   * @param mix what rows attend to; each row to all rows up to its own where unset
   */
  logits(tokens: readonly number[], mix: Mix = (_layer, q, k, v) => this.#dense(q, k, v)): Logits {
    const positions = tokens.length;
    const x = tokens.map((token) => {
      if (token < 0 || token >= this.vocabulary) {
        throw new Error(`token ${token} is outside the vocabulary of ${this.vocabulary}`);
      }
      const at = token * this.dim;
      return Float64Array.from(this.#embedding.values.subarray(at, at + this.dim));
    });
    for (const [index, layer] of this.layers.entries()) {
      const { q, k, v } = this.#project(layer, x);
      addRows(x, multiply(layer.output, mix(index, q, k, v)));
      addRows(x, this.#feedForward(layer, x));
    }
    const last = multiply(
      this.#output,
      x.map((row) => this.#normed(row, this.#outputNorm)),
    );
    const values = new Float64Array(positions * this.vocabulary);
    for (const [position, row] of last.entries()) values.set(row, position * this.vocabulary);
    return { positions, vocabulary: this.vocabulary, values };
  }

  #normed(row: Float64Array, weight: Float32Array): Float64Array {
    let squares = 0;
    for (const value of row) squares += value * value;
    const scale = 1 / Math.sqrt(squares / row.length + this.#epsilon);
    return row.map((value, i) => value * scale * (weight[i] ?? 0));
  }

  #project(
    layer: Layer,
    x: readonly Float64Array[],
  ): { q: Float64Array[]; k: Float64Array[]; v: Float64Array[] } {
    const input = x.map((row) => this.#normed(row, layer.attentionNorm));
    const q = multiply(layer.q, input);
    const k = multiply(layer.k, input);
    const v = multiply(layer.v, input);
    addBias(q, layer.qBias);
    addBias(k, layer.kBias);
    addBias(v, layer.vBias);
    for (let position = 0; position < x.length; position++) {
      this.#prepare(q[position], layer.qNorm, position);
      this.#prepare(k[position], layer.kNorm, position);
    }
    return { q, k, v };
  }

  #dense(
    q: readonly Float64Array[],
    k: readonly Float64Array[],
    v: readonly Float64Array[],
  ): Float64Array[] {
    const { heads, kvHeads, headDim } = this;
    const scale = 1 / Math.sqrt(headDim);
    const group = heads / kvHeads;
    return q.map((query, position) => {
      const out = new Float64Array(heads * headDim);
      for (let head = 0; head < heads; head++) {
        const from = Math.floor(head / group) * headDim;
        const scores = new Float64Array(position + 1);
        for (let j = 0; j <= position; j++) {
          scores[j] = scale * dotRange(query, head * headDim, k[j], from, headDim);
        }
        const weights = softmax(scores);
        for (let j = 0; j <= position; j++) {
          const value = v[j];
          const weight = weights[j] ?? 0;
          for (let i = 0; value !== undefined && i < headDim; i++) {
            const at = head * headDim + i;
            out[at] = (out[at] ?? 0) + weight * (value[from + i] ?? 0);
          }
        }
      }
      return out;
    });
  }

  /** Per-head norm where the architecture has one, then rotation. `row` is (heads, headDim). */
  #prepare(row: Float64Array | undefined, weight: Float32Array | undefined, at: number): void {
    if (row === undefined) return;
    if (weight !== undefined) {
      for (let head = 0; head < row.length; head += this.headDim) {
        row.set(this.#normed(row.slice(head, head + this.headDim), weight), head);
      }
    }
    rotate(this.#rope, row, at);
  }

  #feedForward(layer: Layer, x: readonly Float64Array[]): Float64Array[] {
    const input = x.map((row) => this.#normed(row, layer.ffNorm));
    const gate = multiply(layer.gate, input);
    const up = multiply(layer.up, input);
    // silu(gate) * up
    const hidden = gate.map((row, position) =>
      row.map((value, i) => (value / (1 + Math.exp(-value))) * (up[position]?.[i] ?? 0)),
    );
    return multiply(layer.down, hidden);
  }
}

function number(header: GgufHeader, key: string, fallback?: number): number {
  const value = header.metadata.get(key) ?? fallback;
  if (typeof value !== "number") throw new Error(`metadata key ${key} is missing`);
  return value;
}

function text(header: GgufHeader, key: string): string {
  const value = header.metadata.get(key);
  if (typeof value !== "string") throw new Error(`metadata key ${key} is missing`);
  return value;
}

function decode(file: GgufFile, info: TensorInfo): Float32Array {
  const count = info.shape.reduce((product, size) => product * size, 1);
  return decodeTensor(info.type, file.tensorBytes(info), count);
}

/** Rows of interleaved rotation back to half rotation: row i of a head is row 2i (or 2i - d + 1). */
function deinterleave(weights: Matrix, heads: number): Matrix {
  const { rows, columns, values } = weights;
  const headDim = rows / heads;
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const head = row - (row % headDim);
    const i = row % headDim;
    const from = head + (i < headDim / 2 ? 2 * i : 2 * i - headDim + 1);
    out.set(values.subarray(from * columns, (from + 1) * columns), row * columns);
  }
  return { rows, columns, values: out };
}

/** Positions that one pass over a row of weights serves: as many sums as fit in registers. */
const tile = 4;

/** y = W x for every row x: plain sums in f64, four rows at a time for speed. */
function multiply(weights: Matrix, x: readonly Float64Array[]): Float64Array[] {
  const { rows, columns, values } = weights;
  for (const input of x) {
    if (input.length !== columns) {
      throw new Error(`a row of ${input.length} values meets a matrix of ${columns} columns`);
    }
  }
  const padding = new Float64Array(columns);
  const y = x.map(() => new Float64Array(rows));
  const w = new Float64Array(columns);
  const sums = new Float64Array(tile);
  for (let row = 0; row < rows; row++) {
    w.set(values.subarray(row * columns, (row + 1) * columns));
    for (let at = 0; at < x.length; at += tile) {
      const x0 = x[at] ?? padding;
      dots(w, x0, x[at + 1] ?? padding, x[at + 2] ?? padding, x[at + 3] ?? padding, sums);
      for (let i = 0; i < tile; i++) {
        const out = y[at + i];
        if (out !== undefined) out[row] = sums[i] ?? 0;
      }
    }
  }
  return y;
}

/** Four dot products with one row of weights. All arrays have the length of `w`. */
function dots(
  w: Float64Array,
  x0: Float64Array,
  x1: Float64Array,
  x2: Float64Array,
  x3: Float64Array,
  sums: Float64Array,
): void {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  for (let i = 0; i < w.length; i++) {
    const weight = w[i] as number;
    s0 += weight * (x0[i] as number);
    s1 += weight * (x1[i] as number);
    s2 += weight * (x2[i] as number);
    s3 += weight * (x3[i] as number);
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

function dotRange(
  a: Float64Array,
  aFrom: number,
  b: Float64Array | undefined,
  bFrom: number,
  count: number,
): number {
  let sum = 0;
  for (let i = 0; b !== undefined && i < count; i++) {
    sum += (a[aFrom + i] ?? 0) * (b[bFrom + i] ?? 0);
  }
  return sum;
}

function softmax(scores: Float64Array): Float64Array {
  const max = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = scores.map((score) => Math.exp(score - max));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / total);
}

function addRows(x: readonly Float64Array[], delta: readonly Float64Array[]): void {
  for (const [position, row] of x.entries()) {
    const add = delta[position];
    for (let i = 0; add !== undefined && i < row.length; i++)
      row[i] = (row[i] ?? 0) + (add[i] ?? 0);
  }
}

function addBias(rows: readonly Float64Array[], bias: Float32Array | undefined): void {
  if (bias === undefined) return;
  for (const row of rows) {
    for (let i = 0; i < row.length; i++) row[i] = (row[i] ?? 0) + (bias[i] ?? 0);
  }
}
