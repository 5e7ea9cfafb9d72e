/**
 * Workers that a session has left without their knowing: they failed a turn, or hung while it went on elsewhere. One that
 * lives on would keep the session's sequence until it needs the room, so it is told to forget it, after each turn until it
 * has heard. Who cannot be reached leftTriesMax times has ended, or drops an idle cache by itself.
 */
import { leftTriesMax, leftWorkersMax, workerUnaryTimeoutMs } from "../limits.js";
import type { WorkerDirectory, WorkerPlace } from "../worker-client/directory.js";
import type { SessionStore } from "./session-store.js";
import { int, text } from "./sql-row.js";
import type { KeptTable, StoreWrites } from "./store-writes.js";

/** A worker that may hold the sequence, and the largest generation that it can have it under. */
export interface LeftWorker extends WorkerPlace {
  readonly generation: number;
}

/** A row. */
interface LeftRow extends LeftWorker {
  /** Times that it was told in vain. */
  readonly tries: number;
}

/** The rows, kept in memory (store-writes.ts); the table is session-schema.ts's. */
export class LeftWorkers implements KeptTable {
  readonly #writes: StoreWrites;
  #kept: readonly LeftRow[] | undefined;

  /** Looks at nothing yet. */
  constructor(writes: StoreWrites) {
    this.#writes = writes;
    writes.register(this);
  }

  /** Notes one; of more than leftWorkersMax the one that was left first is forgotten. */
  note({ worker, address, generation }: LeftWorker): void {
    const others = this.#rows.filter((row) => row.worker !== worker);
    this.#change([...others, { worker, address, generation, tries: 0 }].slice(-leftWorkersMax));
  }

  /** It has heard, or the session is there again. */
  forget(worker: string): void {
    if (this.#rows.some((row) => row.worker === worker)) {
      this.#change(this.#rows.filter((row) => row.worker !== worker));
    }
  }

  /** All of them, the one that was left first first. */
  all(): LeftWorker[] {
    return this.#rows.map(({ worker, address, generation }) => ({ worker, address, generation }));
  }

  /** It did not answer. */
  countTry(worker: string): void {
    this.#change(
      this.#rows
        .map((row) => (row.worker === worker ? { ...row, tries: row.tries + 1 } : row))
        .filter(({ tries }) => tries < leftTriesMax),
    );
  }

  look(): unknown {
    return this.#rows;
  }

  /** Few rows that seldom change: all of them are written anew. */
  write(): void {
    if (this.#kept === undefined) {
      return;
    }
    const { number } = this.#writes.key;
    this.#writes.run("left_worker", "DELETE FROM left_worker WHERE session = ?", number);
    for (const [position, { worker, address, generation, tries }] of this.#kept.entries()) {
      this.#writes.run(
        "left_worker",
        "INSERT INTO left_worker (session, position, worker, address, generation, tries) VALUES (?, ?, ?, ?, ?, ?)",
        number,
        position,
        worker,
        address,
        generation,
        tries,
      );
    }
  }

  reset(): void {
    this.#kept = undefined;
  }

  get #rows(): readonly LeftRow[] {
    this.#kept ??= this.#writes
      .all("left_worker", "SELECT * FROM left_worker WHERE session = ? ORDER BY position")
      .map((row) => ({
        worker: text(row, "worker"),
        address: text(row, "address"),
        generation: int(row, "generation"),
        tries: int(row, "tries"),
      }));
    return this.#kept;
  }

  #change(rows: readonly LeftRow[]): void {
    this.#kept = rows;
    this.#writes.changed(this);
  }
}

/** What it takes to tell workers that a session is gone from them. */
export interface ReleaseOptions {
  readonly store: SessionStore;
  /** Name of its sequence on workers. */
  readonly sequenceId: string;
  readonly directory: WorkerDirectory;
}

/**
 * Tells all that may hold a session's sequence to forget it, before the session itself is deleted; a worker that does not
 * hear it drops an idle cache by itself. What it needs of the store is read at once. Never rejects.
 */
export function releaseSequence({ store, sequenceId, directory }: ReleaseOptions): Promise<void> {
  const binding = store.binding();
  const bound =
    binding === undefined || binding.worker === ""
      ? []
      : [{ ...binding, generation: binding.issued }];
  return releaseAt([...bound, ...store.left.all()], sequenceId, directory);
}

/** Tells the workers that a session has left to forget it. Never rejects. */
export function releaseLeft({ store, sequenceId, directory }: ReleaseOptions): Promise<void> {
  const { left } = store;
  return releaseAt(left.all(), sequenceId, directory, (place, answered) => {
    // It may have been bound again, or left again, meanwhile.
    const same = left
      .all()
      .some(({ worker, generation }) => worker === place.worker && generation === place.generation);
    if (same && answered) {
      left.forget(place.worker);
    } else if (same) {
      left.countTry(place.worker);
    }
  });
}

/** Tells workers to forget a sequence, all at once. `heard` gets each with whether it answered; never rejects. */
export async function releaseAt(
  places: readonly LeftWorker[],
  sequenceId: string,
  directory: WorkerDirectory,
  heard: (place: LeftWorker, answered: boolean) => void = () => undefined,
): Promise<void> {
  await Promise.all(
    places.map(async (place) => {
      try {
        await directory
          .open(place.worker, place.address)
          ?.release(
            { sequenceId, generation: BigInt(place.generation) },
            { timeoutMs: workerUnaryTimeoutMs },
          );
        heard(place, true);
      } catch {
        heard(place, false);
      }
    }),
  );
}
