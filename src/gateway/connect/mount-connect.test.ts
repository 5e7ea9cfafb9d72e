import { Buffer } from "node:buffer";
import { gunzipSync, gzipSync } from "node:zlib";
import { describe, expect, it, vi } from "vitest";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { Client, Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { createEchoApp } from "./testing/echo-app.js";
import type { EchoApp } from "./testing/echo-app.js";
import { EchoService } from "../../../test/support/echo-service.js";
import { workerTransport } from "./worker-transport.js";

const baseUrl = "http://gateway.test";
const bindings = { GREETING: "hi " };
const path = `${baseUrl}/leanedge.test.v1.EchoService`;

function send(echo: EchoApp, url: string, init?: RequestInit): Promise<Response> {
  return Promise.resolve(echo.app.fetch(new Request(url, init), bindings));
}

function transports(echo: EchoApp): Record<string, Transport> {
  const fetcher = { fetch: (url: string, init?: RequestInit) => send(echo, url, init) };
  return {
    "Connect binary": workerTransport({ baseUrl, fetcher }),
    "Connect JSON": workerTransport({ baseUrl, fetcher, useJson: true }),
    "Connect binary, gzip": workerTransport({ baseUrl, fetcher, acceptGzip: true }),
    "gRPC-web": createGrpcWebTransport({
      baseUrl,
      fetch: (url, init) => send(echo, url instanceof Request ? url.url : url.toString(), init),
    }),
  };
}

async function errorOf(promise: Promise<unknown>): Promise<ConnectError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ConnectError) {
      return error;
    }
    throw error;
  }
  throw new Error("nothing was thrown");
}

async function numbers(client: Client<typeof EchoService>, n: number): Promise<number[]> {
  const out: number[] = [];
  for await (const message of client.count({ value: n })) {
    out.push(message.value);
  }
  return out;
}

describe.each(Object.keys(transports(createEchoApp())))("a mount called through %s", (name) => {
  function open(options?: Parameters<typeof createEchoApp>[0]): {
    echo: EchoApp;
    client: Client<typeof EchoService>;
  } {
    const echo = createEchoApp(options);
    const transport = transports(echo)[name];
    if (transport === undefined) throw new Error(`no transport ${name}`);
    return { echo, client: createClient(EchoService, transport) };
  }

  it("answers a unary call with bindings, header and trailer", async () => {
    const { echo, client } = open({ requestId: () => "request-7" });
    let header = new Headers();
    let trailer = new Headers();
    const answer = await client.say(
      { value: "Lily" },
      {
        onHeader: (h) => {
          header = h;
        },
        onTrailer: (t) => {
          trailer = t;
        },
      },
    );
    expect(answer.value).toBe("hi Lily");
    expect(header.get("x-echo-request")).toBe("request-7");
    expect(trailer.get("x-echo-tenant")).toBe("nobody");
    expect(echo.ends).toEqual(["success"]);
  });

  it("streams an answer", async () => {
    const { echo, client } = open();
    expect(await numbers(client, 4)).toEqual([1, 2, 3, 4]);
    expect(echo.ends).toEqual(["success"]);
  });

  it("carries a large answer whole", async () => {
    const { client } = open();
    expect((await client.say({ value: "big" })).value).toHaveLength(64 * 1024);
  });

  it("keeps code and message of a ConnectError and ends the call as an error", async () => {
    const { echo, client } = open();
    const error = await errorOf(client.say({ value: "fail" }));
    expect(error.code).toBe(Code.FailedPrecondition);
    expect(error.rawMessage).toBe("told to fail");
    expect(echo.ends).toEqual(["error"]);
    expect(echo.unexpected).toEqual([]);
  });

  it("hides an unexpected error from the client and reports it", async () => {
    const { echo, client } = open();
    const error = await errorOf(client.say({ value: "crash" }));
    expect(error.code).toBe(Code.Internal);
    expect(error.rawMessage).toBe("internal error");
    expect(echo.unexpected).toEqual([new TypeError("told to crash")]);
  });

  it("ends a call at its deadline even if the implementation is stuck", async () => {
    const { echo, client } = open();
    // The header alone, so that the client's own timer cannot be what ends the call.
    const headers: Record<string, string> =
      name === "gRPC-web" ? { "grpc-timeout": "30m" } : { "connect-timeout-ms": "30" };
    const error = await errorOf(client.say({ value: "stuck" }, { headers }));
    expect(error.code).toBe(Code.DeadlineExceeded);
    expect(echo.ends).toEqual(["deadline"]);
  });

  it("ends a stream at its deadline", async () => {
    const { echo, client } = open();
    const headers: Record<string, string> =
      name === "gRPC-web" ? { "grpc-timeout": "55m" } : { "connect-timeout-ms": "55" };
    const seen: number[] = [];
    const error = await errorOf(
      (async () => {
        for await (const message of client.count({ value: 1000 }, { headers })) {
          seen.push(message.value);
        }
      })(),
    );
    expect(error.code).toBe(Code.DeadlineExceeded);
    expect(seen.length).toBeGreaterThan(0);
    expect(echo.ends).toEqual(["deadline"]);
  });

  it("refuses a deadline above the maximum", async () => {
    const { client } = open({ limits: { deadlineMsMax: 1000 } });
    const error = await errorOf(client.say({ value: "x" }, { timeoutMs: 1001 }));
    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.rawMessage).toContain("1000");
  });

  it("gives a call without a deadline the default one", async () => {
    const { echo, client } = open({ limits: { deadlineMsDefault: 30 } });
    const error = await errorOf(client.say({ value: "stuck" }));
    expect(error.code).toBe(Code.DeadlineExceeded);
    expect(echo.ends).toEqual(["deadline"]);
  });

  it("refuses a request message above its bound", async () => {
    const { echo, client } = open({ limits: { messageReadBytesMax: 1000 } });
    const error = await errorOf(client.say({ value: "x".repeat(2000) }));
    expect(error.code).toBe(Code.ResourceExhausted);
    expect(error.rawMessage).toContain("1000");
    expect(echo.ends).toEqual([]);
  });

  it("refuses a response message above its bound", async () => {
    const { echo, client } = open({ limits: { messageWriteBytesMax: 1000 } });
    const error = await errorOf(client.say({ value: "big" }));
    expect(error.code).toBe(Code.ResourceExhausted);
    // Connect does not tell an adapter that a unary answer could not be written as gRPC-web.
    expect(echo.ends).toEqual([name === "gRPC-web" ? "success" : "error"]);
  });

  it("tells a client that leaves from every other end, and stops the implementation", async () => {
    const { echo, client } = open();
    const controller = new AbortController();
    const error = await errorOf(
      (async () => {
        for await (const message of client.count({ value: 1000 }, { signal: controller.signal })) {
          if (message.value === 3) {
            controller.abort();
          }
        }
      })(),
    );
    expect(error.code).toBe(Code.Canceled);
    await vi.waitFor(() => expect(echo.ends).toEqual(["client-gone"]), { timeout: 5000 });
    const counted = echo.counted();
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(echo.counted()).toBeLessThanOrEqual(counted + 1);
    expect(echo.unexpected).toEqual([]);
  });

  it("lets the gate name the tenant or refuse the call before its body is read", async () => {
    const { echo, client } = open({
      gate(context, call) {
        const key = context.requestHeader.get("authorization");
        if (key === null) {
          throw new ConnectError(`${call.requestId}: no key`, Code.Unauthenticated);
        }
        return key;
      },
      requestId: () => "r1",
    });
    const error = await errorOf(client.say({ value: "x" }));
    expect(error.code).toBe(Code.Unauthenticated);
    expect(error.rawMessage).toBe("r1: no key");
    expect(echo.ends).toEqual([]);
    let trailer = new Headers();
    await client.say(
      { value: "x" },
      {
        headers: { authorization: "tenant-a" },
        onTrailer: (t) => {
          trailer = t;
        },
      },
    );
    expect(trailer.get("x-echo-tenant")).toBe("tenant-a");
  });

  it("runs interceptors in order", async () => {
    const seen: string[] = [];
    const { client } = open({
      interceptors: ["outer", "inner"].map((label) => (next) => (request) => {
        seen.push(label);
        return next(request);
      }),
    });
    await client.say({ value: "x" });
    expect(seen).toEqual(["outer", "inner"]);
  });
});

describe("a mount", () => {
  it("streams requests through Connect", async () => {
    const echo = createEchoApp();
    const transport = transports(echo)["Connect binary"];
    if (transport === undefined) throw new Error("no transport");
    const client = createClient(EchoService, transport);
    async function* words(): AsyncGenerator<{ value: string }> {
      for (const value of ["one ", "two ", "three"]) {
        yield await Promise.resolve({ value });
      }
    }
    expect((await client.join(words())).value).toBe("one two three");
    const echoed: string[] = [];
    for await (const message of client.chat(words())) {
      echoed.push(message.value);
    }
    expect(echoed).toEqual(["one ", "two ", "three"]);
  });

  it("answers Connect GET for a method without side effects", async () => {
    const query = `connect=v1&encoding=json&message=${encodeURIComponent('"Lily"')}`;
    const response = await send(createEchoApp(), `${path}/Say?${query}`);
    expect(response.status).toBe(200);
    expect(await response.json()).toBe("hi Lily");
  });

  it("answers GET for other methods with 405 and what is allowed", async () => {
    const response = await send(createEchoApp(), `${path}/Count`);
    expect(response.status).toBe(405);
    expect(response.headers.get("allow")).toBe("POST");
    expect(await response.text()).toBe("leanedge.test.v1.EchoService/Count accepts only POST\n");
  });

  it("answers native gRPC with 415 and names the front's port and gRPC-web", async () => {
    for (const type of ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"]) {
      const response = await send(createEchoApp({ frontPort: 8788 }), `${path}/Say`, {
        method: "POST",
        headers: { "content-type": type },
        body: new Uint8Array(5),
      });
      expect(response.status).toBe(415);
      const text = await response.text();
      expect(text).toContain("the gRPC front on port 8788");
      expect(text).toContain("application/grpc-web+proto");
      expect(response.headers.get("grpc-status")).toBe("12");
    }
  });

  it("answers other content types with 415 and what it takes", async () => {
    const response = await send(createEchoApp(), `${path}/Say`, {
      method: "POST",
      headers: { "content-type": "text/xml" },
      body: "<x/>",
    });
    expect(response.status).toBe(415);
    expect(response.headers.get("accept-post")).toBe(
      "application/json, application/proto, application/grpc-web+proto, application/grpc-web-text+proto",
    );
    expect(await response.text()).toContain('got content type "text/xml"');
  });

  it("answers an unknown method in the client's protocol", async () => {
    const json = await send(createEchoApp(), `${path}/Shout`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    expect(json.status).toBe(404);
    expect(await json.json()).toEqual({
      code: "unimplemented",
      message: 'no method "/leanedge.test.v1.EchoService/Shout"',
    });
    const web = await send(createEchoApp(), `${path}/Shout`, {
      method: "POST",
      headers: { "content-type": "application/grpc-web+proto" },
      body: new Uint8Array(5),
    });
    expect(web.status).toBe(200);
    expect(web.headers.get("grpc-status")).toBe("12");
  });

  it("names invalid JSON, UTF-8 and protobuf as invalid arguments", async () => {
    const echo = createEchoApp();
    const bodies: [string, BodyInit][] = [
      ["application/json", "{"],
      ["application/json", "5"],
      ["application/json", new Uint8Array([0x22, 0xc3, 0x28, 0x22])],
      ["application/proto", new Uint8Array([0x0a, 0xff])],
      ["application/proto", new Uint8Array([0x0a, 0x02, 0xc3, 0x28])],
    ];
    for (const [type, body] of bodies) {
      const response = await send(echo, `${path}/Say`, {
        method: "POST",
        headers: { "content-type": type },
        body,
      });
      expect(response.status, type).toBe(400);
      expect(await response.json()).toMatchObject({ code: "invalid_argument" });
    }
    expect(echo.ends).toEqual([]);
    expect(echo.unexpected).toEqual([]);
  });

  it("names invalid protobuf in envelopes as an invalid argument", async () => {
    const echo = createEchoApp();
    const frame = new Uint8Array([0, 0, 0, 0, 2, 0x0a, 0xff]);
    for (const method of ["Say", "Count", "Join"]) {
      const web = await send(echo, `${path}/${method}`, {
        method: "POST",
        headers: { "content-type": "application/grpc-web+proto" },
        body: frame,
      });
      const trailer = await web.text();
      expect(trailer, method).toContain("grpc-status: 3\r\n");
      expect(trailer, method).toContain("grpc-message: parse%20binary%3A%20");
      expect(trailer.charCodeAt(4), method).toBe(trailer.length - 5);
    }
    for (const method of ["Count", "Join"]) {
      const connect = await send(echo, `${path}/${method}`, {
        method: "POST",
        headers: { "content-type": "application/connect+proto" },
        body: frame,
      });
      const end: unknown = JSON.parse((await connect.text()).slice(5));
      expect(end).toMatchObject({ error: { code: "invalid_argument" } });
    }
  });

  it("reads gzip requests and writes gzip only where it is wanted and worth it", async () => {
    const echo = createEchoApp();
    async function say(text: string, accept: string | undefined): Promise<Response> {
      return send(echo, `${path}/Say`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "content-encoding": "gzip",
          "accept-encoding": accept ?? "identity",
        },
        body: gzipSync(JSON.stringify(text)),
      });
    }
    const small = await say("Lily", "gzip");
    expect(small.headers.get("content-encoding")).toBeNull();
    expect(await small.json()).toBe("hi Lily");
    const large = await say("big", "br, gzip");
    expect(large.headers.get("content-encoding")).toBe("gzip");
    const text = gunzipSync(Buffer.from(await large.arrayBuffer())).toString();
    expect(JSON.parse(text)).toHaveLength(64 * 1024);
    const plain = await say("big", undefined);
    expect(plain.headers.get("content-encoding")).toBeNull();
    expect(await plain.json()).toHaveLength(64 * 1024);
  });

  it("refuses an unknown request compression and names its own", async () => {
    const response = await send(createEchoApp(), `${path}/Say`, {
      method: "POST",
      headers: { "content-type": "application/json", "content-encoding": "br" },
      body: "5",
    });
    expect(response.status).toBe(501);
    expect(await response.json()).toEqual({
      code: "unimplemented",
      message: 'unknown compression "br": supported encodings are gzip',
    });
  });

  it("reads what a client sends in vain, so that the client can read the answer", async () => {
    const echo = createEchoApp({ limits: { messageReadBytesMax: 1000, discardBytesMax: 100_000 } });
    async function sendChunks(chunks: number): Promise<{ taken: number; text: string }> {
      let taken = 0;
      const body = new ReadableStream<Uint8Array>(
        {
          pull(controller) {
            if (taken === chunks) {
              controller.close();
            } else {
              taken++;
              controller.enqueue(new Uint8Array(10_000).fill(0x20));
            }
          },
        },
        { highWaterMark: 0 },
      );
      const headers = { "content-type": "application/json" };
      const init = { method: "POST", headers, body, duplex: "half" };
      const response = await send(echo, `${path}/Say`, init);
      return { taken, text: await response.text() };
    }
    const whole = await sendChunks(8);
    expect(whole.taken).toBe(8);
    expect(whole.text).toContain("resource_exhausted");
    // And stops at its bound.
    const endless = await sendChunks(1000);
    expect(endless.taken).toBeLessThan(20);
    expect(endless.text).toContain("resource_exhausted");
  });

  it("gives an unwanted body that never ends a bounded time", async () => {
    const echo = createEchoApp({
      limits: { discardMsMax: 50 },
      gate: () => {
        throw new ConnectError("no key", Code.Unauthenticated);
      },
    });
    let cancelled = false;
    const body = new ReadableStream<Uint8Array>({
      pull: () => new Promise(() => undefined),
      cancel() {
        cancelled = true;
      },
    });
    const headers = { "content-type": "application/json" };
    const response = await send(echo, `${path}/Say`, {
      method: "POST",
      headers,
      body,
      duplex: "half",
    } as RequestInit);
    expect(response.status).toBe(401);
    expect(cancelled).toBe(true);
  });
});
