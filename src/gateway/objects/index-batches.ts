/**
 * What this isolate's sessions have to tell the indexes of their tenants. A call and a commit of the index for each of them cost
 * more than anything else that a first turn does outside of itself, so a session that has something to tell takes along what
 * others of its tenant have told here meanwhile. Only data is shared: no session waits for another one's work. A session that
 * gave its entry away reads later what the index answered; what is lost on the way, its alarm tells anew.
 */
import { indexAnswersMax, indexBatchMax, indexPushMs, indexTenantsMax } from "../limits.js";
import type { IndexEntry } from "./index-entry.js";

/** What waits for one tenant. */
interface Batch {
  readonly entries: Map<string, IndexEntry>;
  /** Who took it upon itself to carry it should have done so by then. */
  dueMs: number;
}

/** What the index said of an entry. */
export interface IndexAnswer {
  /** Version of the entry. */
  readonly version: number;
  /** Version that the index holds since. */
  readonly held: number;
}

/** See the head of this file. */
export class IndexBatches {
  readonly #batches = new Map<string, Batch>();
  readonly #answers = new Map<string, IndexAnswer>();

  /**
   * Adds what a session has to tell. True: the caller must carry the batch, within indexPushMs; nobody else does, or the one who
   * said so is late, or the batch is full.
   */
  add(tenant: string, entry: IndexEntry, nowMs: number): boolean {
    const batch = this.#batches.get(tenant);
    if (batch === undefined) {
      makeRoom(this.#batches, indexTenantsMax);
      const entries = new Map([[entry.sessionId, entry]]);
      this.#batches.set(tenant, { entries, dueMs: nowMs + 2 * indexPushMs });
      return true;
    }
    const before = batch.entries.get(entry.sessionId);
    if (before === undefined || before.version < entry.version) {
      batch.entries.set(entry.sessionId, entry);
    }
    if (nowMs < batch.dueMs && batch.entries.size < indexBatchMax) {
      return false;
    }
    batch.dueMs = nowMs + 2 * indexPushMs;
    return true;
  }

  /** Takes all that waits for a tenant; another one may have carried it already. */
  take(tenant: string): readonly IndexEntry[] {
    const entries = this.#batches.get(tenant)?.entries.values() ?? [];
    this.#batches.delete(tenant);
    return [...entries];
  }

  /** Keeps what the index answered to an entry until its session asks. */
  answered(tenant: string, sessionId: string, answer: IndexAnswer): void {
    makeRoom(this.#answers, indexAnswersMax);
    this.#answers.set(nameOf(tenant, sessionId), answer);
  }

  /** What the index answered to a session's entry, once. */
  answer(tenant: string, sessionId: string): IndexAnswer | undefined {
    const name = nameOf(tenant, sessionId);
    const answer = this.#answers.get(name);
    this.#answers.delete(name);
    return answer;
  }
}

/** Those of all sessions of this isolate. */
export const isolateBatches = new IndexBatches();

function nameOf(tenant: string, sessionId: string): string {
  return JSON.stringify([tenant, sessionId]);
}

/** Drops the oldest of a map that is full: what it meant is found out anew. */
function makeRoom(map: Map<string, unknown>, sizeMax: number): void {
  if (map.size < sizeMax) {
    return;
  }
  for (const oldest of map.keys()) {
    map.delete(oldest);
    return;
  }
}
