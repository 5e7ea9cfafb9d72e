/**
 * What this isolate's turns have to tell their pools of workers that are not in doubt: that they served. A call for each was one of the
 * two that a session's first turn makes to its pool, so that they are told together, poolServedMs after the first. Only data is
 * shared: whoever adds the first takes along what others add meanwhile.
 */
import type { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import { poolServedMax, poolServedMs } from "../limits.js";
import type { ServedTurns } from "./pool-calls.js";
import type { WorkerPlace } from "./pool-entry.js";

interface Batch {
  /** By worker, address and reason. */
  readonly turns: Map<string, ServedTurns>;
  /** Who took it upon itself to carry it should have done so by then. */
  dueMs: number;
}

/** See the head of this file. */
export class ServedBatches {
  readonly #batches = new Map<string, Batch>();

  /**
   * Adds a turn. True: the caller must carry the pool's batch, poolServedMs later; nobody else does, or the one who said so is late.
   * A batch of poolServedMax workers and reasons takes no other: a pool that is told so much late knows that they serve.
   */
  add(
    pool: string,
    { worker, address }: WorkerPlace,
    reason: PlacementReason,
    nowMs: number,
  ): boolean {
    let batch = this.#batches.get(pool);
    const carries = batch === undefined || nowMs >= batch.dueMs;
    batch ??= { turns: new Map(), dueMs: 0 };
    this.#batches.set(pool, batch);
    if (carries) {
      batch.dueMs = nowMs + 2 * poolServedMs;
    }
    const name = JSON.stringify([worker, address, reason]);
    const turns = (batch.turns.get(name)?.turns ?? 0) + 1;
    if (turns > 1 || batch.turns.size < poolServedMax) {
      batch.turns.set(name, { worker, address, reason, turns });
    }
    return carries;
  }

  /** Takes all that waits for a pool; another one may have carried it already. */
  take(pool: string): readonly ServedTurns[] {
    const turns = this.#batches.get(pool)?.turns.values() ?? [];
    this.#batches.delete(pool);
    return [...turns];
  }
}
