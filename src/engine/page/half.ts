/** binary16 <-> number: the same arithmetic as engine/include/leanedge/half.h. */

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** Value of binary16 bits, exact. */
export function f16ToNumber(bits: number): number {
  const exponent = (bits >> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  const sign = (bits & 0x8000) === 0 ? 1 : -1;
  if (exponent === 0x1f) return mantissa === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
}

/**
 * Bits of the binary16 nearest to the f32 nearest to `value`, ties to even both times; infinite
 * beyond 65,504 and half a step.
 */
export function numberToF16(value: number): number {
  f32[0] = value;
  const bits = u32[0] ?? 0;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: a multiple of 2^-24, which is the last place of f32 numbers from 0.5 to 1.
    f32[0] = Math.abs(f32[0]) + 0.5;
    return sign | ((u32[0] ?? 0) - 0x3f000000);
  }
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude + 0xfff + odd - 0x38000000) >>> 13);
}

/** Neither NaN nor infinite. */
export function f16IsFinite(bits: number): boolean {
  return (bits & 0x7c00) !== 0x7c00;
}
