import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { afterEach, describe, expect, it } from "vitest";
import {
  PoolService,
  WorkerState,
  type HeartbeatRequest,
  type RegisterRequest,
} from "../../gen/leanedge/pool/v1/pool_pb.js";
import {
  GetStatusResponseSchema,
  type GetStatusResponse,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import { openRegistrations } from "./open-registration.js";
import { Registration } from "./registration.js";
import { TokenRate } from "./worker-load.js";

/** A pool that remembers its calls and answers as it is told. */
class Pool {
  readonly registered: RegisterRequest[] = [];
  readonly beats: HeartbeatRequest[] = [];
  readonly left: string[] = [];
  /** Errors of the next calls, in order. */
  readonly faults: (Code | undefined)[] = [];
  state = WorkerState.READY;
  heartbeatMs = 1;
  /** Heartbeats are answered after that. */
  answered: Promise<unknown> = Promise.resolve();

  readonly transport = createRouterTransport((router) =>
    router.service(PoolService, {
      register: (request) => {
        this.#fail();
        this.registered.push(request);
        return { state: WorkerState.PENDING, heartbeatMs: 1, pool: "default" };
      },
      heartbeat: async (request) => {
        this.#fail();
        this.beats.push(request);
        await this.answered;
        return { state: this.state, heartbeatMs: this.heartbeatMs };
      },
      deregister: (request) => {
        this.left.push(request.incarnation);
        return { removed: true };
      },
    }),
  );

  #fail(): void {
    const code = this.faults.shift();
    if (code !== undefined) throw new ConnectError("refused", code);
  }
}

let open: Registration[] = [];
let lines: string[] = [];

function register(
  pool: Pool,
  status: () => Promise<GetStatusResponse> = () =>
    Promise.resolve(
      create(GetStatusResponseSchema, {
        worker: "w",
        running: 2,
        pages: 10n,
        pagesFree: 4n,
        models: [{ model: "m", fingerprints: { model: "f", template: "t", plan: "p" } }],
      }),
    ),
): Registration {
  const registration = new Registration({
    transport: pool.transport,
    gateway: "http://gateway",
    pool: "",
    name: "w",
    address: "http://w:1",
    status,
    log: (line) => lines.push(line),
  });
  open.push(registration);
  return registration;
}

afterEach(async () => {
  await Promise.all(open.map((registration) => registration.close()));
  open = [];
  lines = [];
});

describe("a registration", () => {
  it("registers once, sends heartbeats with the load, and leaves in order", async () => {
    const pool = new Pool();
    const registration = register(pool);
    await expect.poll(() => pool.beats.length).toBeGreaterThanOrEqual(2);
    await registration.close();
    expect(pool.registered).toHaveLength(1);
    expect(pool.registered[0]).toMatchObject({
      name: "w",
      address: "http://w:1",
      models: [{ model: "m", fingerprint: "f", templateFingerprint: "t" }],
      load: { running: 2, pages: 10n, pagesFree: 4n, draining: false },
    });
    expect(pool.beats[0]?.incarnation).toBe(pool.registered[0]?.incarnation);
    expect(pool.left).toEqual([pool.registered[0]?.incarnation]);
    const beats = pool.beats.length;
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(pool.beats).toHaveLength(beats);
    expect(lines).toEqual([
      'registered with pool "default" of http://gateway',
      "pending in the pool of http://gateway",
      "ready in the pool of http://gateway",
    ]);
  });

  it("tells at once that the worker shuts down", async () => {
    const pool = new Pool();
    const registration = register(pool);
    await expect.poll(() => pool.beats.length).toBeGreaterThanOrEqual(1);
    registration.shutDown();
    await expect.poll(() => pool.beats.at(-1)?.load?.draining).toBe(true);
  });

  it("tells it at once where a heartbeat is under way, too", async () => {
    const pool = new Pool();
    const underWay = Promise.withResolvers<undefined>();
    pool.answered = underWay.promise;
    const registration = register(pool);
    await expect.poll(() => pool.beats.length).toBe(1);
    registration.shutDown();
    pool.heartbeatMs = 60_000;
    underWay.resolve(undefined);
    await expect.poll(() => pool.beats.at(-1)?.load?.draining).toBe(true);
  });

  it("registers again where the pool has forgotten it", async () => {
    const pool = new Pool();
    pool.faults.push(undefined, Code.NotFound);
    register(pool);
    await expect.poll(() => pool.registered.length).toBe(2);
    expect(pool.registered[1]?.incarnation).toBe(pool.registered[0]?.incarnation);
  });

  it("tries again when the gateway cannot be reached, and says so once", async () => {
    const pool = new Pool();
    pool.faults.push(Code.Unavailable, Code.Unavailable);
    register(pool);
    await expect.poll(() => pool.registered.length, { timeout: 5_000 }).toBe(1);
    expect(lines.filter((line) => line.includes("refused"))).toEqual([
      "the pool of http://gateway: [unavailable] refused",
    ]);
  });

  it("ends when the pool wants the process no more, and does not deregister", async () => {
    const pool = new Pool();
    pool.faults.push(undefined, Code.FailedPrecondition);
    const registration = register(pool);
    await expect.poll(() => lines.at(-1)).toContain("[failed_precondition]");
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(pool.beats).toEqual([]);
    await registration.close();
    expect(pool.left).toEqual([]);
  });

  it("leaves a heartbeat out while the engine restarts", async () => {
    const pool = new Pool();
    let asked = 0;
    register(pool, () => {
      asked++;
      return asked === 1
        ? Promise.reject(new ConnectError("the engine restarts", Code.Unavailable))
        : Promise.resolve(create(GetStatusResponseSchema, { worker: "w" }));
    });
    await expect.poll(() => pool.registered.length, { timeout: 5_000 }).toBe(1);
  });
});

describe("the options of a worker", () => {
  const membership = {
    gateways: [] as string[],
    token: "t",
    address: "http://w:1",
    name: "w",
    status: () => Promise.resolve(create(GetStatusResponseSchema)),
    log: () => undefined,
  };

  it.each([
    [{ gateways: ["gateway:1"] }, '--pool is "gateway:1"; it must be an http or https address'],
    [{ address: "w" }, '--address is "w"; it must be an http or https address'],
    [{ name: "a b" }, '--name is "a b"; in a pool it must have 1 to 128 characters'],
    [{ gateways: Array<string>(17).fill("http://g") }, "--pool is given 17 times, at most 16"],
  ])("refuses %j", (wrong, message) => {
    expect(() => openRegistrations({ ...membership, ...wrong })).toThrow(message);
  });
});

describe("the rate of tokens", () => {
  it("is 0 at first and after a restart, and counts tokens a second", async () => {
    const rate = new TokenRate();
    const beginMs = performance.now();
    expect(rate.next({ generatedTokens: 100n })).toBe(0);
    const firstMs = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 50));
    const againMs = performance.now();
    const perSecond = rate.next({ generatedTokens: 110n });
    const endMs = performance.now();
    expect(perSecond).toBeGreaterThanOrEqual(Math.floor(10_000 / (endMs - beginMs)));
    expect(perSecond).toBeLessThanOrEqual(Math.ceil(10_000 / (againMs - firstMs)));
    expect(rate.next({ generatedTokens: 3n })).toBe(0);
  });
});
