/**
 * A gateway's side of its pools: asks them for places, tells them what became of calls, and keeps a view of each for the
 * time that a pool does not answer. A pool that fails or is slow costs a session its best place, never its answer.
 */
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { workerWithoutPool } from "./standing.js";
import type { Standing } from "./standing.js";
import type { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import type { GatewayConfig } from "../config.js";
import {
  crowdedViewMsMax,
  movePatienceMs,
  poolAnswerMsMax,
  poolServedMs,
  poolViewMs,
  poolViewMsMax,
} from "../limits.js";
import { systemClock, timeIsUp, within } from "../objects/clock.js";
import type { PoolObject } from "../objects/pool-object.js";
import type { PoolConfig } from "./pool-config.js";
import { isOver } from "./elapsed.js";
import type { Outcome, PlaceAnswer, PlaceRequest, PoolView } from "./pool-calls.js";
import type { WorkerPlace, WorkerRecord } from "./pool-entry.js";
import { ServedBatches } from "./served-turns.js";
import { objectNamed } from "../processes/objects.js";

interface KeptView {
  readonly view: PoolView;
  /** By this isolate's clock. */
  readonly fetchedMs: number;
}

/** Views of this isolate, by pool. Plain data: any request may read it. */
const views = new Map<string, KeptView>();
/** When a request of this isolate last asked for a view, so that not all of them do. */
const askedMs = new Map<string, number>();
/** When the question was asked whose answer, or failure, came last. */
const triedMs = new Map<string, number>();

/** What this isolate's turns have to tell. */
const served = new ServedBatches();

/** The object of a pool. */
export function poolObject(
  env: GatewayEnv,
  { name, location }: PoolConfig,
): DurableObjectStub<PoolObject> {
  return objectNamed(env, "POOL", name, location === undefined ? {} : { locationHint: location });
}

/** See the head of this file. One a request. */
export class PoolClient {
  readonly #env: GatewayEnv;
  readonly #pools: GatewayConfig["pools"];

  constructor(env: GatewayEnv, config: GatewayConfig) {
    this.#env = env;
    this.#pools = config.pools;
  }

  /**
   * Asks the pools in order for a place. All of them are asked without waiting before the first is asked to wait.
   * @returns undefined if no pool answered
   */
  async place(request: PlaceRequest): Promise<PlaceAnswer | undefined> {
    if (request.move !== undefined) {
      // It moves within its pool: a cache does not cross regions for the sake of room.
      const pool = this.#poolOf(request.move.from);
      const answer = pool && (await this.#ask(pool, request, movePatienceMs));
      return answer ?? { kind: "stay" };
    }
    const [only, ...others] = this.#pools;
    if (others.length === 0) {
      return this.#ask(only, request);
    }
    let best: PlaceAnswer | undefined;
    let fullPool: PoolConfig | undefined;
    let spare: PlaceAnswer | undefined;
    for (const pool of this.#pools) {
      const answer = await this.#ask(pool, { ...request, waitMs: 0 });
      if (answer?.kind === "placed") {
        // A worker in a farther pool is better than the last resort, or one that is to be avoided, in a nearer one.
        if (!request.avoid.includes(answer.worker) && answer.reason !== "lastResort") {
          return answer;
        }
        spare ??= answer;
      } else if (answer?.kind === "full") {
        fullPool ??= pool;
      }
      best ??= answer;
    }
    if (spare !== undefined) {
      return spare;
    }
    return fullPool === undefined
      ? best
      : ((await this.#ask(fullPool, request)) ?? { kind: "full" });
  }

  /**
   * What the pools say of a worker, as far as this isolate knows.
   * @param heardMs when the caller itself last heard from the worker: that it was gone before then is no longer true
   */
  standing(worker: string, heardMs: number): Standing {
    for (const { view, fetchedMs } of this.#views()) {
      const record = view.workers.find((candidate) => candidate.worker === worker);
      if (record !== undefined) {
        const fresh = systemClock.nowMs() - fetchedMs <= crowdedViewMsMax;
        const said = standingOf(record, fresh);
        return said.kind === "gone" && fetchedMs < heardMs ? { ...said, kind: "serving" } : said;
      }
    }
    return workerWithoutPool;
  }

  /** Workers that are ready for a model, as far as this isolate knows; engines of the gateway are not among them. */
  ready(model: string): readonly WorkerRecord[] {
    return this.#views().flatMap(({ view }) =>
      view.workers.filter(
        (record) =>
          record.origin !== "embedded" &&
          record.state === "ready" &&
          record.breaker === "closed" &&
          record.models.some((served) => served.model === model),
      ),
    );
  }

  /** Tells a pool what became of a call. Never rejects: a pool that does not hear it learns it the next time. */
  async report(
    { worker, address }: WorkerPlace,
    outcome: Outcome,
    reason: PlacementReason,
  ): Promise<void> {
    const pool = this.#poolOf(worker);
    if (pool === undefined) {
      return;
    }
    const settled = outcome === "succeeded" && !this.standing(worker, 0).suspect;
    if (settled && !served.add(pool.name, { worker, address }, reason, systemClock.nowMs())) {
      return;
    }
    if (settled) {
      await systemClock.sleep(poolServedMs);
    }
    try {
      const object = poolObject(this.#env, pool);
      await within(
        settled
          ? Promise.resolve(object.served(served.take(pool.name)))
          : Promise.resolve(object.report(worker, address, outcome, reason)),
        poolAnswerMsMax,
        systemClock,
      );
    } catch (error) {
      log("warn", "pool.not_told", { pool: pool.name, worker, outcome, ...errorFields(error) });
    }
  }

  /** Renews views that are older than `ageMs`; undefined where none is. Never rejects. */
  refresh(ageMs = poolViewMs): Promise<unknown> | undefined {
    const nowMs = systemClock.nowMs();
    const due = this.#pools.filter(({ name }) => {
      const asked = askedMs.get(name) ?? 0;
      // Another request's question is no answer to this one, which cannot wait for it: without any view it asks, too.
      const knows = views.has(name) || (triedMs.get(name) ?? 0) >= asked;
      return !knows || isOver(asked, ageMs, nowMs);
    });
    return due.length === 0
      ? undefined
      : Promise.all(due.map((pool) => this.#refresh(pool, nowMs)));
  }

  async #refresh(pool: PoolConfig, nowMs: number): Promise<void> {
    askedMs.set(pool.name, nowMs);
    try {
      const view = await within(
        Promise.resolve(poolObject(this.#env, pool).view()),
        poolAnswerMsMax,
        systemClock,
      );
      if (view !== timeIsUp) {
        views.set(pool.name, { view, fetchedMs: systemClock.nowMs() });
      }
    } catch (error) {
      log("warn", "pool.silent", { pool: pool.name, ...errorFields(error) });
    } finally {
      triedMs.set(pool.name, nowMs);
    }
  }

  async #ask(
    pool: PoolConfig,
    request: PlaceRequest,
    patienceMs = poolAnswerMsMax,
  ): Promise<PlaceAnswer | undefined> {
    try {
      const answer = await within(
        Promise.resolve(poolObject(this.#env, pool).place(request)),
        request.waitMs + patienceMs,
        systemClock,
      );
      return answer === timeIsUp ? undefined : answer;
    } catch (error) {
      log("warn", "pool.silent", { pool: pool.name, ...errorFields(error) });
      return undefined;
    }
  }

  #views(): KeptView[] {
    const nowMs = systemClock.nowMs();
    return this.#pools.flatMap(({ name }) => {
      const kept = views.get(name);
      return kept === undefined || nowMs - kept.fetchedMs > poolViewMsMax ? [] : [kept];
    });
  }

  /** Pool that a worker is in: its name says so, or the place that workers of the configuration have. */
  #poolOf(worker: string): PoolConfig | undefined {
    const [, name] = /^pool:([^/]+)\//.exec(worker) ?? [];
    if (name !== undefined) {
      return this.#pools.find((pool) => pool.name === name);
    }
    return worker.startsWith("engine:") ? this.#pools.at(-1) : this.#pools[0];
  }
}

/** @param fresh what is known of it is so new that a move is worth a question */
function standingOf(record: WorkerRecord, fresh: boolean): Standing {
  const { state, breaker, crowded, suspect, shutsDown } = record;
  return {
    kind:
      state === "draining"
        ? "leaving"
        : state === "notReady" || state === "failed" || breaker === "open"
          ? "gone"
          : "serving",
    suspect,
    crowded: crowded && fresh,
    shutsDown,
  };
}
