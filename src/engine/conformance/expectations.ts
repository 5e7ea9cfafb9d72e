/** The kernel contract in plain f64: what any backend is held against. */
import { f16ToNumber } from "../page/half.js";

/** An f32 array from its bits. */
export function fromBits(bits: Uint32Array): Float32Array {
  return new Float32Array(bits.buffer, bits.byteOffset, bits.length);
}

/**
 * Index of the first difference of two arrays, -1 if there is none. For long arrays: it takes a
 * small part of what `toEqual` takes.
 */
export function firstDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const count = Math.max(actual.length, expected.length);
  for (let i = 0; i < count; i++) if (!Object.is(actual[i], expected[i])) return i;
  return -1;
}

/** The largest |actual - expected| / (|expected| + scale); NaN if anything is not a number. */
export function worstError(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  scale: number | ArrayLike<number>,
): number {
  let worst = actual.length === expected.length ? 0 : NaN;
  for (let i = 0; i < expected.length; i++) {
    const e = expected[i] ?? NaN;
    const unit = typeof scale === "number" ? scale : (scale[i] ?? NaN);
    const error = Math.abs((actual[i] ?? NaN) - e) / (Math.abs(e) + unit);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

/** Activations of one row as int8 products see them: q * scale, per 32 columns. */
export function quantisedActivations(x: Float32Array): Float64Array {
  const out = new Float64Array(x.length);
  for (let begin = 0; begin < x.length; begin += 32) {
    const block = x.subarray(begin, begin + 32);
    const scale = Math.fround(block.reduce((max, v) => Math.max(max, Math.abs(v)), 0) / 127);
    block.forEach((value, i) => {
      const scaled = scale === 0 ? 0 : Math.fround(value / scale);
      const steps = Math.min(127, Math.floor(Math.abs(scaled) + 0.5));
      out[begin + i] = Math.sign(scaled) * steps * scale;
    });
  }
  return out;
}

/** y = W x, and the sum of |w x| beside it, the unit in which rounding errors are counted. */
export function product(
  weights: Float32Array,
  rows: number,
  x: ArrayLike<number>,
): { y: Float64Array; magnitude: Float64Array } {
  const cols = weights.length / rows;
  const y = new Float64Array(rows);
  const magnitude = new Float64Array(rows);
  for (let row = 0; row < rows; row++) {
    let sum = 0;
    let size = 0;
    for (let col = 0; col < cols; col++) {
      const term = (weights[row * cols + col] ?? 0) * (x[col] ?? 0);
      sum += term;
      size += Math.abs(term);
    }
    y[row] = sum;
    magnitude[row] = size;
  }
  return { y, magnitude };
}

/** One row of RMS norm. */
export function rmsnormRow(x: Float32Array, weight: Float32Array, eps: number): Float64Array {
  const mean = x.reduce((sum, v) => sum + v * v, 0) / x.length;
  return Float64Array.from(x, (v, i) => (v / Math.sqrt(mean + eps)) * (weight[i] ?? 0));
}

/** silu(gate) * up. */
export function swigluOf(gate: Float32Array, up: Float32Array): Float64Array {
  return Float64Array.from(gate, (g, i) => (g / (1 + Math.exp(-g))) * (up[i] ?? 0));
}

/** binary16 bits as numbers. */
export function widen(bits: Uint16Array): Float64Array {
  return Float64Array.from(bits, f16ToNumber);
}
