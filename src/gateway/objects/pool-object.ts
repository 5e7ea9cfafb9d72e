/**
 * One pool: the workers of a region, their state and load, and the places that sessions get (docs/architecture.md, 'The
 * pool').
 *
 * Survives eviction: who registered, and what people want (pool-store.ts). Heartbeats, loads, breakers and counts do not:
 * a worker counts as heard when the object starts, and says its load within two seconds. Requests that wait for room are
 * asked again by their sessions. There is no alarm: states follow from facts and the clock.
 */
import { DurableObject } from "cloudflare:workers";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig } from "../config.js";
import {
  heartbeatMs,
  placeAskMs,
  placeWaitMsMax,
  placeWaitersMax,
  workerProbeMsMax,
  workerUnaryTimeoutMs,
} from "../limits.js";
import type {
  Beat,
  MemberAnswer,
  Outcome,
  PlaceAnswer,
  PlaceRequest,
  PoolCounts,
  PoolView,
  Registration,
  ServedTurns,
} from "../pool/pool-calls.js";
import { isOver } from "../pool/elapsed.js";
import { newEntry, recordOf } from "../pool/pool-entry.js";
import type { PoolEntry, WorkerModel, WorkerRecord } from "../pool/pool-entry.js";
import { PoolRoster } from "../pool/pool-roster.js";
import { readPages } from "../pool/pool-wire.js";
import { silenceMsMax } from "../pool/worker-state.js";
import { engineNames, remoteNames } from "../worker-client/worker-names.js";
import { workerNetwork } from "../worker-client/worker-network.js";
import { openWorker } from "../worker-client/worker-client.js";
import { systemClock } from "./clock.js";
import { PoolStore } from "./pool-store.js";

/** A request that waits for room. */
interface Waiter {
  readonly request: PlaceRequest;
  readonly settle: (answer: PlaceAnswer) => void;
}

/** A question to a worker. */
interface Question {
  /** When it was asked; milliseconds since 1970. */
  readonly askedMs: number;
  readonly done: Promise<void>;
}

/** See the head of this file. */
export class PoolObject extends DurableObject<GatewayEnv> {
  readonly #pool: string;
  readonly #store: PoolStore;
  readonly #roster: PoolRoster;
  /** The latest question to each configured worker. */
  readonly #questions = new Map<string, Question>();
  #waiters: Waiter[] = [];
  /** Asks for them, as long as there are any. */
  #asker: ReturnType<typeof setInterval> | null = null;
  readonly #rebound: Partial<Record<PlacementReason, number>> = {};
  #refused = 0;

  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    super(ctx, env);
    this.#pool = ctx.id.name ?? "";
    this.#store = new PoolStore(ctx.storage);
    this.#roster = new PoolRoster(this.#pool, Math.random);
    const nowMs = systemClock.nowMs();
    for (const entry of this.#store.registered(nowMs)) {
      this.#roster.add(entry);
    }
    this.#addConfigured(nowMs);
  }

  /** PoolService.Register. */
  register(request: Registration): MemberAnswer {
    const nowMs = systemClock.nowMs();
    this.#forget(this.#roster.makeRoom(request.name, nowMs));
    const answer = this.#roster.register(request, nowMs);
    const entry = this.#roster.byName(request.name);
    if (answer.kind === "member" && entry !== undefined) {
      this.#store.put(entry);
      this.#askPending(entry);
      this.#serveWaiters();
    }
    return answer;
  }

  /** PoolService.Heartbeat. */
  heartbeat(beat: Beat): MemberAnswer {
    const nowMs = systemClock.nowMs();
    const answer = this.#roster.heartbeat(beat, nowMs);
    const entry = this.#roster.byName(beat.name);
    if (answer.kind === "member" && entry !== undefined) {
      this.#askPending(entry);
      this.#serveWaiters();
    }
    this.#forget(this.#roster.prune(nowMs));
    return answer;
  }

  #forget(gone: readonly PoolEntry[]): void {
    for (const { worker } of gone) {
      this.#store.remove(worker);
    }
  }

  /** PoolService.Deregister. */
  deregister(name: string, incarnation: string): boolean {
    const entry = this.#roster.byName(name);
    const removed = this.#roster.deregister(name, incarnation);
    if (removed && entry !== undefined && this.#roster.byName(name) === undefined) {
      this.#store.remove(entry.worker);
    }
    return removed;
  }

  /** PoolAdminService.ListWorkers, with what is known at most heartbeatMs ago. */
  async list(): Promise<WorkerRecord[]> {
    await this.#askConfigured(heartbeatMs);
    return this.#records();
  }

  /** PoolAdminService.DrainWorker, ResumeWorker and EvictWorker; undefined if there is no such worker. */
  async operate(
    name: string,
    kind: "drain" | "resume" | "evict",
  ): Promise<WorkerRecord | undefined> {
    const entry = this.#roster.byName(name);
    if (entry === undefined) {
      return undefined;
    }
    const nowMs = systemClock.nowMs();
    this.#roster.apply(entry, { kind }, nowMs);
    this.#store.put(entry);
    await this.ctx.storage.sync();
    this.#serveWaiters();
    return recordOf(this.#pool, entry, nowMs);
  }

  /** Finds a worker for a session; waits for one with room for as long as the request says. */
  async place(request: PlaceRequest): Promise<PlaceAnswer> {
    // Old news of configured workers are renewed in time; without any they are waited for.
    await this.#askConfigured(silenceMsMax);
    this.ctx.waitUntil(this.#askConfigured(heartbeatMs));
    const answer = this.#roster.place(request, systemClock.nowMs());
    if (answer.kind !== "full") {
      return answer;
    }
    const waitMs = Math.min(request.waitMs, placeWaitMsMax);
    if (waitMs <= 0) {
      return answer;
    }
    if (this.#waiters.length >= placeWaitersMax) {
      this.#refused++;
      return answer;
    }
    return this.#wait(request, waitMs);
  }

  /** What became of a call on a worker, and why it went there. */
  report(worker: string, address: string, outcome: Outcome, reason: PlacementReason): void {
    this.#roster.report({ worker, address }, outcome, systemClock.nowMs());
    if (outcome === "succeeded") {
      if (reason !== PlacementReason.BOUND) {
        this.#rebound[reason] = (this.#rebound[reason] ?? 0) + 1;
      }
      this.#serveWaiters();
    }
  }

  /** Turns that ended well on workers that are not in doubt. It ends no doubt: since then others may have failed there. */
  served(list: readonly ServedTurns[]): void {
    const nowMs = systemClock.nowMs();
    for (const { worker, address, reason, turns } of list) {
      this.#roster.served({ worker, address }, nowMs);
      if (reason !== PlacementReason.BOUND) {
        this.#rebound[reason] = (this.#rebound[reason] ?? 0) + turns;
      }
    }
    this.#serveWaiters();
  }

  /** What an isolate may keep of the pool. */
  view(): PoolView {
    this.ctx.waitUntil(this.#askConfigured(heartbeatMs));
    return { atMs: systemClock.nowMs(), workers: this.#records() };
  }

  /** Counts since the object started. */
  counts(): PoolCounts {
    return {
      placed: this.#roster.placed,
      rebound: { ...this.#rebound },
      refused: this.#refused,
      waiting: this.#waiters.length,
    };
  }

  #records(): WorkerRecord[] {
    const nowMs = systemClock.nowMs();
    return this.#roster.entries().map((entry) => recordOf(this.#pool, entry, nowMs));
  }

  /** Workers of the configuration stand in the first pool, the last resort in the last one. */
  #addConfigured(nowMs: number): void {
    const config = gatewayConfig(this.env);
    for (const { model } of this.#pool === config.pools[0].name ? config.models : []) {
      for (const [index, worker] of remoteNames(config, model).entries()) {
        this.#roster.add(
          newEntry({ worker, name: worker, origin: "configured" }, nowMs, {
            address: config.workers.get(model)?.[index] ?? "",
            facts: this.#store.configuredFacts(worker, nowMs),
          }),
        );
      }
    }
    for (const entry of this.#pool === config.pools.at(-1)?.name ? config.models : []) {
      for (const worker of engineNames(entry)) {
        this.#roster.add(
          newEntry({ worker, name: worker, origin: "embedded" }, nowMs, {
            models: [modelOf(entry.model)],
            // It is never asked: that would load its model.
            facts: { ...this.#store.configuredFacts(worker, nowMs), answered: true },
          }),
        );
      }
    }
  }

  /** Asks configured workers that were not asked for `ageMs`, and waits for those of which nothing is known yet. */
  async #askConfigured(ageMs: number): Promise<void> {
    const nowMs = systemClock.nowMs();
    const waits: Promise<void>[] = [];
    for (const entry of this.#roster.entries()) {
      if (entry.origin !== "configured") {
        continue;
      }
      const last = this.#questions.get(entry.worker);
      if (last === undefined || isOver(last.askedMs, ageMs, nowMs)) {
        const done = this.#ask(entry);
        this.#questions.set(entry.worker, { askedMs: nowMs, done });
        waits.push(done);
      } else if (!entry.facts.answered && !entry.facts.unanswered) {
        waits.push(last.done);
      }
    }
    await Promise.all(waits);
  }

  #askPending(entry: PoolEntry): void {
    if (!entry.facts.answered) {
      this.ctx.waitUntil(this.#ask(entry));
    }
  }

  /** Asks a worker for its status at its address. */
  async #ask(entry: PoolEntry): Promise<void> {
    if (entry.asking) {
      return;
    }
    entry.asking = true;
    const { address } = entry;
    try {
      const { workerToken } = gatewayConfig(this.env);
      const client = openWorker(workerNetwork(this.env), address, workerToken);
      // Sessions may wait for what a configured worker says; nobody waits for one that enters, however busy the gateway is.
      const timeoutMs = entry.origin === "registered" ? workerUnaryTimeoutMs : workerProbeMsMax;
      const status = await client.getStatus({}, { timeoutMs });
      if (entry.origin === "registered" && status.worker !== entry.name) {
        throw new Error(`${address} answers as worker "${status.worker}"`);
      }
      if (entry.address !== address || !this.#roster.has(entry)) {
        return;
      }
      const { running, queued, sequences, draining } = status;
      this.#roster.answered(
        entry,
        {
          models: status.models.map(({ model, fingerprints, info }): WorkerModel => ({
            model,
            fingerprint: fingerprints?.model ?? "",
            templateFingerprint: fingerprints?.template ?? "",
            planFingerprints: info?.plans.map((plan) => plan.fingerprint) ?? [],
          })),
          load: {
            running,
            queued,
            sequences,
            ...readPages(status),
            tokensPerSecond: entry.load.tokensPerSecond,
          },
          shutsDown: draining,
        },
        systemClock.nowMs(),
      );
      if (entry.origin === "registered") {
        this.#store.put(entry);
      }
      this.#serveWaiters();
    } catch (error) {
      const known = entry.facts.unanswered;
      const late = error instanceof ConnectError && error.code === Code.DeadlineExceeded;
      this.#roster.apply(entry, { kind: "unanswered", late }, systemClock.nowMs());
      // Said once: it is asked again and again.
      if (!known && entry.facts.unanswered) {
        log("warn", "worker.unreachable", { worker: entry.worker, address, ...errorFields(error) });
      }
    } finally {
      entry.asking = false;
    }
  }

  #wait(request: PlaceRequest, waitMs: number): Promise<PlaceAnswer> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        const last = this.#roster.place(request, systemClock.nowMs());
        if (last.kind === "full") {
          this.#refused++;
        }
        resolve(last);
      }, waitMs);
      const waiter: Waiter = {
        request,
        settle(answer) {
          clearTimeout(timer);
          resolve(answer);
        },
      };
      this.#waiters.push(waiter);
      this.#asker ??= setInterval(() => this.#askForWaiters(), placeAskMs);
    });
  }

  /** Configured workers are asked when somebody comes; where all wait already, nobody does. */
  #askForWaiters(): void {
    if (this.#waiters.length > 0) {
      this.ctx.waitUntil(this.#askConfigured(heartbeatMs));
    } else {
      clearInterval(this.#asker);
      this.#asker = null;
    }
  }

  /** Gives places to those who wait, in order; whoever finds none keeps others of its model from passing it by. */
  #serveWaiters(): void {
    const nowMs = systemClock.nowMs();
    const full = new Set<string>();
    this.#waiters = this.#waiters.filter(({ request, settle }) => {
      if (full.has(request.model)) {
        return true;
      }
      const answer = this.#roster.place(request, nowMs);
      if (answer.kind === "full") {
        full.add(request.model);
        return true;
      }
      settle(answer);
      return false;
    });
  }
}

function modelOf(model: string): WorkerModel {
  return { model, fingerprint: "", templateFingerprint: "", planFingerprints: [] };
}
