import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { create, toBinary } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { describe, expect, it } from "vitest";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  UnavailableReason,
  WorkerService,
  WorkerUnavailableSchema,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { encodeFrame, encodeFrames } from "../connect/frame-buffer.js";
import { workerTransport } from "../connect/worker-transport.js";
import type { Fetching } from "../connect/worker-transport.js";
import { streamEndBytesMax } from "../limits.js";
import { GenerateCall } from "./generate-call.js";
import { openWorker } from "./worker-client.js";

const request = create(GenerateRequestSchema, { sequenceId: "q", generation: 3n, model: "m" });
const streaming = { "content-type": "application/connect+proto" };
const endOfStream = { kind: 2, payload: new TextEncoder().encode("{}") };

function event(of: MessageInitShape<typeof GenerateResponseSchema>["event"]): GenerateResponse {
  return create(GenerateResponseSchema, { event: of });
}

function frame(response: GenerateResponse): { kind: number; payload: Uint8Array } {
  return { kind: 0, payload: toBinary(GenerateResponseSchema, response) };
}

const accepted = event({ case: "accepted", value: { promptTokens: 7, worker: "w" } });
const tokens = event({ case: "tokens", value: { ids: [1, 2], text: "ab", offset: 0n } });
const finished = event({ case: "finished", value: { generatedTokens: 2 } });

/** What a caller sees of a call: its events, and how it failed. */
interface Seen {
  readonly events: GenerateResponse[];
  readonly failure: unknown;
}

async function seen(stream: AsyncIterable<GenerateResponse>): Promise<Seen> {
  const events: GenerateResponse[] = [];
  try {
    for await (const response of stream) events.push(response);
    return { events, failure: undefined };
  } catch (error) {
    if (!(error instanceof ConnectError)) return { events, failure: error };
    const { code, rawMessage, metadata } = error;
    return {
      events,
      failure: {
        ...{ code, rawMessage, headOfWorker: metadata.get("content-type") },
        reasons: error.findDetails(WorkerUnavailableSchema).map(({ reason }) => reason),
      },
    };
  }
}

/** The same answer, read by Connect's client and by ours. */
async function bothSee(answer: () => Response | Promise<Response>): Promise<[Seen, Seen]> {
  const fetcher: Fetching = { fetch: () => Promise.resolve(answer()) };
  const baseUrl = "http://worker";
  const theirs = createClient(WorkerService, workerTransport({ baseUrl, fetcher }));
  return [
    await seen(theirs.generate(request)),
    await seen(new GenerateCall({ fetcher, baseUrl, token: undefined }, request)),
  ];
}

function answerOf(bytes: Uint8Array<ArrayBuffer>, chunkBytes = 7): Response {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let at = 0; at < bytes.length; at += chunkBytes) {
        controller.enqueue(bytes.slice(at, at + chunkBytes));
      }
      controller.close();
    },
  });
  return new Response(body, { headers: streaming });
}

function endWith(json: string): { kind: number; payload: Uint8Array } {
  return { kind: 2, payload: new TextEncoder().encode(json) };
}

describe("GenerateCall", () => {
  const unavailable = {
    code: "unavailable",
    message: "the engine starts again",
    details: [
      {
        type: WorkerUnavailableSchema.typeName,
        value: Buffer.from(
          toBinary(
            WorkerUnavailableSchema,
            create(WorkerUnavailableSchema, { reason: UnavailableReason.ENGINE_RESTARTING }),
          ),
        ).toString("base64"),
      },
    ],
  };

  it("knows which events came together, and that nothing follows", async () => {
    const answer = answerOf(encodeFrames([frame(accepted), frame(tokens), frame(finished)]), 1_000);
    const fetcher: Fetching = { fetch: () => Promise.resolve(answer) };
    const call = new GenerateCall({ fetcher, baseUrl: "http://worker", token: undefined }, request);
    expect(call.ready).toBe(false);
    const ready: boolean[] = [];
    for await (const { event: of } of call) {
      expect(of.case).toBeDefined();
      ready.push(call.ready);
    }
    expect(ready).toEqual([true, true, true]);
    const apart = answerOf(encodeFrames([frame(accepted), frame(tokens)]), 1);
    const slow: Fetching = { fetch: () => Promise.resolve(apart) };
    const other = new GenerateCall(
      { fetcher: slow, baseUrl: "http://worker", token: undefined },
      request,
    );
    await other.next();
    expect(other.ready).toBe(false);
    await other.return();
    expect(other.ready).toBe(true);
  });

  it.each([
    ["an answer", [frame(accepted), frame(tokens), endOfStream], undefined],
    ["no event", [endOfStream], undefined],
    ["an error", [endWith(JSON.stringify({ error: unavailable }))], Code.Unavailable],
    [
      "an error in mid-answer, and the worker's metadata",
      [
        frame(accepted),
        endWith(
          '{"error":{"code":"not_found","message":"no such model"},"metadata":{"x-a":["b"]}}',
        ),
      ],
      Code.NotFound,
    ],
    ["a code that is none", [endWith('{"error":{"code":"odd","message":"x"}}')], Code.Unknown],
    ["an end that is no JSON", [endWith("{")], Code.InvalidArgument],
    ["no end", [frame(accepted)], Code.InvalidArgument],
    ["half an envelope", [frame(accepted), { kind: 0, payload: new Uint8Array(9) }], undefined],
    ["a message that is none", [{ kind: 0, payload: new Uint8Array([255]) }], Code.Internal],
    ["a compressed message", [{ kind: 1, payload: new Uint8Array([1]) }], Code.Internal],
  ])("says of %s what Connect's client says", async (name, frames, code) => {
    const whole = encodeFrames(frames);
    const bytes = name === "half an envelope" ? whole.slice(0, whole.length - 4) : whole;
    const [theirs, ours] = await bothSee(() => answerOf(bytes));
    expect(ours).toEqual(theirs);
    if (code !== undefined) expect(ours.failure).toMatchObject({ code });
  });

  it("keeps the details of an error, and the head that tells it from one made here", async () => {
    const failed = encodeFrames([endWith(JSON.stringify({ error: unavailable }))]);
    const [, worker] = await bothSee(() => answerOf(failed));
    expect(worker.failure).toMatchObject({
      headOfWorker: "application/connect+proto",
      reasons: [UnavailableReason.ENGINE_RESTARTING],
    });
    const [, broken] = await bothSee(() => answerOf(encodeFrames([frame(accepted)])));
    expect(broken.failure).toMatchObject({ headOfWorker: null });
  });

  it.each<[string, () => Response | Promise<Response>, Code]>([
    ["a proxy's error", () => new Response("bad gateway", { status: 502 }), Code.Unavailable],
    ["a key that opens nothing", () => new Response(null, { status: 401 }), Code.Unauthenticated],
    [
      "a page",
      () => new Response("<p>", { headers: { "content-type": "text/html" } }),
      Code.Unknown,
    ],
    [
      "a unary answer",
      () => new Response("", { headers: { "content-type": "application/proto" } }),
      Code.Internal,
    ],
    [
      "an encoding that nobody asked for",
      () => new Response("", { headers: { ...streaming, "connect-content-encoding": "br" } }),
      Code.Internal,
    ],
    [
      "a redirect",
      () => new Response(null, { status: 302, headers: { location: "/x" } }),
      Code.Unavailable,
    ],
    ["an empty body", () => new Response(null, { headers: streaming }), Code.InvalidArgument],
    ["a connection that fails", () => Promise.reject(new TypeError("no route")), Code.Unknown],
    [
      "a body that breaks off",
      () =>
        new Response(
          new ReadableStream({
            pull: (controller) => controller.error(new TypeError("connection reset")),
          }),
          { headers: streaming },
        ),
      Code.Unknown,
    ],
  ])("says of %s what Connect's client says", async (_, answer, code) => {
    const [theirs, ours] = await bothSee(answer);
    expect(ours).toEqual(theirs);
    expect(ours.failure).toMatchObject({ code });
  });

  it("refuses an event above the bound before it has come", async () => {
    const head = encodeFrame(0, new Uint8Array(0));
    head.set([1, 0, 0, 0], 1);
    const [theirs, ours] = await bothSee(() => answerOf(head));
    expect(ours.failure).toMatchObject({ code: Code.ResourceExhausted, headOfWorker: null });
    expect(ours.failure).toMatchObject({ code: (theirs.failure as ConnectError).code });
  });
});

/** A call whose answer the test writes, and what became of its request. */
function steeredCall(signal?: AbortSignal): {
  call: GenerateCall;
  write: (...responses: GenerateResponse[]) => void;
  writeBytes: (bytes: Uint8Array) => void;
  close: () => void;
  request: () => { signal: AbortSignal; cancelled: boolean };
} {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  let sent: AbortSignal | undefined;
  let cancelled = false;
  const body = new ReadableStream<Uint8Array>({
    start(started) {
      controller = started;
    },
    cancel() {
      cancelled = true;
    },
  });
  const fetcher: Fetching = {
    fetch(_, init) {
      sent = init?.signal ?? undefined;
      sent?.addEventListener("abort", () => {
        // As the runtime does with a request that was given up.
        if (!cancelled) controller?.error(sent?.reason);
      });
      return Promise.resolve(new Response(body, { headers: streaming }));
    },
  };
  return {
    call: new GenerateCall({ fetcher, baseUrl: "http://w", token: undefined }, request, { signal }),
    write: (...responses) => controller?.enqueue(encodeFrames(responses.map(frame))),
    writeBytes: (bytes) => controller?.enqueue(bytes),
    close: () => controller?.close(),
    request() {
      if (sent === undefined) throw new Error("no request was sent");
      return { signal: sent, cancelled };
    },
  };
}

describe("a call's end", () => {
  it("by its signal closes the request at once, and rejects what waits", async () => {
    const caller = new AbortController();
    const { call, write, request: sent } = steeredCall(caller.signal);
    write(accepted);
    expect((await call.next()).value).toEqual(accepted);
    const waiting = call.next();
    caller.abort();
    await expect(waiting).rejects.toMatchObject({ code: Code.Canceled });
    expect(sent().signal.aborted).toBe(true);
    expect(await call.next()).toEqual({ done: true, value: undefined });
  });

  it("before its beginning sends nothing", async () => {
    const { call, request: sent } = steeredCall(AbortSignal.abort());
    await expect(call.next()).rejects.toMatchObject({ code: Code.Canceled });
    expect(() => sent()).toThrow("no request was sent");
  });

  it("by `return` closes the request", async () => {
    const { call, write, request: sent } = steeredCall();
    write(accepted, tokens);
    for await (const response of call) {
      expect(response).toEqual(accepted);
      break;
    }
    expect(sent()).toMatchObject({ signal: { aborted: true } });
  });

  it("by `finished` leaves the request alone: what follows is read, and no signal reaches it", async () => {
    const caller = new AbortController();
    const { call, write, writeBytes, close, request: sent } = steeredCall(caller.signal);
    write(accepted, finished);
    expect((await call.next()).value).toEqual(accepted);
    expect((await call.next()).value).toEqual(finished);
    caller.abort();
    expect(await call.next()).toEqual({ done: true, value: undefined });
    await call.return();
    writeBytes(encodeFrames([endOfStream]));
    close();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(sent()).toMatchObject({ signal: { aborted: false }, cancelled: false });
  });

  it("does not read a worker that never ends without bound", async () => {
    const { call, write, writeBytes, request: sent } = steeredCall();
    write(finished);
    expect((await call.next()).value).toEqual(finished);
    writeBytes(new Uint8Array(streamEndBytesMax));
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(sent().cancelled).toBe(false);
    writeBytes(new Uint8Array(1));
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(sent().cancelled).toBe(true);
  });
});

describe("openWorker()", () => {
  it("reads answers of Connect's own server, over a connection that stays for others", async () => {
    const asked: { sequenceId: string; authorization: string | null }[] = [];
    const service: Partial<ServiceImpl<typeof WorkerService>> = {
      async *generate({ sequenceId }, { requestHeader }) {
        asked.push({ sequenceId, authorization: requestHeader.get("authorization") });
        yield accepted;
        await new Promise((resolve) => setTimeout(resolve, 1));
        yield tokens;
        yield finished;
      },
    };
    const sockets = new Set<Socket>();
    const server = createServer(
      connectNodeAdapter({
        routes: (router) =>
          router.service(WorkerService, service as ServiceImpl<typeof WorkerService>),
      }),
    ).on("connection", (socket: Socket) => sockets.add(socket));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const { port } = server.address() as AddressInfo;
      const client = openWorker(
        { fetch: (url, init) => fetch(url, init) },
        `http://127.0.0.1:${port}/`,
        "secret",
      );
      const turns = [0, 1, 2, 3, 4, 5];
      for (const turn of turns) {
        const caller = new AbortController();
        const { signal } = caller;
        const stream = client.generate({ sequenceId: `q${turn}` }, { signal });
        const iterator = stream[Symbol.asyncIterator]();
        for (const expected of [accepted, tokens, finished]) {
          expect((await iterator.next()).value).toEqual(expected);
        }
        caller.abort();
        // Time for the end of the stream, which is read aside.
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      expect(asked).toEqual(
        turns.map((turn) => ({ sequenceId: `q${turn}`, authorization: "Bearer secret" })),
      );
      // A call that was cut off closes its connection, so that each would have one of its own.
      expect(sockets.size).toBeLessThan(turns.length);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  it("leaves calls with other options to Connect's client", async () => {
    const headers: Headers[] = [];
    const client = openWorker({
      fetch(_, init) {
        headers.push(new Headers(init?.headers));
        return Promise.resolve(answerOf(encodeFrames([frame(accepted), endOfStream])));
      },
    });
    expect((await seen(client.generate(request, { timeoutMs: 700 }))).events).toEqual([accepted]);
    expect((await seen(client.generate(request, {}))).events).toEqual([accepted]);
    expect(headers.map((sent) => sent.get("connect-timeout-ms"))).toEqual(["700", null]);
  });
});
