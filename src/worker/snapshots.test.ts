/** Plans and snapshots of a worker, with a real engine of random weights. */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type Client } from "@connectrpc/connect";
import { beforeEach, describe, expect, it } from "vitest";
import { openEngine, smallZones, tinyModel } from "../engine/conformance/engine-bench.js";
import { allocatedBytes, contextForMemory, planAllocation } from "../engine/plan/allocation.js";
import { identityPlan, type CachePlan } from "../engine/plan/plan.js";
import { readEngineModule } from "../engine/wasm/node-module.js";
import type { BoundaryEngine } from "../engine/boundary/boundary-engine.js";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import {
  FingerprintsSchema,
  RestoreRequestSchema,
  SnapshotFaultReason,
  SnapshotFaultSchema,
  type WorkerService,
  type Accepted,
  type Finished,
  type PrefixName,
  type RestoreRequest,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { snapshotPieceBytes } from "./limits.js";
import { byteCodec } from "./testing/byte-codec.js";
import { openWorker } from "./testing/open-worker.js";

const { layers, kvHeads, headDim, dim } = tinyModel;
const geometry = { layers, kvHeads, headDim, dim };
const fingerprint = "ab".repeat(32);
/** For long contexts only, and lossy. */
const leanPlan: CachePlan = {
  ...identityPlan(geometry, smallZones),
  name: "lean",
  storage: { k: "int8", v: "int4" },
  context: { minTokens: 200, maxTokens: 700 },
};
const codec = { ...byteCodec, templateFingerprint: "cd".repeat(32) };
const module = await readEngineModule();

type Worker = Client<typeof WorkerService>;
type Request = Parameters<Worker["generate"]>[0];

let engine: BoundaryEngine;
let client: Worker;

function serve(served: BoundaryEngine, model = fingerprint): Worker {
  const config = { codec, geometry, plans: [leanPlan], modelFingerprint: model };
  return openWorker(served, config).client;
}

async function run(
  worker: Worker,
  request: Request,
): Promise<{ accepted: Accepted; finished: Finished }> {
  let accepted: Accepted | undefined;
  let finished: Finished | undefined;
  const stream = worker.generate({ sequenceId: "s", generation: 1n, model: "m", ...request });
  for await (const { event } of stream) {
    if (event.case === "accepted") accepted = event.value;
    if (event.case === "finished") finished = event.value;
  }
  if (accepted === undefined || finished === undefined) throw new Error("the call did not end");
  return { accepted, finished };
}

/** What the first message of a restore may say besides the rest. */
interface FirstMessage {
  readonly sequenceId?: string;
  readonly generation?: bigint;
  readonly prefix?: PrefixName | undefined;
}

/** A request of about `tokens` tokens, its answer included. */
function request(tokens: number, answer = 5) {
  const text = "x".repeat(tokens - answer - 7);
  return { messages: [{ role: Role.USER, text }], sampling: { maxTokens: answer } };
}

async function snapshotOf(worker: Worker, sequenceId = "s"): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  for await (const { data } of worker.snapshot({ sequenceId })) pieces.push(data);
  return Uint8Array.from(pieces.flatMap((piece) => [...piece]));
}

async function* pieces(
  bytes: Uint8Array,
  first: FirstMessage = {},
  size = 10_000,
): AsyncGenerator<RestoreRequest> {
  yield create(RestoreRequestSchema, { sequenceId: "s", generation: 1n, ...first });
  for (let at = 0; at < bytes.length; at += size) {
    await Promise.resolve();
    yield create(RestoreRequestSchema, { data: bytes.subarray(at, at + size) });
  }
}

async function errorOf(promise: Promise<unknown>): Promise<ConnectError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ConnectError) return error;
    throw error;
  }
  throw new Error("the call should have failed");
}

beforeEach(async () => {
  engine = await openEngine(module, tinyModel, { plans: [leanPlan] });
  client = serve(engine);
});

describe("the plan of a sequence", () => {
  it("is chosen by what its first answer can reach, and stays for its life", async () => {
    for (const [tokens, name] of [
      [150, "identity"],
      [300, "lean"],
      [740, "identity"],
    ] as const) {
      const { accepted } = await run(client, {
        sequenceId: name + String(tokens),
        ...request(tokens),
      });
      expect(accepted.plan?.name).toBe(name);
      expect(accepted.fingerprints?.plan).toBe(accepted.plan?.fingerprint);
    }
    // A short session that grows keeps the plan that it began with.
    const { finished } = await run(client, { sequenceId: "s", ...request(150) });
    const grown = await run(client, {
      sequenceId: "s",
      prefix: finished.prefix,
      ...request(400),
    });
    expect(grown.accepted.plan?.name).toBe("identity");
    expect(grown.accepted.cachedTokens).toBeGreaterThan(100);
  });

  it("is the one that a request names, whatever the length", async () => {
    const lean = engine.plans[1];
    const { accepted } = await run(client, {
      ...request(150),
      prefix: { tokens: 0, fingerprints: { plan: lean?.fingerprint ?? "" } },
    });
    expect(accepted.plan?.name).toBe("lean");
    const refused = await errorOf(
      run(client, { ...request(150), prefix: { tokens: 0, fingerprints: { plan: "other" } } }),
    );
    expect(refused.code).toBe(Code.FailedPrecondition);
    expect(refused.rawMessage).toMatch(
      /^the prefix was made under plan other, this worker serves /,
    );
  });

  it("is said with figures that are what the engine allocates, to the byte", async () => {
    const status = await client.getStatus({});
    const infos = status.models[0]?.info?.plans ?? [];
    expect(infos.map(({ name }) => name)).toEqual(["lean", "identity"]);
    for (const [index, plan] of [
      [1, leanPlan],
      [0, identityPlan(geometry, smallZones)],
    ] as const) {
      const info = infos.find(({ name }) => name === plan.name);
      const allocation = planAllocation(plan, engine.contextTokensMax);
      expect(info?.sequenceBytes).toBe(BigInt(allocation.sequenceBytes));
      expect(info?.pageBytes).toBe(BigInt(allocation.pageBytes));
      expect(info?.sessionBytesMax).toBe(
        BigInt(engine.sequenceCacheBytes(index, engine.contextTokensMax)),
      );
      for (const tokens of [1, 35, 67, 68, 99, 100, 101, 500, 768]) {
        expect(allocatedBytes(plan, tokens, engine.contextTokensMax)).toBe(
          engine.sequenceCacheBytes(index, tokens),
        );
      }
      const { cacheBytesFree } = engine.stats();
      const sequence = engine.createSequence(index);
      engine.append(
        sequence,
        "prompt",
        Array.from({ length: 300 }, (_, i) => 5 + (i % 300)),
      );
      engine.stepSync?.([{ sequence, workMax: 1 << 20, sample: true }]);
      const stats = engine.sequenceStats(sequence);
      expect(stats.computed).toBe(300);
      expect(stats.pages).toBe(Math.floor((300 - 36) / 32));
      expect(stats.cacheBytes).toBe(allocatedBytes(plan, 300, engine.contextTokensMax));
      expect(engine.stats().cacheBytesFree).toBe(cacheBytesFree - stats.cacheBytes);
      engine.freeSequence(sequence);
    }
  });

  it("is said with the longest context that the memory holds", () => {
    const plan = identityPlan(geometry, smallZones);
    const context = engine.contextTokensMax;
    for (const bytes of [0, 30_000, 60_000, 61_000, 100_000, 1 << 30]) {
      const tokens = contextForMemory(plan, bytes, context);
      if (tokens > 0) expect(engine.sequenceCacheBytes(0, tokens)).toBeLessThanOrEqual(bytes);
      if (tokens < context) expect(engine.sequenceCacheBytes(0, tokens + 1)).toBeGreaterThan(bytes);
    }
  });
});

describe("a snapshot", () => {
  it("continues in another worker as the sequence would have", async () => {
    const { finished } = await run(client, request(300));
    const bytes = await snapshotOf(client);
    const other = serve(await openEngine(module, tinyModel, { plans: [leanPlan] }));
    const restored = await other.restore(pieces(bytes, { prefix: finished.prefix }));
    expect(restored.prefix).toEqual(finished.prefix);
    expect(restored.cacheBytes).toBe(finished.cacheBytes);
    const next = { prefix: finished.prefix, ...request(60, 20) };
    const here = await run(client, next);
    const there = await run(other, next);
    expect(there.accepted.cachedTokens).toBe(here.accepted.cachedTokens);
    expect(there.finished.prefix).toEqual(here.finished.prefix);
    expect(await other.getStatus({})).toMatchObject({
      snapshotsRestored: 1n,
      snapshotBytesRestored: BigInt(bytes.length),
      snapshots: true,
    });
  });

  it("comes in pieces of at most 512 KiB, and steps go on between them", async () => {
    const large = { ...tinyModel, layers: 8, kvHeads: 6, headDim: 32, dim: 96 };
    const shape = { layers: 8, kvHeads: 6, headDim: 32, dim: 96 };
    const wide = await openEngine(module, large);
    const { client: connected } = openWorker(wide, {
      codec,
      geometry: shape,
      modelFingerprint: fingerprint,
    });
    await run(connected, request(600));
    const running = run(connected, { sequenceId: "t", ...request(500, 300) });
    const steps: bigint[] = [];
    for await (const { data } of connected.snapshot({ sequenceId: "s" })) {
      expect(data.length).toBeLessThanOrEqual(512 * 1024);
      steps.push((await connected.getStatus({})).steps);
    }
    expect(steps.length).toBeGreaterThan(Math.floor((600 * 6144) / snapshotPieceBytes));
    for (const [index, step] of steps.slice(1).entries())
      expect(step).toBeGreaterThan(steps[index] ?? 0n);
    await running;
  });

  it("is of idle sequences with a cache only", async () => {
    expect((await errorOf(snapshotOf(client))).code).toBe(Code.NotFound);
    const { finished } = await run(client, request(300));
    const prefix = finished.prefix;
    if (prefix === undefined) throw new Error("no prefix");
    const fingerprints = create(FingerprintsSchema, { plan: engine.plans.at(0)?.fingerprint });
    expect(prefix.fingerprints?.plan).not.toBe(fingerprints.plan);
    for (const other of [{ sha256: new Uint8Array(32) }, { fingerprints }]) {
      const stream = client.snapshot({ sequenceId: "s", prefix: { ...prefix, ...other } });
      const foreign = await errorOf(stream[Symbol.asyncIterator]().next());
      expect([foreign.code, foreign.rawMessage]).toEqual([
        Code.NotFound,
        "the worker does not have that prefix",
      ]);
    }
    const running = run(client, { prefix, ...request(60, 40) });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect((await errorOf(snapshotOf(client))).code).toBe(Code.FailedPrecondition);
    await running;
  });

  it("is given up when its sequence goes on", async () => {
    const { finished } = await run(client, request(300));
    const reading = client.snapshot({ sequenceId: "s" })[Symbol.asyncIterator]();
    await reading.next();
    await run(client, { prefix: finished.prefix, ...request(60) });
    // The pieces that are on their way are short of the whole; the reader hears of it.
    const rest = await errorOf(
      (async () => {
        for (;;) if ((await reading.next()).done === true) return;
      })(),
    );
    expect(rest.code).toBe(Code.Aborted);
    expect((await client.getStatus({})).snapshotsSaved).toBe(0n);
  });

  const faults: readonly [
    string,
    SnapshotFaultReason,
    (bytes: Uint8Array<ArrayBuffer>) => Uint8Array,
  ][] = [
    ["cut off", SnapshotFaultReason.TRUNCATED, (b) => b.subarray(0, b.length - 1)],
    ["cut off in its header", SnapshotFaultReason.TRUNCATED, (b) => b.subarray(0, 100)],
    ["empty", SnapshotFaultReason.TRUNCATED, (b) => b.subarray(0, 0)],
    ["too long", SnapshotFaultReason.CORRUPT, (b) => Uint8Array.from([...b, 0])],
    ["damaged at its start", SnapshotFaultReason.CORRUPT, (b) => b.fill(1, 0, 1)],
    ["damaged in its log", SnapshotFaultReason.CORRUPT, (b) => b.fill(255, 220, 224)],
    [
      "damaged in a page",
      SnapshotFaultReason.CORRUPT,
      (b) => b.fill(7, b.length - 99, b.length - 90),
    ],
    ["of another version", SnapshotFaultReason.FOREIGN, (b) => b.fill(9, 4, 5)],
    ["of another model", SnapshotFaultReason.FOREIGN, (b) => b.fill(9, 32, 64)],
    ["of another template", SnapshotFaultReason.FOREIGN, (b) => b.fill(9, 64, 96)],
    ["of another plan", SnapshotFaultReason.FOREIGN, (b) => b.fill(9, 96, 128)],
    ["of too many tokens", SnapshotFaultReason.TOO_LARGE, tooLong],
  ];

  /** Claims a log of 1,000 tokens, and an offset that follows from it. */
  function tooLong(bytes: Uint8Array<ArrayBuffer>): Uint8Array {
    const view = new DataView(bytes.buffer);
    view.setUint32(128, 1000, true);
    const segments = view.getUint32(136, true);
    view.setBigUint64(160, BigInt(192 + Math.ceil((8 * segments + 4000) / 16) * 16), true);
    return bytes;
  }

  it.each(faults)(
    "that is %s is refused, with its reason, and nothing of it is kept",
    async (_name, reason, spoil) => {
      await run(client, request(300));
      const bytes = await snapshotOf(client);
      await client.release({ sequenceId: "s", generation: 1n });
      for (const size of [10_000, 100, 1 << 20]) {
        const error = await errorOf(client.restore(pieces(spoil(bytes.slice()), {}, size)));
        expect(error.findDetails(SnapshotFaultSchema).map((fault) => fault.reason)).toEqual([
          reason,
        ]);
        expect(error.code).toBe(
          reason === SnapshotFaultReason.TOO_LARGE ? Code.ResourceExhausted : Code.DataLoss,
        );
      }
      const { cacheBytes, cacheBytesFree } = engine.stats();
      expect(cacheBytesFree).toBe(cacheBytes);
      const status = await client.getStatus({});
      expect(status).toMatchObject({ sequences: 0, running: 0, snapshotsRestored: 0n });
      expect(status.snapshotsStale + status.snapshotsBroken).toBe(3n);
      expect(status.snapshotsStale > 0n).toBe(reason === SnapshotFaultReason.FOREIGN);
      // What is whole still goes in.
      await client.restore(pieces(bytes));
    },
  );

  it("waits for memory like a job, and two do not get into each other's way", async () => {
    const small = await openEngine(module, tinyModel, {
      plans: [leanPlan],
      memoryBytesMax: 3 * 1024 * 1024,
    });
    const worker = serve(small);
    await run(client, request(300));
    const bytes = await snapshotOf(client);
    const names = Array.from({ length: 40 }, (_, index) => `r${index}`);
    await Promise.all(
      names.map((sequenceId) => worker.restore(pieces(bytes, { sequenceId, generation: 1n }))),
    );
    const status = await worker.getStatus({});
    expect(status.snapshotsRestored).toBe(40n);
    // They do not fit together: the oldest went again, and its owner has it saved.
    expect(status.sequences).toBeLessThan(40);
    expect(status).toMatchObject({ running: 0, queued: 0 });
  });

  it("gives its memory back when its sender leaves", async () => {
    await run(client, request(300));
    const bytes = await snapshotOf(client);
    await client.release({ sequenceId: "s", generation: 1n });
    const leave = new AbortController();
    async function* halting(): AsyncGenerator<RestoreRequest> {
      yield* pieces(bytes.subarray(0, 20_000));
      leave.abort();
      await new Promise((resolve) => setTimeout(resolve, 20));
      yield create(RestoreRequestSchema, { data: bytes.subarray(20_000) });
    }
    const error = await errorOf(client.restore(halting(), { signal: leave.signal }));
    expect(error.code).toBe(Code.Canceled);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const { cacheBytes, cacheBytesFree } = engine.stats();
    expect(cacheBytesFree).toBe(cacheBytes);
    expect(await client.getStatus({})).toMatchObject({ running: 0, queued: 0, sequences: 0 });
    await client.restore(pieces(bytes));
  });
});
