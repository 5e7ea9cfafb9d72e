/** Which workers there are, how they are reached, and which one a session goes to. */
import { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig, findModel } from "../config.js";
import type { GatewayConfig, ModelConfig } from "../config.js";
import { allFull, notFound, unavailable } from "../errors.js";
import { placeWaitMsMax, workerClientsMax } from "../limits.js";
import { PoolClient } from "../pool/pool-client.js";
import type { ChoiceReason } from "../pool/placement.js";
import type { Outcome } from "../pool/pool-calls.js";
import type { WorkerPlace } from "../pool/pool-entry.js";
import type { MoveOffer } from "../pool/rebalance.js";
import { highestWeight } from "../pool/rendezvous.js";
import { workerWithoutPool } from "../pool/standing.js";
import type { Standing } from "../pool/standing.js";
import { openWorker } from "./worker-client.js";
import type { WorkerClient } from "./worker-client.js";
import { workerNetwork } from "./worker-network.js";
import { configuredNames, engineNames, parseWorkerName, remoteNames } from "./worker-names.js";
import { objectNamed } from "../processes/objects.js";

export type { WorkerPlace } from "../pool/pool-entry.js";

/** A place for a session, and why it is this one. */
export interface Placed extends WorkerPlace {
  readonly reason: PlacementReason;
}

/** A session that looks for a worker. */
export interface SessionToPlace {
  readonly model: string;
  /** The session, for rendezvous hashing. */
  readonly key: string;
  /** Workers that it comes from or that failed it; chosen only where no other can be. */
  readonly avoid?: readonly string[];
  /** Fingerprints of model and plan that its log has; empty or unset: any. */
  readonly fingerprints?: { readonly model: string; readonly plan: string } | undefined;
  /** How long it may wait for a worker with room, in milliseconds; placeWaitMsMax if unset. */
  readonly waitMs?: number;
  /** It is bound to a crowded worker and would move; the answer names that worker if it stays. */
  readonly move?: MoveOffer | undefined;
}

/** The workers that a gateway knows. */
export interface WorkerDirectory {
  /** All workers of the configuration, and those of the pools as far as this isolate knows. */
  workers(): readonly WorkerPlace[];
  /** Workers to ask what a model is, the best first; at least one for a model that has any. */
  served(model: string): Promise<readonly WorkerPlace[]>;
  /**
   * A place for a session. Throws NOT_FOUND for an unknown model, UNAVAILABLE if no worker of it is known, and
   * RESOURCE_EXHAUSTED if all are full, or none was ready for placeWaitMsMax.
   */
  place(session: SessionToPlace): Promise<Placed>;
  /** Client of a worker; undefined if its name is not known any more. */
  open(worker: string, address: string): WorkerClient | undefined;
  /**
   * How a worker stands, as far as this isolate knows.
   * @param heardMs when the caller itself last heard from the worker, in milliseconds since 1970; unset: it never did
   */
  standing(worker: string, heardMs?: number): Standing;
  /** Tells the worker's pool what became of a call, and why it went there; never rejects. */
  report(place: WorkerPlace, outcome: Outcome, reason: PlacementReason): Promise<void>;
  /**
   * Renews what this isolate knows of the pools, if it is older than `ageMs` (poolViewMs if unset); undefined where nothing is. Never
   * rejects.
   */
  refresh(ageMs?: number): Promise<unknown> | undefined;
}

/** Renews what this isolate knows of the pools beside other work, if it is older than `ageMs` (poolViewMs if unset). */
export function refreshBeside(
  directory: Pick<WorkerDirectory, "refresh">,
  background: (work: Promise<unknown>) => void,
  ageMs?: number,
): void {
  const refreshed = directory.refresh(ageMs);
  if (refreshed !== undefined) {
    background(refreshed);
  }
}

/** Directories of this isolate; nothing of them belongs to a request. */
const directories = new WeakMap<GatewayEnv, WorkerDirectory>();

/** The workers of the configuration and of its pools. */
export function engineDirectory(env: GatewayEnv): WorkerDirectory {
  let directory = directories.get(env);
  if (directory === undefined) {
    directory = makeDirectory(env);
    directories.set(env, directory);
  }
  return directory;
}

function makeDirectory(env: GatewayEnv): WorkerDirectory {
  const config = gatewayConfig(env);
  const pools = hasPools(config) ? new PoolClient(env, config) : undefined;
  function modelEntry(model: string): ModelConfig {
    const entry = findModel(config, model);
    if (entry === undefined) {
      throw notFound(`there is no model "${model}"`);
    }
    return entry;
  }
  /** Clients by address, the oldest first; an engine's is its name. */
  const clients = new Map<string, WorkerClient>();
  function client(address: string, open: () => WorkerClient): WorkerClient {
    let known = clients.get(address);
    if (known === undefined) {
      known = open();
      if (clients.size >= workerClientsMax) {
        const [oldest = ""] = clients.keys();
        clients.delete(oldest);
      }
      clients.set(address, known);
    }
    return known;
  }
  function remote(address: string): WorkerClient | undefined {
    return address === ""
      ? undefined
      : client(address, () => openWorker(workerNetwork(env), address, config.workerToken));
  }
  function engine(name: string): WorkerClient {
    return client(`engine:${name}`, () =>
      // A stub belongs to the request that got it.
      openWorker(
        { fetch: (url, init) => objectNamed(env, "ENGINE", name).fetch(url, init) },
        "http://engine",
      ),
    );
  }
  function known(model: string): readonly WorkerPlace[] {
    return (pools?.ready(model) ?? []).map(({ worker, address }) => ({ worker, address }));
  }
  return {
    workers() {
      const names = config.models.flatMap((entry) => configuredNames(config, entry));
      const others = config.models
        .flatMap(({ model }) => known(model))
        .filter(({ worker }) => !names.includes(worker));
      const byName = new Map(others.map((place) => [place.worker, place]));
      return [...names.map(place), ...byName.values()];
    },
    async served(model) {
      const entry = modelEntry(model);
      const names = configuredNames(config, entry).map(place);
      if (pools === undefined || !isPooled(config, entry)) {
        return names;
      }
      if (known(model).length === 0) {
        await pools.refresh();
      }
      const ready = known(model);
      const others = names.filter(({ worker }) => ready.every((other) => other.worker !== worker));
      return [...ready, ...others];
    },
    async place({ model, key, avoid = [], fingerprints, waitMs = placeWaitMsMax, move }) {
      const entry = modelEntry(model);
      if (pools === undefined || !isPooled(config, entry)) {
        return byConfiguration(config, entry, key, avoid);
      }
      const answer = await pools.place({
        model: entry.model,
        key,
        avoid,
        fingerprint: fingerprints?.model ?? "",
        planFingerprint: fingerprints?.plan ?? "",
        waitMs,
        ...(move === undefined ? {} : { move }),
      });
      switch (answer?.kind) {
        case "placed":
          return { ...answer, reason: reasons[answer.reason] };
        case "stay":
          return { worker: move?.from ?? "", address: "", reason: PlacementReason.BOUND };
        case "full":
          throw allFull(entry.model);
        case "none":
          throw unavailable(`no worker of model "${model}" is there`);
        default: {
          // No pool answers: what was seen last places the session, or else the configuration.
          const ready = known(entry.model).filter(({ worker }) => !avoid.includes(worker));
          const worker = highestWeight(
            ready.map((other) => other.worker),
            key,
          );
          const found = ready.find((other) => other.worker === worker);
          return found === undefined
            ? byConfiguration(config, entry, key, avoid)
            : { ...found, reason: PlacementReason.CONFIGURED };
        }
      }
    },
    open(worker, address) {
      const name = parseWorkerName(worker);
      switch (name?.kind) {
        case "engine": {
          const entry = findModel(config, name.model);
          if (entry === undefined || !engineNames(entry).includes(worker)) {
            return undefined;
          }
          return engine(`${name.model}/${name.index}`);
        }
        case "worker":
          return remote(config.workers.get(name.model)?.[name.index] ?? "");
        case "pool":
          return config.pools.some((pool) => pool.name === name.pool) ? remote(address) : undefined;
        default:
          return undefined;
      }
    },
    standing: (worker, heardMs = 0) => pools?.standing(worker, heardMs) ?? workerWithoutPool,
    report: async (where, outcome, reason) => pools?.report(where, outcome, reason),
    refresh: (ageMs) => pools?.refresh(ageMs),
  };
}

const reasons: Readonly<Record<ChoiceReason, PlacementReason>> = {
  only: PlacementReason.ONLY,
  load: PlacementReason.LOAD,
  hash: PlacementReason.HASH,
  lastResort: PlacementReason.LAST_RESORT,
  relief: PlacementReason.MOVED,
};

/** Whether any model of this gateway can have workers that are not its own engines. */
function hasPools(config: GatewayConfig): boolean {
  return config.poolToken !== undefined || config.workers.size > 0;
}

/** Whether a model's sessions are placed by the pools; one that has engines only needs none. */
function isPooled(config: GatewayConfig, { model }: ModelConfig): boolean {
  return config.poolToken !== undefined || config.workers.has(model);
}

function place(worker: string): WorkerPlace {
  return { worker, address: "" };
}

/** Rendezvous hashing over the workers of the configuration; its engines only where it names no others. */
function byConfiguration(
  config: GatewayConfig,
  entry: ModelConfig,
  key: string,
  avoid: readonly string[],
): Placed {
  const remote = remoteNames(config, entry.model);
  const groups = [
    remote.filter((worker) => !avoid.includes(worker)),
    engineNames(entry).filter((worker) => !avoid.includes(worker)),
    configuredNames(config, entry),
  ];
  const names = groups.find((group) => group.length > 0);
  if (names === undefined) {
    throw unavailable(`no worker of model "${entry.model}" is there`);
  }
  return { ...place(highestWeight(names, key)), reason: PlacementReason.CONFIGURED };
}
