/**
 * The six tensor types that leanedge reads, encoded and decoded by the formulas of ggml's reference
 * quantisers (`quantize_row_*_ref`). All arithmetic that ggml does in f32 is rounded to f32 here, so
 * that a tensor written by this file has the bytes that ggml would have written.
 *
 * Written apart from the engine on purpose: it is part of what judges the engine.
 */

/** Tensor types by the names GGUF tools print. */
export type TensorType = "F32" | "F16" | "BF16" | "Q8_0" | "Q4_0" | "Q4_1";

/** ggml's type ids, and bytes per block of `values` consecutive values of a row. */
export const tensorTypes: Readonly<
  Record<TensorType, { id: number; values: number; bytes: number }>
> = {
  F32: { id: 0, values: 1, bytes: 4 },
  F16: { id: 1, values: 1, bytes: 2 },
  Q4_0: { id: 2, values: 32, bytes: 18 },
  Q4_1: { id: 3, values: 32, bytes: 20 },
  Q8_0: { id: 8, values: 32, bytes: 34 },
  BF16: { id: 30, values: 1, bytes: 2 },
};

const f32 = Math.fround;
const scratch = new DataView(new ArrayBuffer(4));

/** f32 to IEEE binary16, round to nearest, ties to even; overflow gives infinity. */
export function f16Bits(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const exponent = (bits >>> 23) & 0xff;
  const fraction = bits & 0x7fffff;
  if (exponent === 0xff) return sign | 0x7c00 | (fraction === 0 ? 0 : 0x200);
  const rebased = exponent - 127 + 15;
  if (rebased >= 31) return sign | 0x7c00;
  // Below 2^-14 the result is subnormal: the hidden bit is shifted into view.
  const shift = rebased > 0 ? 13 : 14 - rebased;
  if (shift > 24) return sign;
  const significand = rebased > 0 ? fraction : fraction | 0x800000;
  const kept = significand >>> shift;
  const rest = significand & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  const up = rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0;
  // A carry out of the fraction runs into the exponent, which is what rounding up means there.
  return sign | ((rebased > 0 ? rebased << 10 : 0) + kept + up);
}

/** IEEE binary16 to a number, exact. */
export function f16Value(bits: number): number {
  const sign = (bits & 0x8000) === 0 ? 1 : -1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** f32 to bfloat16, round to nearest, ties to even (finite values only). */
export function bf16Bits(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** bfloat16 to a number, exact. */
export function bf16Value(bits: number): number {
  scratch.setUint32(0, (bits << 16) >>> 0);
  return scratch.getFloat32(0);
}

/** Bytes that `count` values of one type take. Throws when they are not whole blocks. */
export function encodedBytes(type: TensorType, count: number): number {
  const { values, bytes } = tensorTypes[type];
  if (count % values !== 0) {
    throw new Error(`${count} values are not a multiple of the ${values} in a block of ${type}`);
  }
  return (count / values) * bytes;
}

/** C's roundf: half away from zero. `Math.round` rounds -2.5 to -2. */
function roundAwayFromZero(value: number): number {
  return Math.sign(value) * Math.floor(Math.abs(value) + 0.5);
}

/**
 * Q8_0, a block of 32: d = max|x| / 127; q = round(x * (1 / d)), half away from zero.
 * Stored: d as f16, then 32 signed bytes.
 */
function encodeQ8_0(x: Float32Array, at: number, out: DataView, to: number): void {
  let largest = 0;
  for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(x[at + i] ?? 0));
  const d = f32(largest / 127);
  const inverse = d === 0 ? 0 : f32(1 / d);
  out.setUint16(to, f16Bits(d), true);
  for (let i = 0; i < 32; i++) {
    out.setInt8(to + 2 + i, roundAwayFromZero(f32((x[at + i] ?? 0) * inverse)));
  }
}

/**
 * Q4_0, a block of 32: m = the value of largest magnitude, with its sign; d = m / -8;
 * q = min(15, trunc(x * (1 / d) + 8.5)). Stored: d as f16, then 16 bytes: value i in the low half of
 * byte i, value i + 16 in the high half. Read back as (q - 8) * d.
 */
function encodeQ4_0(x: Float32Array, at: number, out: DataView, to: number): void {
  let extreme = 0;
  for (let i = 0; i < 32; i++) {
    const value = x[at + i] ?? 0;
    if (Math.abs(value) > Math.abs(extreme)) extreme = value;
  }
  const d = f32(extreme / -8);
  const inverse = d === 0 ? 0 : f32(1 / d);
  const quantise = (value: number): number =>
    Math.min(15, Math.trunc(f32(f32(value * inverse) + 8.5)));
  out.setUint16(to, f16Bits(d), true);
  for (let i = 0; i < 16; i++) {
    const low = quantise(x[at + i] ?? 0);
    const high = quantise(x[at + 16 + i] ?? 0);
    out.setUint8(to + 2 + i, low | (high << 4));
  }
}

/**
 * Q4_1, a block of 32: d = (max - min) / 15; q = min(15, trunc((x - min) * (1 / d) + 0.5)).
 * Stored: d and min as f16, then 16 bytes as in Q4_0. Read back as q * d + min.
 */
function encodeQ4_1(x: Float32Array, at: number, out: DataView, to: number): void {
  let min = Infinity;
  let max = -Infinity;
  for (let i = 0; i < 32; i++) {
    min = Math.min(min, x[at + i] ?? 0);
    max = Math.max(max, x[at + i] ?? 0);
  }
  const d = f32(f32(max - min) / 15);
  const inverse = d === 0 ? 0 : f32(1 / d);
  const quantise = (value: number): number =>
    Math.min(15, Math.trunc(f32(f32(f32(value - min) * inverse) + 0.5)));
  out.setUint16(to, f16Bits(d), true);
  out.setUint16(to + 2, f16Bits(min), true);
  for (let i = 0; i < 16; i++) {
    const low = quantise(x[at + i] ?? 0);
    const high = quantise(x[at + 16 + i] ?? 0);
    out.setUint8(to + 4 + i, low | (high << 4));
  }
}

/** Values in row-major order to the bytes of a tensor. Rows must be whole blocks. */
export function encodeTensor(type: TensorType, x: Float32Array): Uint8Array {
  const bytes = new Uint8Array(encodedBytes(type, x.length));
  const view = new DataView(bytes.buffer);
  const { values, bytes: step } = tensorTypes[type];
  for (let at = 0, to = 0; at < x.length; at += values, to += step) {
    if (type === "F32") view.setFloat32(to, x[at] ?? 0, true);
    else if (type === "F16") view.setUint16(to, f16Bits(x[at] ?? 0), true);
    else if (type === "BF16") view.setUint16(to, bf16Bits(x[at] ?? 0), true);
    else if (type === "Q8_0") encodeQ8_0(x, at, view, to);
    else if (type === "Q4_0") encodeQ4_0(x, at, view, to);
    else encodeQ4_1(x, at, view, to);
  }
  return bytes;
}

/** The bytes of `count` values of a tensor to f32: the weights that a model of this file has. */
export function decodeTensor(type: TensorType, bytes: Uint8Array, count: number): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Float32Array(count);
  const { values, bytes: step } = tensorTypes[type];
  for (let at = 0, from = 0; at < count; at += values, from += step) {
    if (type === "F32") out[at] = view.getFloat32(from, true);
    else if (type === "F16") out[at] = f16Value(view.getUint16(from, true));
    else if (type === "BF16") out[at] = bf16Value(view.getUint16(from, true));
    else decodeBlock(type, view, from, out, at);
  }
  return out;
}

function decodeBlock(
  type: "Q8_0" | "Q4_0" | "Q4_1",
  view: DataView,
  from: number,
  out: Float32Array,
  at: number,
): void {
  const d = f16Value(view.getUint16(from, true));
  if (type === "Q8_0") {
    for (let i = 0; i < 32; i++) out[at + i] = view.getInt8(from + 2 + i) * d;
    return;
  }
  const min = type === "Q4_1" ? f16Value(view.getUint16(from + 2, true)) : -8 * d;
  const nibbles = from + (type === "Q4_1" ? 4 : 2);
  for (let i = 0; i < 16; i++) {
    const pair = view.getUint8(nibbles + i);
    out[at + i] = (pair & 15) * d + min;
    out[at + 16 + i] = (pair >> 4) * d + min;
  }
}
