/** The end of a turn, or its withdrawal, as changes of the session's tables; whoever makes them has them stored. */
import type { FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import type { Finished } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { bindingTtlMs } from "../limits.js";
import type { TurnRecord } from "./session-records.js";
import type { SessionStore } from "./session-store.js";

/** When a turn ends. */
export interface TurnTimes {
  /** Milliseconds since 1970. */
  readonly nowMs: number;
  /** Time from there to when the session's cache is saved. */
  readonly snapshotIdleMs: number;
}

/** How a turn ends. */
export interface TurnEnding extends TurnTimes {
  readonly finishReason: FinishReason;
  /** Empty unless it failed. */
  readonly errorMessage: string;
  /** What the worker said at the end; undefined where it did not get there. */
  readonly finished: Finished | undefined;
}

/** Ends a running turn, with what waits from before: a turn that ends soon is one commit. */
export function endTurn(store: SessionStore, turn: TurnRecord, ending: TurnEnding): void {
  const { errorMessage, finishReason, finished, nowMs, snapshotIdleMs } = ending;
  store.later(() => {
    store.endTurn(turn.number, {
      finishReason,
      errorMessage,
      generatedTokens: finished?.generatedTokens,
      cacheBytes: Number(finished?.cacheBytes ?? store.session()?.cacheBytes ?? 0),
      nowMs,
    });
    if (finished !== undefined) {
      store.cache.setPages(finished.cachePages);
    }
    const binding = store.binding();
    if (turn.accepted && binding !== undefined && binding.worker !== "") {
      store.bind(binding, binding.generation, nowMs + bindingTtlMs);
    }
    store.cache.setSaveDue(nowMs + snapshotIdleMs);
    store.touch(nowMs);
  });
}

/** Takes back a turn that no worker accepted. */
export function withdrawTurn(store: SessionStore, number: number, times: TurnTimes): void {
  const { nowMs, snapshotIdleMs } = times;
  store.atomically(() => {
    store.withdrawTurn(number);
    store.cache.setSaveDue(nowMs + snapshotIdleMs);
    store.touch(nowMs);
  });
}
