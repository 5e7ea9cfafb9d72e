/**
 * Rotary position embedding of the oracle, in half rotation (channel i pairs with i + half), with the
 * scalings that GGUF files name: linear, YaRN, and the factors of a `rope_freqs` tensor.
 */
import type { ReadValue } from "./gguf.js";

/** Everything that turns a position into angles. */
export type RopeConfig = {
  headDim: number;
  base: number;
  /** 1 / scaling factor of the file; 1 when the file has none. */
  frequencyScale: number;
  /** Only YaRN mixes scaled and unscaled frequencies. */
  yarn: boolean;
  /** Positions of the model before its window was extended. */
  originalContext: number;
  betaFast: number;
  betaSlow: number;
  /** Length of the rotated vectors relative to the plain ones: YaRN's attention temperature. */
  magnitude: number;
  /** Divisors of the frequencies, one per pair; absent means 1. */
  factors: Float32Array | undefined;
};

/** Reads a file's rope keys the way llama.cpp does. */
export function ropeConfig(
  metadata: ReadonlyMap<string, ReadValue>,
  architecture: string,
  headDim: number,
  factors: Float32Array | undefined,
): RopeConfig {
  const number = (name: string, fallback: number): number => {
    const value = metadata.get(`${architecture}.${name}`);
    return typeof value === "number" ? value : fallback;
  };
  const scaling = metadata.get(`${architecture}.rope.scaling.type`);
  const factor = number("rope.scaling.factor", 1);
  const yarn = scaling === "yarn";
  const scaled = (yarn || scaling === "linear") && factor !== 0;
  // YaRN, section 3.4: softmax temperature t with sqrt(1 / t) = 0.1 ln(s) + 1, put into q and k.
  const temperature = yarn && factor > 1 ? 0.1 * Math.log(factor) + 1 : 1;
  return {
    headDim,
    base: number("rope.freq_base", 10_000),
    frequencyScale: scaled ? 1 / factor : 1,
    yarn,
    originalContext: number("rope.scaling.original_context_length", number("context_length", 0)),
    betaFast: number("rope.scaling.yarn_beta_fast", 32),
    betaSlow: number("rope.scaling.yarn_beta_slow", 1),
    magnitude: temperature * number("rope.scaling.attn_factor", 1),
    factors,
  };
}

/** The pair whose wavelength fits `rotations` times into the original window (fractional). */
function correctionPair(rope: RopeConfig, rotations: number): number {
  return (
    (rope.headDim * Math.log(rope.originalContext / (rotations * 2 * Math.PI))) /
    (2 * Math.log(rope.base))
  );
}

/** Angle of each pair at a position, in radians. */
export function ropeAngles(rope: RopeConfig, position: number): Float64Array {
  const half = rope.headDim / 2;
  const angles = new Float64Array(half);
  const low = Math.max(0, Math.floor(correctionPair(rope, rope.betaFast)));
  const high = Math.min(rope.headDim - 1, Math.ceil(correctionPair(rope, rope.betaSlow)));
  for (let i = 0; i < half; i++) {
    const divisor = rope.factors?.[i] ?? 1;
    const plain = (position * rope.base ** ((-2 * i) / rope.headDim)) / divisor;
    const scaled = rope.frequencyScale * plain;
    if (!rope.yarn) {
      angles[i] = scaled;
      continue;
    }
    const ramp = (i - low) / Math.max(0.001, high - low);
    const keepPlain = 1 - Math.min(1, Math.max(0, ramp));
    angles[i] = scaled * (1 - keepPlain) + plain * keepPlain;
  }
  return angles;
}

/** Rotates every head of a row in place. `row` is (heads, headDim). */
export function rotate(rope: RopeConfig, row: Float64Array, position: number): void {
  const half = rope.headDim / 2;
  const angles = ropeAngles(rope, position);
  for (let head = 0; head < row.length; head += rope.headDim) {
    for (let i = 0; i < half; i++) {
      const cos = Math.cos(angles[i] ?? 0) * rope.magnitude;
      const sin = Math.sin(angles[i] ?? 0) * rope.magnitude;
      const a = row[head + i] ?? 0;
      const b = row[head + half + i] ?? 0;
      row[head + i] = a * cos - b * sin;
      row[head + half + i] = a * sin + b * cos;
    }
  }
}
