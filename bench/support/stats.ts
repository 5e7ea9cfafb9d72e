/** Numbers of rounds, and how they are written. */

/** The middle value; the mean of the two middle ones of an even count. Throws on none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.ceil(sorted.length / 2) - 1];
  if (upper === undefined || lower === undefined) throw new Error("the median of no values");
  return (upper + lower) / 2;
}

/** The value below which a share of the values lies. Throws on none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const found = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  if (found === undefined) throw new Error("a quantile of no values");
  return found;
}

/** Three digits, or as many as stand before the point. */
export function digits(value: number): string {
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A share as a percentage, without the sign. */
export function percent(share: number): string {
  return (100 * share).toFixed(share < 0.1 ? 1 : 0);
}

/** Every round's value, in the order in which they ran. */
export function rounds(values: readonly number[]): string {
  return values.length === 0 ? "-" : values.map(digits).join(" ");
}

/** Bytes as MiB. */
export function mebibytes(bytes: number): string {
  return (bytes / (1024 * 1024)).toFixed(2);
}

/** 1 GB. */
export const gigabyte = 1e9;
