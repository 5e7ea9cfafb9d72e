/** What is served without Connect's handler against what Connect's handler says: a deadline leads a call to the latter. */
import { once } from "node:events";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { connect, type ClientHttp2Session, type ClientHttp2Stream } from "node:http2";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  GenerateRequestSchema,
  WorkerService,
  type GenerateRequest,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import { startHttpServer, type HttpServer } from "./http-server.js";
import { requestBytesMax } from "./limits.js";

const token = "a token of the tests";
const path = `/${WorkerService.typeName}/${WorkerService.method.generate.name}`;
/** Leads a call to Connect's handler. */
const overConnect = { "connect-timeout-ms": "60000" };
/** Pieces of the long answer; more than sockets hold. */
const longPieces = 2_000;
const longPieceChars = 8_192;

let server: HttpServer;
let context: HandlerContext | undefined;
let sent = 0;

async function* generate(request: GenerateRequest, called: HandlerContext) {
  context = called;
  sent = 0;
  switch (request.sequenceId) {
    case "refused":
      throw new ConnectError("there is no room", Code.ResourceExhausted, { "x-why": "pages" });
    case "broken":
      yield { event: { case: "tokens" as const, value: { ids: [1], text: "a" } } };
      throw new Error("a secret of the process");
    case "endless":
      for (;;) {
        if (called.signal.aborted) return;
        yield { event: { case: "tokens" as const, value: { ids: [sent++] } } };
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    case "long":
      for (; sent < longPieces; sent++) {
        const text = "x".repeat(longPieceChars);
        yield { event: { case: "tokens" as const, value: { ids: [sent], text } } };
      }
      return;
    default:
      for (const text of ["one", " two", " three"]) {
        yield { event: { case: "tokens" as const, value: { ids: [text.length], text } } };
      }
  }
}

beforeAll(async () => {
  server = await startHttpServer(
    { host: "127.0.0.1", port: 0, loopback: true },
    {
      handlers: { generate } as unknown as ServiceImpl<typeof WorkerService>,
      token,
      pages: new Map(),
      log: () => undefined,
    },
  );
});

afterAll(() => server.close());

function envelope(message: Uint8Array, flags = 0, length = message.byteLength): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, message]);
}

function called(sequenceId: string): Buffer {
  return envelope(toBinary(GenerateRequestSchema, create(GenerateRequestSchema, { sequenceId })));
}

/** An answer as it arrives. */
interface Arriving {
  readonly status: number | undefined;
  readonly type: string | undefined;
  readonly stream: IncomingMessage | ClientHttp2Stream;
  /** The client leaves. */
  readonly leave: () => void;
}

type Post = (body: Buffer, headers?: Record<string, string>) => Promise<Arriving>;

const common = {
  authorization: `Bearer ${token}`,
  "content-type": "application/connect+proto",
  "connect-protocol-version": "1",
};

const overHttp1: Post = async (body, headers = {}) => {
  const request = httpRequest(`${server.url}${path}`, {
    method: "POST",
    headers: { ...common, ...headers },
  });
  request.end(body);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  const { statusCode: status, headers: head } = response;
  return { status, type: head["content-type"], stream: response, leave: () => response.destroy() };
};

let session: ClientHttp2Session | undefined;

const overHttp2: Post = async (body, headers = {}) => {
  session ??= connect(server.url);
  const stream = session.request({ ":method": "POST", ":path": path, ...common, ...headers });
  stream.end(body);
  const [head] = (await once(stream, "response")) as [Record<string, string | number>];
  const type = String(head["content-type"]);
  return { status: Number(head[":status"]), type, stream, leave: () => stream.close(8) };
};

afterAll(() => session?.destroy());

async function said(post: Post, body: Buffer, headers: Record<string, string> = {}) {
  const { status, type, stream } = await post(body, headers);
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return { status, type, body: Buffer.concat(chunks).toString("latin1") };
}

describe.each([
  ["HTTP/1.1", overHttp1],
  ["HTTP/2", overHttp2],
])("Generate over Connect and %s", (_version, post) => {
  it.each([
    ["an answer", called("plain"), {}],
    ["an error with metadata", called("refused"), {}],
    ["an error that is nobody's business, in mid-answer", called("broken"), {}],
    ["a wrong token", called("plain"), { authorization: "Bearer another token" }],
    ["no message", Buffer.alloc(0), {}],
    ["half an envelope", called("plain").subarray(0, 4), {}],
    ["half a message", called("plain").subarray(0, 8), {}],
    ["two messages", Buffer.concat([called("plain"), called("plain")]), {}],
    ["a compressed message", envelope(Buffer.from("abc"), 1), {}],
    ["what is no message", envelope(Buffer.from([0xff, 0xff])), {}],
    [
      "a message that claims to be too large",
      envelope(Buffer.alloc(9), 0, requestBytesMax + 1),
      {},
    ],
  ])("says what Connect's handler says of %s", async (_, body, headers: Record<string, string>) => {
    const direct = await said(post, body, headers);
    expect(direct).toEqual(await said(post, body, { ...headers, ...overConnect }));
    expect(direct.status).toBe(200);
    expect(direct.body).not.toContain("secret");
  });

  it("answers a request that it does not read, and keeps the connection", async () => {
    const large = envelope(Buffer.alloc(64 << 10), 0, requestBytesMax + 1);
    expect((await said(post, large)).body).toContain("resource_exhausted");
    expect((await said(post, called("plain"))).body).toContain(" three");
  });

  it("ends the call's signal with the call", async () => {
    await said(post, called("plain"));
    expect(context?.signal.aborted).toBe(true);
  });

  it("tells the call of a client that leaves", async () => {
    const { stream, leave } = await post(called("endless"));
    await once(stream, "data");
    expect(context?.signal.aborted).toBe(false);
    leave();
    await expect.poll(() => context?.signal.aborted).toBe(true);
    const before = sent;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(sent - before).toBeLessThanOrEqual(1);
  });

  it("waits for a reader that takes nothing", async () => {
    const { stream } = await post(called("long"));
    await expect.poll(() => sent).toBeGreaterThan(0);
    let before = -1;
    await expect
      .poll(
        () => {
          const still = sent === before;
          before = sent;
          return still;
        },
        { interval: 200, timeout: 10_000 },
      )
      .toBe(true);
    expect(sent).toBeLessThan(longPieces);
    let bytes = 0;
    for await (const chunk of stream) bytes += (chunk as Buffer).byteLength;
    expect(bytes).toBeGreaterThan(longPieces * longPieceChars);
  });
});
