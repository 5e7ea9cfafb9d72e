/** Workers of a pool as messages of leanedge.pool.v1, and back. */
import { create } from "@bufbuild/protobuf";
import {
  BreakerState as WireBreaker,
  PoolWorkerSchema,
  WorkerOrigin as WireOrigin,
  WorkerState as WireState,
} from "../../gen/leanedge/pool/v1/pool_pb.js";
import type {
  PoolWorker,
  WorkerLoad as WireLoad,
  WorkerModel as WireModel,
} from "../../gen/leanedge/pool/v1/pool_pb.js";
import type { BreakerState } from "./breaker.js";
import { noLoad } from "./pool-entry.js";
import type { WorkerLoad, WorkerModel, WorkerOrigin, WorkerRecord } from "./pool-entry.js";
import type { WorkerState } from "./worker-state.js";

/** States on the wire. */
export const wireStates: Readonly<Record<WorkerState, WireState>> = {
  pending: WireState.PENDING,
  ready: WireState.READY,
  draining: WireState.DRAINING,
  notReady: WireState.NOT_READY,
  failed: WireState.FAILED,
};

const wireBreakers: Readonly<Record<BreakerState, WireBreaker>> = {
  closed: WireBreaker.CLOSED,
  open: WireBreaker.OPEN,
  halfOpen: WireBreaker.HALF_OPEN,
};

const wireOrigins: Readonly<Record<WorkerOrigin, WireOrigin>> = {
  registered: WireOrigin.REGISTERED,
  configured: WireOrigin.CONFIGURED,
  embedded: WireOrigin.EMBEDDED,
};

/** A load from the wire; figures that are no numbers count as 0, and no pages are more than all. */
export function readLoad(load: WireLoad | undefined): WorkerLoad {
  if (load === undefined) {
    return noLoad;
  }
  const { running, queued, sequences, tokensPerSecond } = load;
  return {
    running,
    queued,
    sequences,
    ...readPages(load),
    tokensPerSecond: Number.isFinite(tokensPerSecond) ? Math.max(0, tokensPerSecond) : 0,
  };
}

/** Pages of a worker. What was said may be anything, and is told others: it stays a number that the wire can hold. */
export function readPages(
  said: Pick<WireLoad, "pages" | "pagesFree" | "pagesIdle">,
): Pick<WorkerLoad, "pages" | "pagesFree" | "pagesIdle"> {
  const pages = Math.min(Number(said.pages), Number.MAX_SAFE_INTEGER);
  const pagesFree = Math.min(Number(said.pagesFree), pages);
  return { pages, pagesFree, pagesIdle: Math.min(Number(said.pagesIdle), pagesFree) };
}

/** A model from the wire. */
export function readModel(model: WireModel): WorkerModel {
  const { fingerprint, planFingerprints, templateFingerprint } = model;
  return { model: model.model, fingerprint, templateFingerprint, planFingerprints };
}

/** A worker on the wire. */
export function wireWorker(record: WorkerRecord): PoolWorker {
  const { load, pool, name, address, reason, models } = record;
  return create(PoolWorkerSchema, {
    pool,
    name,
    address,
    reason,
    origin: wireOrigins[record.origin],
    state: wireStates[record.state],
    breaker: wireBreakers[record.breaker],
    models: models.map((model) => ({
      ...model,
      planFingerprints: [...model.planFingerprints],
    })),
    load: {
      ...load,
      pages: BigInt(load.pages),
      pagesFree: BigInt(load.pagesFree),
      pagesIdle: BigInt(load.pagesIdle),
      draining: record.shutsDown,
    },
    heardMsAgo: BigInt(record.heardMsAgo),
    placed: BigInt(record.placedTotal),
    failures: BigInt(record.failuresTotal),
    crowded: record.crowded,
    stateMs: BigInt(record.stateMs),
    moved: BigInt(record.movedTotal),
  });
}
