import { Buffer } from "node:buffer";
import { createServer } from "node:http";
import { connect, constants } from "node:http2";
import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders } from "node:http2";
import { connect as connectTcp, createServer as createTcpServer } from "node:net";
import type { AddressInfo, Socket } from "node:net";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { StringValueSchema, UInt32ValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { Client as GrpcJsClient, Metadata, credentials, status } from "@grpc/grpc-js";
import type { ServiceError, StatusObject } from "@grpc/grpc-js";
import { afterEach, describe, expect, it, vi } from "vitest";
import { EchoService } from "../../test/support/echo-service.js";
import { startGrpcFront } from "./grpc-front.js";
import type { GrpcFront, GrpcFrontOptions } from "./grpc-front.js";
import { failText, startEchoUpstream } from "./testing/echo-upstream.js";
import type { EchoUpstream } from "./testing/echo-upstream.js";

const name = "/leanedge.test.v1.EchoService/";
const closers: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) {
    await close();
  }
});

async function open(
  before?: Parameters<typeof startEchoUpstream>[0],
  options: Partial<GrpcFrontOptions> = {},
): Promise<{ front: GrpcFront; upstream: EchoUpstream; client: Client<typeof EchoService> }> {
  const upstream = await startEchoUpstream(before);
  closers.push(() => upstream.close());
  const front = await startGrpcFront({
    port: 0,
    targetUrl: upstream.url,
    ...options,
    limits: { drainMsMax: 100, ...options.limits },
  });
  closers.push(() => front.close());
  const client = createClient(EchoService, createGrpcTransport({ baseUrl: front.url }));
  return { front, upstream, client };
}

function grpcJs(front: GrpcFront): GrpcJsClient {
  const client = new GrpcJsClient(front.url.replace("http://", ""), credentials.createInsecure());
  closers.push(() => client.close());
  return client;
}

const text = {
  write: (value: string) =>
    Buffer.from(toBinary(StringValueSchema, create(StringValueSchema, { value }))),
  read: (bytes: Buffer) => fromBinary(StringValueSchema, bytes).value,
};
const number = {
  write: (value: number) =>
    Buffer.from(toBinary(UInt32ValueSchema, create(UInt32ValueSchema, { value }))),
  read: (bytes: Buffer) => fromBinary(UInt32ValueSchema, bytes).value,
};

async function errorOf(promise: Promise<unknown>): Promise<ConnectError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ConnectError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

async function* words(...values: string[]): AsyncGenerator<{ value: string }> {
  for (const value of values) {
    yield await Promise.resolve({ value });
  }
}

async function all(stream: AsyncIterable<{ value: unknown }>): Promise<unknown[]> {
  const out: unknown[] = [];
  for await (const message of stream) {
    out.push(message.value);
  }
  return out;
}

describe("the gRPC front with connect-node's gRPC transport", () => {
  it("carries all four kinds", async () => {
    const { client, upstream } = await open();
    expect((await client.say({ value: "Lily" })).value).toBe("Lily");
    expect(await all(client.count({ value: 4 }))).toEqual([1, 2, 3, 4]);
    expect((await client.join(words("a", "b", "c"))).value).toBe("abc");
    expect(await all(client.chat(words("a", "b")))).toEqual(["echo a", "echo b"]);
    expect(upstream.requests.map((r) => r.headers["content-type"])).toEqual(
      Array(4).fill("application/grpc-web+proto"),
    );
  });

  it("carries headers, trailers, and an error with its code, message and metadata", async () => {
    const { client, upstream } = await open();
    let header = new Headers();
    let trailer = new Headers();
    await client.say(
      { value: "x" },
      {
        headers: { "x-mine": "1", "x-mine-bin": "AQID" },
        onHeader: (h) => {
          header = h;
        },
        onTrailer: (t) => {
          trailer = t;
        },
      },
    );
    expect(upstream.requests[0]?.headers).toMatchObject({ "x-mine": "1", "x-mine-bin": "AQID" });
    expect(upstream.requests[0]?.headers.te).toBeUndefined();
    expect(header.get("x-first")).toBe("header");
    expect(trailer.get("x-last")).toBe("trailer");
    const error = await errorOf(client.say({ value: failText }));
    expect(error.code).toBe(Code.FailedPrecondition);
    expect(error.rawMessage).toBe("it failed: ünïcode");
    expect(error.metadata.get("x-meta-bin")).toBe("AQID");
  });

  it("carries a call in both directions at the same time", async () => {
    const { client } = await open();
    let next = (): void => undefined;
    async function* inTurn(): AsyncGenerator<{ value: string }> {
      for (const value of ["1", "2", "3"]) {
        yield { value };
        await new Promise<void>((resolve) => {
          next = resolve;
        });
      }
    }
    const seen: string[] = [];
    for await (const message of client.chat(inTurn())) {
      seen.push(message.value);
      next();
    }
    expect(seen).toEqual(["echo 1", "echo 2", "echo 3"]);
  });

  it("passes the deadline on and its end back", async () => {
    const { client, upstream } = await open();
    const error = await errorOf(
      client.say({ value: "wait" }, { headers: { "grpc-timeout": "40m" } }),
    );
    expect(error.code).toBe(Code.DeadlineExceeded);
    expect(upstream.requests[0]?.headers["grpc-timeout"]).toBe("40m");
  });

  it("carries a message of a megabyte", async () => {
    const { client } = await open();
    expect((await client.say({ value: "big" })).value).toHaveLength(1_000_000);
    const value = "y".repeat(1_000_000);
    expect((await client.say({ value })).value).toBe(value);
  });
});

describe("the gRPC front with grpc-js", () => {
  it("answers a unary call with metadata and trailers", async () => {
    const { front } = await open();
    const call = { metadata: new Metadata(), status: undefined as StatusObject | undefined };
    const answer = await new Promise<string | undefined>((resolve, reject) => {
      const unary = grpcJs(front).makeUnaryRequest(
        `${name}Say`,
        text.write,
        text.read,
        "Lily",
        (error: ServiceError | null, value?: string) => (error ? reject(error) : resolve(value)),
      );
      unary.on("metadata", (metadata) => {
        call.metadata = metadata;
      });
      unary.on("status", (s) => {
        call.status = s;
      });
    });
    expect(answer).toBe("Lily");
    expect(call.metadata.get("x-first")).toEqual(["header"]);
    await vi.waitFor(() => expect(call.status?.metadata.get("x-last")).toEqual(["trailer"]), {
      timeout: 5000,
    });
  });

  it("streams messages as they come", async () => {
    const { front } = await open();
    const stream = grpcJs(front).makeServerStreamRequest(
      `${name}Count`,
      number.write,
      number.read,
      20,
    );
    const arrivals: number[] = [];
    for await (const value of stream as AsyncIterable<number>) {
      expect(value).toBe(arrivals.length + 1);
      arrivals.push(performance.now());
    }
    expect(arrivals).toHaveLength(20);
    // 19 pauses of 5 ms: an answer that was collected first would arrive within a few.
    expect((arrivals[19] ?? 0) - (arrivals[0] ?? 0)).toBeGreaterThan(50);
  });

  it("stops the target at once when a call is cancelled", async () => {
    const { front, upstream } = await open();
    const stream = grpcJs(front).makeServerStreamRequest(
      `${name}Count`,
      number.write,
      number.read,
      100_000,
    );
    const ended = new Promise<ServiceError>((resolve) =>
      stream.on("error", (error) => resolve(error as ServiceError)),
    );
    stream.on("data", (value: number) => {
      if (value === 3) stream.cancel();
    });
    expect((await ended).code).toBe(status.CANCELLED);
    await vi.waitFor(() => expect(upstream.brokenOff()).toBe(1), { timeout: 5000 });
    const counted = upstream.counted();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(upstream.counted()).toBeLessThanOrEqual(counted + 1);
  });

  it("reports UNAVAILABLE when nothing listens behind the front", async () => {
    const { front, upstream } = await open();
    await upstream.close();
    const error = await new Promise<ServiceError | null>((resolve) => {
      grpcJs(front).makeUnaryRequest(`${name}Say`, text.write, text.read, "x", (e) => resolve(e));
    });
    expect(error?.code).toBe(status.UNAVAILABLE);
    expect(error?.details).toContain("the gateway cannot be reached");
  });

  it("refuses messages above the bounds, in both directions", async () => {
    const { front } = await open(undefined, {
      limits: { requestMessageBytesMax: 1000, responseMessageBytesMax: 500 },
    });
    function say(value: string): Promise<ServiceError | null> {
      return new Promise((resolve) => {
        grpcJs(front).makeUnaryRequest(`${name}Say`, text.write, text.read, value, (e) =>
          resolve(e),
        );
      });
    }
    const request = await say("y".repeat(2000));
    expect(request?.code).toBe(status.RESOURCE_EXHAUSTED);
    expect(request?.details).toBe("request message of 2003 bytes is larger than the bound of 1000");
    const response = await say("big");
    expect(response?.code).toBe(status.RESOURCE_EXHAUSTED);
    // A megabyte of one letter, as it is on the wire: compressed.
    expect(response?.details).toMatch(
      /^response message of \d{3,4} bytes is larger than the bound of 500$/,
    );
  });
});

/** A native gRPC call without a gRPC library, with its one message and the end of the request. */
function rawCall(
  front: { url: string },
  method: string,
  message: Buffer,
): { stream: ClientHttp2Stream } {
  const session = connect(front.url);
  closers.push(() => session.destroy());
  session.on("error", () => undefined);
  const stream = session.request({
    ":method": "POST",
    ":path": name + method,
    "content-type": "application/grpc",
    te: "trailers",
  });
  stream.on("error", () => undefined);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.byteLength, 1);
  stream.end(Buffer.concat([head, message]));
  return { stream };
}

/** A TCP connection to `port` that can stop to carry anything without being closed. */
async function startWire(port: number): Promise<{ port: number; freeze: () => void }> {
  const sockets: Socket[] = [];
  const server = createTcpServer((near) => {
    const far = connectTcp(port, "127.0.0.1");
    sockets.push(near, far);
    near.pipe(far);
    far.pipe(near);
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closers.push(() => {
    sockets.forEach((socket) => socket.destroy());
    server.close();
  });
  return {
    port: (server.address() as AddressInfo).port,
    freeze: () => sockets.forEach((socket) => socket.unpipe().pause()),
  };
}

describe("the gRPC front before a target that does not behave", () => {
  it.each([
    [401, status.UNAUTHENTICATED],
    [403, status.PERMISSION_DENIED],
    [404, status.UNIMPLEMENTED],
    [429, status.UNAVAILABLE],
    [503, status.UNAVAILABLE],
    [500, status.UNKNOWN],
    [400, status.INTERNAL],
  ])("turns HTTP %d into status %d", async (httpStatus, grpcStatus) => {
    const { client } = await open((_, response) => {
      response.writeHead(httpStatus, { "content-type": "text/html" }).end("<h1>no</h1>");
      return true;
    });
    const error = await errorOf(client.say({ value: "x" }));
    expect<number>(error.code).toBe(grpcStatus);
    expect(error.rawMessage).toBe(`the gateway answers with HTTP ${httpStatus}`);
  });

  it("carries a status that comes in the headers", async () => {
    const { client } = await open((_, response) => {
      response
        .writeHead(200, {
          "content-type": "application/grpc-web+proto",
          "grpc-status": "5",
          "grpc-message": "no%20such%20thing",
        })
        .end();
      return true;
    });
    const error = await errorOf(client.say({ value: "x" }));
    expect(error.code).toBe(Code.NotFound);
    expect(error.rawMessage).toBe("no such thing");
  });

  it.each([
    ["a page", "text/html", "", 'the gateway answers with content type "text/html"'],
    [
      "no trailers",
      "application/grpc-web+proto",
      "",
      "the gateway ended its answer without a status",
    ],
  ])("reports UNKNOWN after %s", async (_, type, body, message) => {
    const { client } = await open((_request, response) => {
      response.writeHead(200, { "content-type": type }).end(body);
      return true;
    });
    const error = await errorOf(client.say({ value: "x" }));
    expect(error.code).toBe(Code.Unknown);
    expect(error.rawMessage).toContain(message);
  });

  it("reports UNKNOWN after half a message", async () => {
    const { front } = await open((_request, response) => {
      response.writeHead(200, { "content-type": "application/grpc-web+proto" });
      response.end(Buffer.from([0, 0, 0, 0, 9, 10, 7]));
      return true;
    });
    const { stream } = rawCall(front, "Say", text.write("x"));
    const trailers = await new Promise<IncomingHttpHeaders>((resolve) => {
      stream.on("trailers", resolve);
      stream.resume();
    });
    expect(trailers["grpc-status"]).toBe("2");
    expect(decodeURIComponent(String(trailers["grpc-message"]))).toBe(
      "the gateway ended its answer inside a message",
    );
  });

  it("reports UNAVAILABLE when the target breaks off", async () => {
    const { client } = await open((_, response) => {
      response.writeHead(200, { "content-type": "application/grpc-web+proto" });
      response.write(Buffer.from([0, 0, 0, 0, 2, 8, 1]), () => response.destroy());
      return true;
    });
    const seen: number[] = [];
    const error = await errorOf(
      (async () => {
        for await (const message of client.count({ value: 3 })) {
          seen.push(message.value);
        }
      })(),
    );
    expect(seen).toEqual([1]);
    expect(error.code).toBe(Code.Unavailable);
    expect(error.rawMessage).toBe("the gateway broke off its answer");
  });

  it("holds a fast target back when the client does not read", async () => {
    let written = 0;
    let stopped = false;
    const chunk = Buffer.concat([Buffer.from([0, 0, 1, 0, 0]), Buffer.alloc(65_536)]);
    const { front } = await open((request, response) => {
      if (request.url !== `${name}Count`) return false;
      response.writeHead(200, { "content-type": "application/grpc-web+proto" });
      function fill(): void {
        while (!stopped && written < 200_000_000) {
          written += chunk.byteLength;
          if (!response.write(chunk)) return;
        }
      }
      response.on("drain", fill);
      fill();
      return true;
    });
    const { stream } = rawCall(front, "Count", number.write(1));
    await new Promise((resolve) => stream.on("response", resolve));
    await new Promise((resolve) => setTimeout(resolve, 300));
    const held = written;
    await new Promise((resolve) => setTimeout(resolve, 200));
    stopped = true;
    expect(written).toBe(held);
    // Sockets, windows and the streams' own buffers, far from what the target would send.
    expect(held).toBeLessThan(20_000_000);
  });
});

function ask(
  session: ClientHttp2Session,
  headers: Record<string, string>,
  body?: string,
): Promise<{ headers: IncomingHttpHeaders; body: string }> {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers, { endStream: body === undefined });
    let head: IncomingHttpHeaders = {};
    const chunks: Buffer[] = [];
    stream.on("response", (h) => {
      head = h;
    });
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => resolve({ headers: head, body: Buffer.concat(chunks).toString() }));
    stream.on("error", reject);
    if (body !== undefined) stream.end(body);
  });
}

describe("the gRPC front and other HTTP/2 requests", () => {
  it("passes Connect through, unary and streamed", async () => {
    const { front, upstream } = await open();
    const transport = createConnectTransport({ baseUrl: front.url, httpVersion: "2" });
    const client = createClient(EchoService, transport);
    expect((await client.say({ value: "Lily" })).value).toBe("Lily");
    expect(await all(client.count({ value: 3 }))).toEqual([1, 2, 3]);
    expect(upstream.requests[0]?.headers["content-type"]).toBe("application/proto");
  });

  it("passes a GET through, with its query, and tells the target who asked", async () => {
    const { front, upstream } = await open((request, response) => {
      response
        .writeHead(203, { "content-type": "text/plain" })
        .end(`you asked ${request.url ?? ""}`);
      return true;
    });
    const session = connect(front.url);
    closers.push(() => session.destroy());
    const answer = await ask(session, { ":path": "/page?a=1", "x-forwarded-for": "6.6.6.6" });
    expect(answer.headers[":status"]).toBe(203);
    expect(answer.body).toBe("you asked /page?a=1");
    expect(upstream.requests[0]?.headers["x-forwarded-for"]).toBe("127.0.0.1");
    expect(upstream.requests[0]?.headers["x-forwarded-host"]).toBe(front.url.slice(7));
  });

  it("stops the target when such a client leaves", async () => {
    const { front, upstream } = await open();
    const transport = createConnectTransport({ baseUrl: front.url, httpVersion: "2" });
    const controller = new AbortController();
    const client = createClient(EchoService, transport);
    const error = await errorOf(
      (async () => {
        for await (const message of client.count(
          { value: 100_000 },
          { signal: controller.signal },
        )) {
          if (message.value === 3) controller.abort();
        }
      })(),
    );
    expect(error.code).toBe(Code.Canceled);
    await vi.waitFor(() => expect(upstream.brokenOff()).toBe(1), { timeout: 5000 });
  });

  it("refuses header blocks above the bound, in the client's own terms", async () => {
    const { front, client } = await open(undefined, { limits: { headerBytesMax: 2000 } });
    const error = await errorOf(
      client.say({ value: "x" }, { headers: { "x-a": "y".repeat(3000) } }),
    );
    expect(error.code).toBe(Code.ResourceExhausted);
    expect(error.rawMessage).toMatch(/^headers of \d+ bytes are larger than the bound of 2000$/);
    const session = connect(front.url);
    closers.push(() => session.destroy());
    const answer = await ask(session, { ":path": "/", "x-a": "y".repeat(3000) });
    expect(answer.headers[":status"]).toBe(431);
  });

  it("answers 502 when nothing listens behind it", async () => {
    const { front, upstream } = await open();
    await upstream.close();
    const session = connect(front.url);
    closers.push(() => session.destroy());
    const answer = await ask(session, { ":path": "/" });
    expect(answer.headers[":status"]).toBe(502);
    expect(answer.body).toContain("the gateway cannot be reached");
  });
});

describe("the life of a gRPC front", () => {
  it("advertises how many calls a connection may carry", async () => {
    const { front } = await open(undefined, { limits: { streamsPerConnectionMax: 7 } });
    const session = connect(front.url);
    closers.push(() => session.destroy());
    await new Promise((resolve) => session.on("remoteSettings", resolve));
    expect(session.remoteSettings.maxConcurrentStreams).toBe(7);
  });

  it("lets running calls finish when it closes, and takes no new ones", async () => {
    const { front, client } = await open(undefined, { limits: { drainMsMax: 5000 } });
    const seen: number[] = [];
    let closed: Promise<void> | undefined;
    for await (const message of client.count({ value: 20 })) {
      seen.push(message.value);
      if (message.value === 2) closed = front.close();
    }
    expect(seen).toHaveLength(20);
    await closed;
    const error = await errorOf(client.say({ value: "x" }));
    expect(error.code).toBe(Code.Unavailable);
  });

  it("cancels calls that outlast the drain", async () => {
    const { front, client, upstream } = await open(undefined, { limits: { drainMsMax: 50 } });
    const running = errorOf(all(client.count({ value: 100_000 })));
    await vi.waitFor(() => expect(upstream.counted()).toBeGreaterThan(2), { timeout: 5000 });
    const start = performance.now();
    await front.close();
    // The call by itself would take minutes.
    expect(performance.now() - start).toBeLessThan(15_000);
    await running;
    await vi.waitFor(() => expect(upstream.brokenOff()).toBe(1), { timeout: 5000 });
  });

  it("drops a client that does not answer pings, and its calls with it", async () => {
    const { front, upstream } = await open(undefined, {
      limits: { pingIntervalMs: 50, pingAnswerMsMax: 50 },
    });
    // A client that is gone without a word: its socket is open, and nobody reads it.
    const wire = await startWire(front.port);
    rawCall({ url: `http://127.0.0.1:${wire.port}` }, "Count", number.write(100_000));
    await vi.waitFor(() => expect(upstream.counted()).toBeGreaterThan(2), { timeout: 5000 });
    expect(upstream.brokenOff()).toBe(0);
    wire.freeze();
    await vi.waitFor(() => expect(upstream.brokenOff()).toBe(1), { timeout: 5000 });
  });

  it("keeps a client that answers pings", async () => {
    const { client } = await open(undefined, {
      limits: { pingIntervalMs: 10, pingAnswerMsMax: 500 },
    });
    expect(await all(client.count({ value: 30 }))).toHaveLength(30);
  });

  it("closes a connection that carries no call for long", async () => {
    const { front } = await open(undefined, { limits: { connectionIdleMsMax: 50 } });
    const session = connect(front.url);
    const code = await new Promise<number>((resolve) => session.on("goaway", resolve));
    expect(code).toBe(constants.NGHTTP2_NO_ERROR);
  });

  it("closes connections beyond its bound", async () => {
    const { front, client } = await open(undefined, { limits: { connectionsMax: 1 } });
    expect((await client.say({ value: "x" })).value).toBe("x");
    const second = connectTcp(front.port, "127.0.0.1");
    closers.push(() => second.destroy());
    second.on("error", () => undefined);
    await new Promise((resolve) => second.on("close", resolve));
    expect((await client.say({ value: "y" })).value).toBe("y");
  });

  it("leaves no connection behind, however calls end", async () => {
    function sockets(): number {
      return process.getActiveResourcesInfo().filter((kind) => kind === "TCPSocketWrap").length;
    }
    const before = sockets();
    const { front, upstream, client } = await open();
    for (let i = 0; i < 20; i++) {
      await client.say({ value: "x" });
      await errorOf(client.say({ value: failText }));
      await errorOf(client.say({ value: "wait" }, { signal: AbortSignal.timeout(5) }));
      await all(client.count({ value: 2 }));
    }
    await front.close();
    await upstream.close();
    await vi.waitFor(() => expect(sockets()).toBeLessThanOrEqual(before), { timeout: 5000 });
  });

  it("says so when its address is taken", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    closers.push(() => new Promise((resolve) => other.close(resolve)));
    const { port } = other.address() as AddressInfo;
    await expect(startGrpcFront({ port, targetUrl: "http://127.0.0.1:1" })).rejects.toMatchObject({
      code: "EADDRINUSE",
    });
  });

  it("refuses a target that is not HTTP", async () => {
    await expect(startGrpcFront({ port: 0, targetUrl: "ftp://x" })).rejects.toThrow(
      "target ftp://x/ is neither http nor https",
    );
  });
});
