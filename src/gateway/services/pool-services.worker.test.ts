import { createExecutionContext } from "cloudflare:test";
import { Code, createClient } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import type { DescService } from "@bufbuild/protobuf";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  BreakerState,
  PoolAdminService,
  PoolService,
  WorkerOrigin,
  WorkerState,
} from "../../gen/leanedge/pool/v1/pool_pb.js";
import { bearerToken } from "../../client/bearer-token.js";
import type { GatewayEnv } from "../bindings.js";
import { workerTransport } from "../connect/worker-transport.js";
import { createGateway } from "../gateway.js";
import { heartbeatMs } from "../limits.js";
import { errorOf, testEnv, testUrl } from "../testing/gateway-clients.js";
import { engineDirectory } from "../worker-client/directory.js";
import { newPool, newWorker, pooledModel, reachScriptedWorkers } from "../testing/pool-bench.js";

const poolToken = "a-token-to-register-with";
const adminToken = "a-token-for-the-operator";

/** A client of a service of the gateway with these bindings. */
function client<S extends DescService>(service: S, env: GatewayEnv, token?: string): Client<S> {
  const gateway = createGateway(env);
  return createClient(
    service,
    workerTransport({
      baseUrl: testUrl,
      fetcher: {
        fetch: async (url, init) =>
          gateway.fetch(new Request(url, init), env, createExecutionContext()),
      },
      interceptors: bearerToken(token),
    }),
  );
}

/** GET /metrics. */
async function getMetrics(env: GatewayEnv, token?: string): Promise<Response> {
  const headers = token === undefined ? undefined : { authorization: `Bearer ${token}` };
  const request = new Request(`${testUrl}/metrics`, headers === undefined ? {} : { headers });
  return createGateway(env).fetch(request, env, createExecutionContext());
}

/** Places sessions; the worker of the last one. */
async function newPlaces(env: GatewayEnv, count: number): Promise<string> {
  let worker = "";
  for (let index = 0; index < count; index++) {
    ({ worker } = await engineDirectory(env).place({ model: pooledModel, key: String(index) }));
  }
  return worker;
}

beforeEach(reachScriptedWorkers);
afterEach(() => {
  vi.unstubAllGlobals();
});

describe("PoolService and PoolAdminService", () => {
  it("take a worker in, show it, drain, resume and evict it", async () => {
    const { env, name: pool } = newPool();
    const service = client(PoolService, env, poolToken);
    const admin = client(PoolAdminService, env, adminToken);
    const name = newWorker();
    const member = { name, incarnation: "1" };
    expect(
      await service.register({
        ...member,
        address: `http://${name}/`,
        models: [{ model: pooledModel }],
        load: { running: 1, pages: 8n, pagesFree: 6n, tokensPerSecond: 12.5 },
        startMs: 1n,
      }),
    ).toMatchObject({ state: WorkerState.PENDING, heartbeatMs, pool });
    await vi.waitFor(async () => {
      const load = { running: 1, pages: 8n, pagesFree: 6n, tokensPerSecond: 12.5 };
      expect((await service.heartbeat({ ...member, load })).state).toBe(WorkerState.READY);
    });
    expect((await admin.listWorkers({})).workers).toMatchObject([
      {
        pool,
        name,
        origin: WorkerOrigin.REGISTERED,
        address: `http://${name}`,
        state: WorkerState.READY,
        breaker: BreakerState.CLOSED,
        load: { running: 1, pages: 8n, pagesFree: 6n, tokensPerSecond: 12.5, draining: false },
      },
    ]);
    expect(await newPlaces(env, 3)).toBe(`pool:${pool}/${name}`);
    const metrics = await (await getMetrics(env, adminToken)).text();
    for (const line of [
      "# TYPE leanedge:pool_placements_total counter",
      `leanedge:pool_workers{pool="${pool}",state="ready"} 1`,
      `leanedge:pool_placements_total{pool="${pool}",reason="only"} 3`,
      `leanedge:pool_turns_rebound_total{pool="${pool}",reason="failover"} 0`,
      `leanedge:pool_worker_tokens_per_second{pool="${pool}",worker="${name}"} 12.5`,
    ]) {
      expect(metrics.split("\n")).toContain(line);
    }
    expect((await admin.drainWorker({ name })).worker?.state).toBe(WorkerState.DRAINING);
    expect((await service.heartbeat(member)).state).toBe(WorkerState.DRAINING);
    expect((await admin.resumeWorker({ pool, name })).worker?.state).toBe(WorkerState.READY);
    expect((await admin.evictWorker({ name })).worker).toMatchObject({
      state: WorkerState.FAILED,
      reason: "evicted by an operator",
    });
    const out = await errorOf(service.heartbeat(member));
    expect([out.code, out.rawMessage]).toEqual([
      Code.FailedPrecondition,
      `worker "${name}" was evicted by an operator`,
    ]);
  });

  it("let a worker leave, and send an unknown one to register", async () => {
    const { env } = newPool();
    const service = client(PoolService, env, poolToken);
    const member = { name: newWorker(), incarnation: "1" };
    const unknown = await errorOf(service.heartbeat(member));
    expect([unknown.code, unknown.rawMessage]).toEqual([
      Code.NotFound,
      `the pool does not know worker "${member.name}"; it must register`,
    ]);
    await service.register({
      ...member,
      address: `http://${member.name}`,
      models: [{ model: pooledModel }],
    });
    expect(await service.deregister(member)).toMatchObject({ removed: true });
    expect(await service.deregister(member)).toMatchObject({ removed: false });
  });

  it.each([
    [{ name: "a b" }, Code.InvalidArgument, 'name is "a b"; it must have 1 to 128 characters'],
    [{ incarnation: "" }, Code.InvalidArgument, 'incarnation is ""; it must have 1 to 64'],
    [{ address: "ftp://w" }, Code.InvalidArgument, 'address is "ftp://w"; it must be http'],
    [{ address: "http://u:p@w" }, Code.InvalidArgument, 'address is "http://u:p@w"; it must be'],
    [{ models: [] }, Code.InvalidArgument, "models has 0 entries, 1 to 16 are allowed"],
    [{ models: [{ model: "x" }] }, Code.NotFound, 'configuration has no model "x"'],
    [
      { models: [{ model: pooledModel, planFingerprints: Array<string>(9).fill("p") }] },
      Code.InvalidArgument,
      "a model has 9 plans, at most 8 are allowed",
    ],
    [{ pool: "none" }, Code.NotFound, 'configuration has no pool "none"'],
  ])("refuse %j", async (wrong, code, message) => {
    const { env } = newPool();
    const request = {
      ...{ name: "w", incarnation: "1", address: "http://w", models: [{ model: pooledModel }] },
      ...wrong,
    };
    const error = await errorOf(client(PoolService, env, poolToken).register(request));
    expect([error.code, error.rawMessage]).toEqual([code, expect.stringContaining(message)]);
  });

  it("do not know a worker that an operator names wrongly", async () => {
    const { env, name } = newPool();
    const error = await errorOf(
      client(PoolAdminService, env, adminToken).drainWorker({ name: "x" }),
    );
    expect([error.code, error.rawMessage]).toEqual([
      Code.NotFound,
      `pool "${name}" has no worker "x"`,
    ]);
  });

  it("want their own tokens", async () => {
    const { env } = newPool();
    const beat = { name: "w", incarnation: "1" };
    for (const token of [undefined, "wrong", adminToken, "le-dev-test"]) {
      const error = await errorOf(client(PoolService, env, token).heartbeat(beat));
      expect([error.code, error.rawMessage]).toEqual([
        Code.Unauthenticated,
        "the call must carry the token of LEANEDGE_POOL_TOKEN",
      ]);
    }
    for (const token of [undefined, poolToken, "le-dev-test"]) {
      expect((await getMetrics(env, token)).status).toBe(401);
      const error = await errorOf(client(PoolAdminService, env, token).listWorkers({}));
      expect([error.code, error.rawMessage]).toEqual([
        Code.Unauthenticated,
        "the call must carry the token of LEANEDGE_ADMIN_TOKEN",
      ]);
    }
  });

  it("are closed to all where the configuration has no token", async () => {
    const env = testEnv as unknown as GatewayEnv;
    const beat = { name: "w", incarnation: "1" };
    for (const token of ["", "undefined", poolToken]) {
      const error = await errorOf(client(PoolService, env, token).heartbeat(beat));
      expect([error.code, error.rawMessage]).toEqual([
        Code.Unauthenticated,
        "this gateway has no LEANEDGE_POOL_TOKEN, so nobody may call this",
      ]);
      const admin = await errorOf(client(PoolAdminService, env, token).listWorkers({}));
      expect(admin.code).toBe(Code.Unauthenticated);
    }
  });
});
