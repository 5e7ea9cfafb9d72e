/**
 * The workers of one pool in memory: who enters and leaves, what is heard of them, and which of them a session gets.
 * Knows no storage and no network; time and chance come in. The PoolObject around it keeps what must last.
 */
import { heartbeatMs, poolWorkersMax, placeQueuedMax } from "../limits.js";
import { admits, breakerState, closedBreaker, failed, placedOn, succeeded } from "./breaker.js";
import { choose, usedShare } from "./placement.js";
import type { Candidate, ChoiceReason } from "./placement.js";
import type {
  Beat,
  MemberAnswer,
  Outcome,
  PlaceAnswer,
  PlaceRequest,
  Registration,
} from "./pool-calls.js";
import { isOver } from "./elapsed.js";
import { candidateLoad, newEntry } from "./pool-entry.js";
import type { PoolEntry, WorkerLoad, WorkerModel, WorkerPlace } from "./pool-entry.js";
import { afterMove, hasRoomFor, isCrowded, movesLeft, worthMoving } from "./rebalance.js";
import type { MoveOffer } from "./rebalance.js";
import { after, entered, isForgotten, stateOf, stateSinceMs } from "./worker-state.js";
import type { WorkerEvent } from "./worker-state.js";

/** See the head of this file. */
export class PoolRoster {
  readonly #pool: string;
  readonly #random: () => number;
  readonly #entries = new Map<string, PoolEntry>();
  readonly #placed: Record<ChoiceReason, number> = {
    only: 0,
    load: 0,
    hash: 0,
    lastResort: 0,
    relief: 0,
  };
  /** Mean fullness by model, as it was at a time. */
  #means: { readonly atMs: number; readonly byModel: ReadonlyMap<string, number> } | undefined;

  /**
   * @param pool name of the pool
   * @param random draws from [0, 1)
   */
  constructor(pool: string, random: () => number) {
    this.#pool = pool;
    this.#random = random;
  }

  /** Placements by reason so far. */
  get placed(): Readonly<Record<ChoiceReason, number>> {
    return { ...this.#placed };
  }

  /** Puts an entry in, as the configuration or the storage has it. */
  add(entry: PoolEntry): void {
    this.#entries.set(entry.worker, entry);
  }

  /** All entries, by name. */
  entries(): PoolEntry[] {
    return [...this.#entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** The entry of a name within the pool. */
  byName(name: string): PoolEntry | undefined {
    return [...this.#entries.values()].find((entry) => entry.name === name);
  }

  /** Whether an entry is still in: its process may have left, or a later one have taken its place. */
  has(entry: PoolEntry): boolean {
    return this.#entries.get(entry.worker) === entry;
  }

  /** Enters a process; a later one takes the place of an earlier one. */
  register(request: Registration, nowMs: number): MemberAnswer {
    const worker = `pool:${this.#pool}/${request.name}`;
    const known = this.#entries.get(worker);
    const sameProcess = known?.incarnation === request.incarnation;
    if (known === undefined && this.byName(request.name) !== undefined) {
      return { kind: "out", message: `the configuration has a worker named "${request.name}"` };
    }
    if (known === undefined && this.#entries.size >= poolWorkersMax) {
      return {
        kind: "full",
        message: `pool "${this.#pool}" has ${this.#entries.size} workers, at most ${poolWorkersMax}`,
      };
    }
    if (known !== undefined) {
      const refusal = sameProcess ? evicted(known) : replaced(known, request, nowMs);
      if (refusal !== undefined) {
        return refusal;
      }
    }
    const keeps = known !== undefined && sameProcess && stateOf(known.facts, nowMs) !== "failed";
    const entry = keeps
      ? known
      : newEntry({ worker, name: request.name, origin: "registered" }, nowMs, {
          incarnation: request.incarnation,
          startMs: request.startMs,
          facts: entered(nowMs, { reports: true, drainWanted: known?.facts.drainWanted ?? false }),
        });
    entry.models = request.models;
    if (entry.address !== request.address) {
      entry.address = request.address;
      entry.facts = { ...entry.facts, answered: false, enteredMs: nowMs, changedMs: nowMs };
    }
    this.#entries.set(worker, entry);
    return this.#heard(entry, request, nowMs);
  }

  /** Takes a heartbeat. */
  heartbeat(beat: Beat, nowMs: number): MemberAnswer {
    const entry = this.#entries.get(`pool:${this.#pool}/${beat.name}`);
    if (entry === undefined) {
      return { kind: "unknown" };
    }
    if (entry.incarnation !== beat.incarnation) {
      return { kind: "out", message: `a later process of worker "${beat.name}" is in the pool` };
    }
    if (stateOf(entry.facts, nowMs) === "failed") {
      return evicted(entry) ?? { kind: "unknown" };
    }
    return this.#heard(entry, beat, nowMs);
  }

  /** Takes a process out; false if it is not in. */
  deregister(name: string, incarnation: string): boolean {
    const worker = `pool:${this.#pool}/${name}`;
    // A wish of people and an eviction outlive the process.
    const entry = this.#entries.get(worker);
    if (entry?.incarnation !== incarnation) {
      return false;
    }
    return entry.facts.evictedMs > 0 || this.#entries.delete(worker);
  }

  /** Something happened to an entry. */
  apply(entry: PoolEntry, event: WorkerEvent, nowMs: number): void {
    entry.facts = after(entry.facts, event, nowMs);
    if (event.kind === "resume") {
      entry.breaker = closedBreaker;
    }
  }

  /** An entry's own status arrived. */
  answered(
    entry: PoolEntry,
    status: {
      readonly models: readonly WorkerModel[];
      readonly load: WorkerLoad;
      readonly shutsDown: boolean;
    },
    nowMs: number,
  ): void {
    this.apply(entry, { kind: "answered" }, nowMs);
    this.apply(entry, { kind: "heard", shutsDown: status.shutsDown }, nowMs);
    entry.models = status.models;
    this.#setLoad(entry, status.load, nowMs);
  }

  /** Takes note of what became of a call. */
  report(place: WorkerPlace, outcome: Outcome, nowMs: number): void {
    const entry = this.#at(place);
    if (entry === undefined) {
      return;
    }
    switch (outcome) {
      case "succeeded":
        entry.breaker = succeeded(entry.breaker, nowMs);
        this.served(place, nowMs);
        break;
      case "failed":
        entry.failuresTotal++;
        entry.breaker = failed(entry.breaker, nowMs);
        break;
      case "full":
        // Until it says its load again, it is taken at its word.
        entry.load = { ...entry.load, queued: Math.max(entry.load.queued, placeQueuedMax) };
        break;
      case "shutsDown":
        this.apply(entry, { kind: "shutsDown" }, nowMs);
        break;
    }
  }

  /** A worker has served a turn. */
  served(place: WorkerPlace, nowMs: number): void {
    const entry = this.#at(place);
    // One that reports is heard by its heartbeats only: they say what it is and how full.
    if (entry?.origin === "configured") {
      this.apply(entry, { kind: "answered" }, nowMs);
    }
  }

  /** What a session found at an address that the worker has left says nothing of its new process. */
  #at({ worker, address }: WorkerPlace): PoolEntry | undefined {
    const entry = this.#entries.get(worker);
    return address === "" || address === entry?.address ? entry : undefined;
  }

  /** Places a session now. `full` where waiting may help; `stay` only for one that offers to move. */
  place(request: PlaceRequest, nowMs: number): PlaceAnswer {
    if (request.move !== undefined) {
      return this.#relieve(request, request.move, nowMs);
    }
    const open: PoolEntry[] = [];
    let known = false;
    for (const entry of this.#entries.values()) {
      if (!serves(entry, request.model)) {
        continue;
      }
      const state = stateOf(entry.facts, nowMs);
      known ||= state !== "failed";
      if (state === "ready" && admits(entry.breaker, nowMs)) {
        open.push(entry);
      }
    }
    if (!known) {
      return { kind: "none" };
    }
    const avoid = new Set(request.avoid);
    const fresh = avoid.size === 0 ? open : open.filter(({ worker }) => !avoid.has(worker));
    // Those that it avoids only where there is no other; first whoever understands the session's log.
    const may = fresh.length > 0 ? fresh : open;
    for (const group of [may.filter((entry) => understands(entry, request)), may]) {
      const choice = choose(group, candidate, request.key, this.#random);
      if (choice !== undefined) {
        return this.#place(choice.chosen, choice.reason, nowMs);
      }
    }
    return { kind: "full" };
  }

  #place(entry: PoolEntry, reason: ChoiceReason, nowMs: number): PlaceAnswer {
    entry.placed++;
    entry.placedTotal++;
    entry.breaker = placedOn(entry.breaker, nowMs);
    this.#placed[reason]++;
    return { kind: "placed", worker: entry.worker, address: entry.address, reason };
  }

  /** Moves a session off a crowded worker to one that stays below the mean with it, if there is one. */
  #relieve(request: PlaceRequest, offer: MoveOffer, nowMs: number): PlaceAnswer {
    const from = this.#entries.get(offer.from);
    const mean = this.#mean(request.model, nowMs);
    if (
      from?.crowded !== true ||
      mean === undefined ||
      movesLeft(from.moveBudget, nowMs) < 1 ||
      !worthMoving(offer, candidateLoad(from), mean)
    ) {
      return { kind: "stay" };
    }
    const roomy = this.#peers(request.model, nowMs).filter(
      (entry) =>
        hasRoomFor(offer.pages, candidateLoad(entry), mean) &&
        !request.avoid.includes(entry.worker) &&
        entry !== from &&
        breakerState(entry.breaker, nowMs) === "closed" &&
        understands(entry, request) &&
        movesLeft(entry.moveBudget, nowMs) >= 1,
    );
    const entry = choose(roomy, candidate, request.key, this.#random)?.chosen;
    if (entry === undefined) {
      return { kind: "stay" };
    }
    for (const [side, pages] of [
      [from, -offer.pages],
      [entry, offer.pages],
    ] as const) {
      side.pagesMoved += pages;
      side.moveBudget = afterMove(side.moveBudget, nowMs);
    }
    from.movedTotal++;
    this.#look(from, nowMs);
    return this.#place(entry, "relief", nowMs);
  }

  /** Ready workers of a model that say how many pages they have. */
  #peers(model: string, nowMs: number): PoolEntry[] {
    return [...this.#entries.values()].filter(
      (entry) =>
        entry.origin !== "embedded" &&
        entry.load.pages > 0 &&
        stateOf(entry.facts, nowMs) === "ready" &&
        entry.models.some((served) => served.model === model),
    );
  }

  /** Mean fullness of a model's ready workers, at most as old as a heartbeat; undefined if fewer than two say it. */
  #mean(model: string, nowMs: number): number | undefined {
    if (this.#means === undefined || isOver(this.#means.atMs, heartbeatMs, nowMs)) {
      const models = new Set(
        [...this.#entries.values()].flatMap((entry) => entry.models.map((served) => served.model)),
      );
      const byModel = new Map<string, number>();
      for (const name of models) {
        const shares = this.#peers(name, nowMs).map((entry) => usedShare(candidateLoad(entry)));
        if (shares.length >= 2) {
          byModel.set(name, shares.reduce((sum, share) => sum + share, 0) / shares.length);
        }
      }
      this.#means = { atMs: nowMs, byModel };
    }
    return this.#means.byModel.get(model);
  }

  /** Looks whether a worker is crowded, next to those that serve what it serves. */
  #look(entry: PoolEntry, nowMs: number): void {
    const means = entry.models.flatMap(({ model }) => this.#mean(model, nowMs) ?? []);
    const share = usedShare(candidateLoad(entry));
    entry.crowded =
      means.length > 0 &&
      stateOf(entry.facts, nowMs) === "ready" &&
      isCrowded(entry.crowded, share, Math.max(...means));
  }

  /** Forgets those that have been failed for long. */
  prune(nowMs: number): PoolEntry[] {
    const gone = [...this.#entries.values()].filter((entry) => isForgotten(entry.facts, nowMs));
    for (const entry of gone) {
      this.#entries.delete(entry.worker);
    }
    return gone;
  }

  /**
   * Forgets those that have been failed for long, and where the pool is full without them, for a worker of a name that is not in
   * it, the one that failed first: what is dead keeps nobody out. One that was evicted stays for its time.
   */
  makeRoom(name: string, nowMs: number): PoolEntry[] {
    const gone = this.prune(nowMs);
    if (this.#entries.size >= poolWorkersMax && this.byName(name) === undefined) {
      const [first] = [...this.#entries.values()]
        .filter(({ facts }) => facts.evictedMs === 0 && stateOf(facts, nowMs) === "failed")
        .sort((a, b) => stateSinceMs(a.facts, nowMs) - stateSinceMs(b.facts, nowMs));
      if (first !== undefined) {
        this.#entries.delete(first.worker);
        gone.push(first);
      }
    }
    return gone;
  }

  #heard(
    entry: PoolEntry,
    said: { readonly load: WorkerLoad; readonly shutsDown: boolean },
    nowMs: number,
  ): MemberAnswer {
    this.apply(entry, { kind: "heard", shutsDown: said.shutsDown }, nowMs);
    this.#setLoad(entry, said.load, nowMs);
    return { kind: "member", state: stateOf(entry.facts, nowMs) };
  }

  #setLoad(entry: PoolEntry, load: WorkerLoad, nowMs: number): void {
    entry.load = load;
    entry.placed = 0;
    entry.pagesMoved = 0;
    this.#look(entry, nowMs);
  }
}

/** Whether a worker is one of the model's; a configured one that has not said is taken to be that of its name. */
function serves(entry: PoolEntry, model: string): boolean {
  return entry.models.length === 0
    ? entry.origin === "configured" && entry.worker.startsWith(`worker:${model}/`)
    : entry.models.some((served) => served.model === model);
}

function candidate(entry: PoolEntry): Candidate {
  return {
    worker: entry.worker,
    lastResort: entry.origin === "embedded",
    load: candidateLoad(entry),
  };
}

/** Whether a worker can go on with the ids and the cache of a session's log. One that has not said is taken to. */
function understands(
  entry: PoolEntry,
  { model, fingerprint, planFingerprint }: PlaceRequest,
): boolean {
  const served = entry.models.find((candidate) => candidate.model === model);
  return (
    served === undefined ||
    ((fingerprint === "" || served.fingerprint === "" || served.fingerprint === fingerprint) &&
      (planFingerprint === "" ||
        served.planFingerprints.length === 0 ||
        served.planFingerprints.includes(planFingerprint)))
  );
}

function evicted(entry: PoolEntry): MemberAnswer | undefined {
  return entry.facts.evictedMs > 0
    ? { kind: "out", message: `worker "${entry.name}" was evicted by an operator` }
    : undefined;
}

/** An earlier process does not take the place of a later one that lives. */
function replaced(
  known: PoolEntry,
  request: Registration,
  nowMs: number,
): MemberAnswer | undefined {
  const state = stateOf(known.facts, nowMs);
  const lives = state !== "notReady" && state !== "failed";
  return lives && request.startMs < known.startMs
    ? { kind: "out", message: `a later process of worker "${request.name}" is in the pool` }
    : undefined;
}
