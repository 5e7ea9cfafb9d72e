/** The quantiser of archive pages: docs/page-format.md section 2.1 and 2.2. */
import { f16IsFinite, f16ToNumber, numberToF16 } from "./half.js";

/** What the values of a quantisation group share. */
export interface Group {
  readonly min: number;
  readonly max: number;
  /** binary16 bits of min and max; a zero is +0. */
  readonly minBits: number;
  readonly maxBits: number;
  /** binary16 bits; 0 for f16 storage. */
  readonly scaleBits: number;
}

/**
 * Range and scale of a group.
 *
 * @param values binary16 bits, at least one
 * @param levels largest code; 0 for f16 storage
 * @returns undefined if a value is NaN or infinite
 */
export function groupOf(values: ArrayLike<number>, levels: number): Group | undefined {
  let min = Infinity;
  let max = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const bits = values[i] ?? 0;
    if (!f16IsFinite(bits)) return undefined;
    // Adding 0 turns -0 into +0.
    const x = f16ToNumber(bits) + 0;
    if (x < min) min = x;
    if (x > max) max = x;
  }
  return {
    min,
    max,
    minBits: numberToF16(min),
    maxBits: numberToF16(max),
    scaleBits: levels === 0 ? 0 : scaleOf(min, max, levels),
  };
}

/**
 * Bits of the smallest binary16 s >= 0 with s * levels >= max - min. Differences and products of
 * binary16 values are exact in doubles, so this is the definition itself.
 */
export function scaleOf(min: number, max: number, levels: number): number {
  const range = max - min;
  let bits = numberToF16(range / levels);
  while (bits > 0 && f16ToNumber(bits - 1) * levels >= range) bits--;
  while (f16ToNumber(bits) * levels < range) bits++;
  return bits;
}

/** Code of one value of a group, given as binary16 bits. */
export function codeOf(bits: number, group: Group): number {
  if (group.scaleBits === 0) return 0;
  const scale = f16ToNumber(group.scaleBits);
  // fround of a double quotient of two f32 numbers is the f32 quotient (Figueroa 1995).
  const quotient = Math.fround(Math.fround(f16ToNumber(bits) - group.min) / scale);
  const down = Math.floor(quotient);
  const rest = quotient - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}

/** The value that a code stands for, as an f32. */
export function valueOf(code: number, scaleBits: number, minBits: number): number {
  return Math.fround(f16ToNumber(minBits) + f16ToNumber(scaleBits) * code);
}

/** Writes a run of codes, planar: byte j holds codes j, j + m, j + 2 m ..., m bytes in all. */
export function storeRun(
  out: Uint8Array,
  offset: number,
  codes: ArrayLike<number>,
  bits: number,
): void {
  const m = (codes.length * bits) / 8;
  for (let j = 0; j < m; j++) {
    let byte = 0;
    for (let i = 0; i < 8 / bits; i++) byte |= (codes[i * m + j] ?? 0) << (bits * i);
    out[offset + j] = byte;
  }
}

/** Code `index` of a run of `length` codes at `offset`. */
export function loadCode(
  bytes: Uint8Array,
  offset: number,
  index: number,
  length: number,
  bits: number,
): number {
  const m = (length * bits) / 8;
  const byte = bytes[offset + (index % m)] ?? 0;
  return (byte >> (bits * Math.floor(index / m))) & ((1 << bits) - 1);
}
