/**
 * Whether a time is over. One that began after now is over, too: the clock was set back, and what waits for it must not wait for
 * as long as it was set back by.
 *
 * @param sinceMs when it began; milliseconds since 1970
 */
export function isOver(sinceMs: number, lengthMs: number, nowMs: number): boolean {
  return nowMs < sinceMs || nowMs - sinceMs >= lengthMs;
}
