/** Ways to route turns: leanedge's own, made of the gateway's code, and what other systems do. */
import { bindingTtlMs } from "../../src/gateway/limits.js";
import { costOf } from "../../src/gateway/pool/placement.js";
import type { PoolEntry, WorkerLoad } from "../../src/gateway/pool/pool-entry.js";
import { noLoad } from "../../src/gateway/pool/pool-entry.js";
import { PoolRoster } from "../../src/gateway/pool/pool-roster.js";
import { fnv1a } from "../../src/gateway/pool/rendezvous.js";
import { stateOf } from "../../src/gateway/pool/worker-state.js";
import type { SimulatedSession } from "./simulated-worker.js";
import { pageTokens, sessionTokensMax } from "./workload.js";

/** Where a turn goes. */
export interface RouteChoice {
  readonly worker: number;
  /** The session leaves this worker on purpose, and takes its cache along; -1: it does not. */
  readonly from: number;
}

/** A way to route turns. Workers are numbers; the route knows of them what it is told. */
export interface Route {
  readonly name: string;
  /** The worker of a turn; undefined: none has room, it comes again. */
  choose: (session: SimulatedSession, nowMs: number) => RouteChoice | undefined;
  /** A worker entered or left. */
  enter: (worker: number, nowMs: number) => void;
  leave: (worker: number) => void;
  /** A worker said its load, or is to drain; for routes that care. */
  hear?: (worker: number, load: WorkerLoad, nowMs: number) => void;
  drain?: (worker: number, nowMs: number) => void;
}

const model = "model";

/** leanedge: PoolRoster places, the binding stays. The rules for a bound session are those of `worker-chooser.ts`. */
export class PoolRoute implements Route {
  readonly name = "leanedge";
  readonly #roster: PoolRoster;
  readonly #entries: (PoolEntry | undefined)[] = [];
  readonly #numbers = new Map<string, number>();
  #processes = 0;

  /** @param random draws from [0, 1) */
  constructor(random: () => number) {
    this.#roster = new PoolRoster("default", random);
  }

  /** See Route. */
  choose(session: SimulatedSession, nowMs: number): RouteChoice | undefined {
    const { bound } = session;
    const valid = bound >= 0 && session.lastMs + bindingTtlMs > nowMs;
    const entry = valid ? this.#entries[bound] : undefined;
    const state = entry === undefined ? undefined : stateOf(entry.facts, nowMs);
    if (state === "ready") return this.#relieve(session, nowMs) ?? { worker: bound, from: -1 };
    const answer = this.#roster.place(
      {
        model,
        key: session.key,
        avoid: valid ? [`pool:default/${nameOf(bound)}`] : [],
        fingerprint: "",
        planFingerprint: "",
        waitMs: 0,
      },
      nowMs,
    );
    const drains = state === "draining";
    if (answer.kind !== "placed") return drains ? { worker: bound, from: -1 } : undefined;
    this.#roster.report(answer, "succeeded", nowMs);
    const worker = this.#numbers.get(answer.worker);
    if (worker === undefined)
      throw new Error(`the pool chose ${answer.worker}, which is not there`);
    return { worker, from: drains && worker !== bound ? bound : -1 };
  }

  /** Another worker for a session whose own is crowded, as far as the gateway's view of the pool says. */
  #relieve(session: SimulatedSession, nowMs: number): RouteChoice | undefined {
    const { bound } = session;
    if (this.#entries[bound]?.crowded !== true) return undefined;
    const from = `pool:default/${nameOf(bound)}`;
    const pages = Math.ceil(session.tokens / pageTokens);
    const answer = this.#roster.place(
      {
        model,
        key: session.key,
        avoid: [],
        fingerprint: "",
        planFingerprint: "",
        waitMs: 0,
        move: { from, pages, pagesMax: sessionTokensMax / pageTokens },
      },
      nowMs,
    );
    if (answer.kind !== "placed") return undefined;
    const worker = this.#numbers.get(answer.worker);
    return worker === undefined ? undefined : { worker, from: bound };
  }

  /** See Route. */
  enter(worker: number, nowMs: number): void {
    const name = nameOf(worker);
    const served = { model, fingerprint: "", templateFingerprint: "", planFingerprints: [] };
    const answer = this.#roster.register(
      {
        name,
        incarnation: String(++this.#processes),
        address: `http://${name}`,
        startMs: nowMs,
        models: [served],
        load: noLoad,
        shutsDown: false,
      },
      nowMs,
    );
    const entry = this.#roster.byName(name);
    if (answer.kind !== "member" || entry === undefined) {
      throw new Error(`the pool does not take ${name}: ${answer.kind}`);
    }
    this.#roster.apply(entry, { kind: "answered" }, nowMs);
    this.#entries[worker] = entry;
    this.#numbers.set(entry.worker, worker);
  }

  /** See Route. */
  hear(worker: number, load: WorkerLoad, nowMs: number): void {
    const { incarnation } = this.#entry(worker);
    const answer = this.#roster.heartbeat(
      { name: nameOf(worker), incarnation, load, shutsDown: false },
      nowMs,
    );
    if (answer.kind !== "member") throw new Error(`${nameOf(worker)}: ${answer.kind}`);
  }

  /** See Route. */
  drain(worker: number, nowMs: number): void {
    this.#roster.apply(this.#entry(worker), { kind: "drain" }, nowMs);
  }

  /** See Route. */
  leave(worker: number): void {
    const { incarnation, name } = this.#entry(worker);
    this.#roster.deregister(name, incarnation);
    this.#entries[worker] = undefined;
  }

  #entry(worker: number): PoolEntry {
    const entry = this.#entries[worker];
    if (entry === undefined) throw new Error(`${nameOf(worker)} is not in the pool`);
    return entry;
  }
}

/** What the other ways have in common: they see at once who is there, and go on using a worker until it stops. */
abstract class PlainRoute implements Route {
  abstract readonly name: string;
  protected readonly up: boolean[] = [];

  protected abstract pick(session: SimulatedSession): number | undefined;

  /** See Route. */
  choose(session: SimulatedSession): RouteChoice | undefined {
    const worker = this.pick(session);
    return worker === undefined ? undefined : { worker, from: -1 };
  }

  /** See Route. */
  enter(worker: number): void {
    this.up[worker] = true;
  }

  /** See Route. */
  leave(worker: number): void {
    this.up[worker] = false;
  }
}

/** Turns in turn. */
export class RoundRobin extends PlainRoute {
  readonly name = "round robin";
  #next = 0;

  protected pick(): number | undefined {
    for (let tried = 0; tried < this.up.length; tried++) {
      const worker = this.#next++ % this.up.length;
      if (this.up[worker] === true) return worker;
    }
    return undefined;
  }
}

/** Points of a worker on the ring of consistent hashing. */
const ringPoints = 160;

/** Consistent hashing: a ring with virtual nodes, by session. */
export class HashRing extends PlainRoute {
  readonly name = "consistent hashing";
  readonly #points: { readonly at: number; readonly worker: number }[] = [];

  /** @param workers how many there are */
  constructor(workers: number) {
    super();
    for (let worker = 0; worker < workers; worker++) {
      for (let point = 0; point < ringPoints; point++) {
        this.#points.push({ at: fnv1a(`${nameOf(worker)}#${point}`), worker });
      }
    }
    this.#points.sort((a, b) => a.at - b.at);
  }

  protected pick({ key }: SimulatedSession): number | undefined {
    const at = fnv1a(key);
    let low = 0;
    let high = this.#points.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#points[middle]?.at ?? 0) < at) low = middle + 1;
      else high = middle;
    }
    for (let step = 0; step < this.#points.length; step++) {
      const worker = this.#points[(low + step) % this.#points.length]?.worker;
      if (worker !== undefined && this.up[worker] === true) return worker;
    }
    return undefined;
  }
}

/** The worker with least work, by the pool's own measure over views as old: each turn, or only where none is bound. */
export class LeastLoaded extends PlainRoute {
  readonly name: string;
  readonly #sticky: boolean;
  readonly #work: number[] = [];
  #start = 0;

  /** @param sticky a session stays where it is until that worker stops */
  constructor(sticky: boolean) {
    super();
    this.#sticky = sticky;
    this.name = sticky ? "least loaded, bound" : "least loaded";
  }

  /** See Route. */
  override enter(worker: number): void {
    super.enter(worker);
    this.#work[worker] = 0;
  }

  /** See Route. */
  hear(worker: number, load: WorkerLoad): void {
    this.#work[worker] = costOf({ ...load, placed: 0, pagesMoved: 0 });
  }

  protected pick({ bound }: SimulatedSession): number | undefined {
    if (this.#sticky && bound >= 0 && this.up[bound] === true) return bound;
    let best: number | undefined;
    let least = Infinity;
    this.#start++;
    // From another one each time, so that equals take turns.
    for (let step = 0; step < this.up.length; step++) {
      const worker = (this.#start + step) % this.up.length;
      const work = this.#work[worker] ?? 0;
      if (this.up[worker] === true && work < least) {
        least = work;
        best = worker;
      }
    }
    if (best !== undefined) this.#work[best] = least + 1;
    return best;
  }
}

function nameOf(worker: number): string {
  return `w${worker}`;
}
