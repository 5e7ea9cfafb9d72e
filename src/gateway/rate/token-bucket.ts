/**
 * A token bucket, told by what was taken and has not flowed back yet: so its size may change at any time. It holds
 * `perMinute` when full and fills in a minute. Taking more than it holds is refused; `settle` may overdraw it, and what
 * was overdrawn flows back before anything else is given.
 *
 * From any moment on, t milliseconds see at most perMinute * (1 + t / 60,000) taken, and what `settle` adds to that.
 */

/** A bucket. */
export interface TokenBucket {
  /** Taken, and not flowed back at `atMs`; 0 when full, above `perMinute` when overdrawn. */
  readonly used: number;
  /** Milliseconds since 1970. */
  readonly atMs: number;
}

/** A full bucket. */
export const fullBucket: TokenBucket = { used: 0, atMs: 0 };

const minuteMs = 60_000;
/** What the rounding of sums of fractions may add up to, in tokens and in milliseconds. */
const roundingMax = 1e-6;

/**
 * The bucket as it is now. A clock that went back lets nothing flow until it is where it was, or for a minute: the time in
 * which a bucket fills.
 */
export function refilled(bucket: TokenBucket, perMinute: number, nowMs: number): TokenBucket {
  const flowed = (Math.max(0, nowMs - bucket.atMs) * perMinute) / minuteMs;
  const atMs = Math.max(nowMs, Math.min(bucket.atMs, nowMs + minuteMs));
  return { used: Math.max(0, bucket.used - flowed), atMs };
}

/** What a refilled bucket can still give, a whole number. */
export function remaining({ used }: TokenBucket, perMinute: number): number {
  return Math.max(0, Math.floor(perMinute - used + roundingMax));
}

/**
 * Milliseconds until a refilled bucket can give `amount`; 0: now. More than it ever holds is taken when it is full, so that no
 * request is refused for good.
 */
export function waitMs({ used }: TokenBucket, perMinute: number, amount: number): number {
  const wanted = Math.min(amount, perMinute);
  const ms = ((used + wanted - perMinute) * minuteMs) / perMinute;
  return Math.max(0, Math.ceil(ms - roundingMax));
}

/** Milliseconds until a refilled bucket is full. */
export function fullInMs({ used }: TokenBucket, perMinute: number): number {
  return Math.max(0, Math.ceil((used * minuteMs) / perMinute - roundingMax));
}

/** A bucket after `amount` was taken, or given back if it is below 0. */
export function taken({ used, atMs }: TokenBucket, amount: number): TokenBucket {
  return { used: Math.max(0, used + amount), atMs };
}
