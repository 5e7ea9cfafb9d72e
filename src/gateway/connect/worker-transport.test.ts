import { describe, expect, it } from "vitest";
import { Code, createClient } from "@connectrpc/connect";
import { EchoService } from "../../../test/support/echo-service.js";
import { workerTransport } from "./worker-transport.js";
import type { WorkerTransportOptions } from "./worker-transport.js";

function clientOf(
  answer: (url: string, init: RequestInit | undefined) => Promise<Response>,
  options: Partial<WorkerTransportOptions> = {},
): ReturnType<typeof createClient<typeof EchoService>> {
  return createClient(
    EchoService,
    workerTransport({ baseUrl: "http://peer.test", fetcher: { fetch: answer }, ...options }),
  );
}

describe("the Worker transport", () => {
  it("never follows a redirect and never asks for what workerd refuses", async () => {
    const seen: (RequestInit | undefined)[] = [];
    const client = clientOf((_, init) => {
      seen.push(init);
      return Promise.resolve(new Response(null, { status: 302, headers: { location: "/x" } }));
    });
    await expect(client.say({ value: "x" })).rejects.toMatchObject({
      code: Code.Unavailable,
      rawMessage:
        "http://peer.test/leanedge.test.v1.EchoService/Say answers with a redirect (HTTP 302)",
    });
    expect(seen[0]?.redirect).toBe("manual");
    expect(seen[0]).not.toHaveProperty("credentials");
    expect(seen[0]).not.toHaveProperty("mode");
  });

  it("maps the HTTP status of a peer that does not speak Connect", async () => {
    const client = clientOf(() => Promise.resolve(new Response("no such host", { status: 503 })));
    await expect(client.say({ value: "x" })).rejects.toMatchObject({ code: Code.Unavailable });
  });

  it("refuses a response above its bound", async () => {
    const client = clientOf(
      () =>
        Promise.resolve(
          new Response(new Uint8Array(2000), { headers: { "content-type": "application/proto" } }),
        ),
      { readBytesMax: 1000 },
    );
    await expect(client.say({ value: "x" })).rejects.toMatchObject({
      code: Code.ResourceExhausted,
    });
  });

  it("closes the response when the caller's signal aborts", async () => {
    let closed = false;
    const client = clientOf((_, init) => {
      init?.signal?.addEventListener("abort", () => {
        closed = true;
      });
      const body = new ReadableStream<Uint8Array>({
        pull(controller) {
          controller.enqueue(new Uint8Array([0, 0, 0, 0, 2, 0x08, 1]));
        },
      });
      const headers = { "content-type": "application/connect+proto" };
      return Promise.resolve(new Response(body, { headers }));
    });
    const controller = new AbortController();
    async function read(): Promise<void> {
      for await (const message of client.count({ value: 9 }, { signal: controller.signal })) {
        expect(message.value).toBe(1);
        controller.abort();
      }
    }
    await expect(read()).rejects.toMatchObject({ code: Code.Canceled });
    expect(closed).toBe(true);
  });

  it("passes deadlines on", async () => {
    const seen: Headers[] = [];
    const client = clientOf(
      (_, init) => {
        seen.push(new Headers(init?.headers));
        return Promise.resolve(new Response(null, { status: 503 }));
      },
      { defaultTimeoutMs: 4000 },
    );
    await expect(client.say({ value: "x" })).rejects.toMatchObject({ code: Code.Unavailable });
    await expect(client.say({ value: "x" }, { timeoutMs: 700 })).rejects.toMatchObject({
      code: Code.Unavailable,
    });
    expect(seen.map((headers) => headers.get("connect-timeout-ms"))).toEqual(["4000", "700"]);
  });
});
