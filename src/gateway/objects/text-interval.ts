/**
 * How often workers tell the text of this isolate's turns. An event of tokens costs about the same whether it has one token or ten
 * (read, appended, written in the client's form, some 0.18 ms of the processor), so the more turns run, the larger are the pieces that
 * are asked for: about as many events a second for all of them together.
 */
import { textIntervalMsMaxDefault, textIntervalTurnsMin } from "../limits.js";

/** Longest interval of this isolate; all requests of an isolate have one configuration. */
let msMax = textIntervalMsMaxDefault;
/** Turns that ask a worker now, or read its answer. */
let turns = 0;

/** Sets the longest interval that workers are asked for, in milliseconds; 0: none is. */
export function setTextIntervalMax(ms: number): void {
  msMax = ms;
}

/** A turn of this isolate begins; to be told of its end, once. */
export function turnBegins(): void {
  turns++;
}

/** A turn that has begun ends. */
export function turnEnds(): void {
  turns--;
}

/**
 * Least time between two events of tokens, in milliseconds: one for each turn.
 *
 * @param running turns that run, the one that asks included
 * @param longest what it is at most; 0: each step may have an event of its own
 */
export function textIntervalMs(running: number = turns, longest: number = msMax): number {
  return running < textIntervalTurnsMin ? 0 : Math.min(running, longest);
}
