import { describe, expect, it } from "vitest";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  BreakerState,
  PoolWorkerSchema,
  WorkerLoadSchema,
  WorkerOrigin,
  WorkerState,
} from "../../gen/leanedge/pool/v1/pool_pb.js";
import { newEntry, noLoad, recordOf } from "./pool-entry.js";
import { readLoad, wireWorker } from "./pool-wire.js";
import { after, entered } from "./worker-state.js";

describe("a worker on the wire", () => {
  it("is all that people see of its entry", () => {
    const identity = { worker: "pool:p/gpu-1", name: "gpu-1", origin: "registered" } as const;
    const answered = after(entered(1_000, { reports: true }), { kind: "answered" }, 2_000);
    const entry = {
      ...newEntry(identity, 1_000, { address: "http://gpu-1", facts: answered }),
      load: { ...noLoad, running: 3, queued: 2, pages: 100, pagesFree: 40, pagesIdle: 30 },
      crowded: true,
      placedTotal: 12,
      failuresTotal: 5,
      movedTotal: 4,
    };
    expect(wireWorker(recordOf("p", entry, 6_500))).toMatchObject({
      pool: "p",
      name: "gpu-1",
      origin: WorkerOrigin.REGISTERED,
      address: "http://gpu-1",
      state: WorkerState.READY,
      reason: "",
      stateMs: 4_500n,
      heardMsAgo: 4_500n,
      breaker: BreakerState.CLOSED,
      load: { running: 3, queued: 2, pages: 100n, pagesFree: 40n, pagesIdle: 30n },
      crowded: true,
      placed: 12n,
      failures: 5n,
      moved: 4n,
    });
  });

  it("can be told whatever it says of its pages", () => {
    // A count below 0, as a worker without signs writes it.
    const wrong = 2n ** 64n - 1n;
    const load = readLoad(
      create(WorkerLoadSchema, { pages: 100n, pagesFree: wrong, pagesIdle: wrong }),
    );
    const identity = { worker: "pool:p/gpu-1", name: "gpu-1", origin: "registered" } as const;
    const worker = wireWorker(recordOf("p", { ...newEntry(identity, 1_000), load }, 1_000));
    expect(() => toBinary(PoolWorkerSchema, worker)).not.toThrow();
    expect(worker.load).toMatchObject({ pages: 100n, pagesFree: 100n, pagesIdle: 100n });
  });
});
