import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import {
  BreakerState,
  PoolWorkerSchema,
  WorkerOrigin,
  WorkerState,
} from "../gen/leanedge/pool/v1/pool_pb.js";
import { poolJson, poolTable } from "./pool.js";

describe("the table of a pool", () => {
  it("aligns its columns and names states in words", () => {
    const [head = "", first = "", second = ""] = poolTable([
      create(PoolWorkerSchema, {
        pool: "default",
        name: "gpu-1",
        origin: WorkerOrigin.REGISTERED,
        state: WorkerState.NOT_READY,
        breaker: BreakerState.HALF_OPEN,
        reason: "3 heartbeats are missing",
        stateMs: 3_599_999n,
        heardMsAgo: 6_950n,
        crowded: true,
        moved: 4n,
        address: "http://10.0.0.1:9000",
        models: [{ model: "a" }, { model: "b" }],
        load: { running: 3, pages: 100n, pagesFree: 40n, tokensPerSecond: 120.6 },
        placed: 12n,
      }),
      create(PoolWorkerSchema, { pool: "default", name: "engine:a/0" }),
    ]);
    expect(head).toMatch(/^POOL +WORKER +ORIGIN +STATE +BREAKER +STATE FOR +HEARD +RUNNING/);
    expect(first).toMatch(
      /gpu-1 +registered +not ready +half open +59m +6s +3 +0 +0 +40\/100 +121 +yes +12 +4 +0/,
    );
    expect(first.indexOf("gpu-1")).toBe(head.indexOf("WORKER"));
    expect(second.indexOf("engine:a/0")).toBe(head.indexOf("WORKER"));
    expect(first).toMatch(/a,b +http:\/\/10\.0\.0\.1:9000 +3 heartbeats are missing$/);
    expect(second).not.toMatch(/ $/);
  });
});

describe("a pool as JSON", () => {
  it("has each field of a worker, also where it is 0 or false", () => {
    const worker = create(PoolWorkerSchema, { name: "gpu-1", state: WorkerState.READY, moved: 4n });
    expect(JSON.parse(poolJson([worker]))).toEqual({
      workers: [
        expect.objectContaining({
          name: "gpu-1",
          state: "WORKER_STATE_READY",
          crowded: false,
          stateMs: "0",
          moved: "4",
          failures: "0",
        }),
      ],
    });
  });
});
