/**
 * How often workers tell the text of this isolate's turns. An event of tokens costs about the same whether it has one token or ten
 * (read, appended, written in the client's form, some 0.18 ms of the processor), so the more turns run, the larger are the pieces that
 * are asked for: about as many events a second for all of them together.
 */
import { countedTurnMsMax, textIntervalMsMaxDefault, textIntervalTurnsMin } from "../limits.js";

/** Longest interval of this isolate; all requests of an isolate have one configuration. */
let msMax = textIntervalMsMaxDefault;
/** When turns began that ask a worker now, or read its answer, the oldest first. */
const running = new Map<symbol, number>();

/** Sets the longest interval that workers are asked for, in milliseconds; 0: none is. */
export function setTextIntervalMax(ms: number): void {
  msMax = ms;
}

/** A turn of this isolate begins, `nowMs` since 1970. @returns its name, for turnEnds */
export function turnBegins(nowMs: number): symbol {
  const turn = Symbol("turn");
  running.set(turn, nowMs);
  return turn;
}

/** A turn that has begun ends. */
export function turnEnds(turn: symbol): void {
  running.delete(turn);
}

/** Turns that run. One whose object was lost never ends here, so those of more than countedTurnMsMax do not count. */
export function turnsRunning(nowMs: number): number {
  for (const [turn, beginMs] of running) {
    if (nowMs - beginMs <= countedTurnMsMax) break;
    running.delete(turn);
  }
  return running.size;
}

/**
 * Least time between two events of tokens, in milliseconds: one for each turn.
 *
 * @param turns that run, the one that asks included
 * @param longest what it is at most; 0: each step may have an event of its own
 */
export function textIntervalMs(turns: number, longest: number = msMax): number {
  return turns < textIntervalTurnsMin ? 0 : Math.min(turns, longest);
}
