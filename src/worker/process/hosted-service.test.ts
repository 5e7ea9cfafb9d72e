import { Code, createHandlerContext, type HandlerContext } from "@connectrpc/connect";
import { createAsyncIterable } from "@connectrpc/connect/protocol";
import { create, type DescMethod } from "@bufbuild/protobuf";
import { afterEach, describe, expect, it } from "vitest";
import type { LogFields, LogLevel } from "../../log/log-line.js";
import { EngineError } from "../../engine/status.js";
import {
  ForkRequestSchema,
  GenerateRequestSchema,
  GetStatusRequestSchema,
  ReleaseRequestSchema,
  UnavailableReason,
  WorkerService,
  type GenerateResponse,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import { WorkerMetrics } from "../metrics.js";
import { startWorker } from "../worker-service.js";
import { EngineHost } from "./engine-host.js";
import { HostedService } from "./hosted-service.js";
import { ask, inlineTexts, loadModelEngine } from "./testing/model-process.js";

type Handlers = HostedService["handlers"];

const hosts: EngineHost[] = [];

afterEach(() => {
  for (const host of hosts.splice(0)) host.close();
});

async function hostedService(logged: [LogLevel, LogFields][]): Promise<HostedService> {
  const metrics = new WorkerMetrics("m");
  const nowSeconds = (): number => performance.now() / 1000;
  const host = await EngineHost.open({
    load: async () => loadModelEngine(),
    start: (loaded) =>
      startWorker({
        ...loaded,
        name: "w1",
        model: "m",
        yieldToHost: () => new Promise((resolve) => setImmediate(resolve)),
        nowUs: () => performance.now() * 1000,
      }),
    metrics,
    nowSeconds,
    log: () => undefined,
  });
  hosts.push(host);
  const logCall = (level: LogLevel, fields: LogFields): void => void logged.push([level, fields]);
  return new HostedService({ host, texts: inlineTexts, metrics, nowSeconds, logCall });
}

/** How a call ends that is not answered. */
interface CallEnd {
  readonly requestSignal?: AbortSignal;
  readonly timeoutMs?: number;
  readonly requestId?: string;
}

function contextOf(method: DescMethod, { requestSignal, timeoutMs }: CallEnd): HandlerContext {
  return createHandlerContext({
    ...{ service: WorkerService, method },
    ...{ protocolName: "connect", requestMethod: "POST", url: "http://worker" },
    requestSignal,
    timeoutMs,
  });
}

/** Begins an answer that lasts, and takes its first event; nobody asks for the next one. */
async function dropped(
  service: HostedService,
  end: CallEnd,
): Promise<AsyncIterator<GenerateResponse>> {
  const context = contextOf(WorkerService.method.generate, end);
  const { requestId = "" } = end;
  const request = create(GenerateRequestSchema, { ...ask("hello", 3_000), requestId });
  const stream = service.handlers.generate(request, context) as AsyncIterable<GenerateResponse>;
  const events = stream[Symbol.asyncIterator]();
  await events.next();
  return events;
}

describe("a call that finds the engine lost", () => {
  const lost = (): Promise<never> =>
    Promise.reject(new EngineError("deviceLost", "the engine stopped"));

  it.each([
    ["restore", (at: Handlers, of: HandlerContext) => at.restore(createAsyncIterable([]), of)],
    ["fork", (at: Handlers, of: HandlerContext) => at.fork(create(ForkRequestSchema), of)],
    ["release", (at: Handlers, of: HandlerContext) => at.release(create(ReleaseRequestSchema), of)],
    [
      "getStatus",
      (at: Handlers, of: HandlerContext) => at.getStatus(create(GetStatusRequestSchema), of),
    ],
  ] as const)("as %s is told that it starts again", async (name, call) => {
    const service = await hostedService([]);
    const worker = hosts.at(-1)?.worker;
    if (worker === undefined) throw new Error("there is no worker");
    worker.service[name] = lost;
    const context = contextOf(WorkerService.method[name], {});
    const told = await Promise.resolve(call(service.handlers, context)).catch(
      (error: unknown) => error,
    );
    expect(told).toMatchObject({
      code: Code.Unavailable,
      details: [{ value: { reason: UnavailableReason.ENGINE_RESTARTING } }],
    });
  });
});

describe("a call whose generator nobody resumes", () => {
  it("is over when its client has left, for a drain and in the log", async () => {
    const logged: [LogLevel, LogFields][] = [];
    const service = await hostedService(logged);
    const leaving = new AbortController();
    const events = await dropped(service, { requestSignal: leaving.signal });
    expect(service.calls).toBe(1);
    leaving.abort();
    expect(await service.idle(5_000)).toBe(true);
    expect(logged).toMatchObject([["info", { outcome: "left", generated_tokens: 0 }]]);
    // Where it is resumed after all, it counts once.
    await events.return?.();
    expect([service.calls, logged.length]).toEqual([0, 1]);
  });

  it("is named in the log by no more of its request id than that may have", async () => {
    const logged: [LogLevel, LogFields][] = [];
    const service = await hostedService(logged);
    const events = await dropped(service, { requestId: "r".repeat(10_000) });
    await events.return?.();
    expect(logged).toMatchObject([["info", { request_id: "r".repeat(128) }]]);
  });

  it("is over at its deadline where its sender stands still", async () => {
    const service = await hostedService([]);
    const worker = hosts.at(-1)?.worker;
    if (worker === undefined) throw new Error("there is no worker");
    // As a restore does whose next message never comes.
    worker.service.restore = () => new Promise(() => undefined);
    const context = contextOf(WorkerService.method.restore, { timeoutMs: 50 });
    void service.handlers.restore(createAsyncIterable([]), context);
    expect(service.calls).toBe(1);
    expect(await service.idle(5_000)).toBe(true);
    expect(service.calls).toBe(0);
  });

  it("is over when its deadline has passed, and the log says why", async () => {
    const logged: [LogLevel, LogFields][] = [];
    const service = await hostedService(logged);
    await dropped(service, { timeoutMs: 50 });
    expect(await service.idle(5_000)).toBe(true);
    expect(logged).toMatchObject([["warn", { outcome: "deadline_exceeded" }]]);
  });
});
