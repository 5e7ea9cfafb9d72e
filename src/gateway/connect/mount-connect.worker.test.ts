import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import { Code, createClient } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import { Hono } from "hono";
import { createEchoApp } from "./testing/echo-app.js";
import type { EchoApp, EchoEnv } from "./testing/echo-app.js";
import { EchoService } from "../../../test/support/echo-service.js";
import { workerTransport } from "./worker-transport.js";

const bindings = { GREETING: "hi " };

function clientOf(
  echo: EchoApp,
  options: { useJson?: boolean; acceptGzip?: boolean } = {},
): Client<typeof EchoService> {
  const fetcher = {
    fetch: async (url: string, init?: RequestInit) =>
      echo.app.fetch(new Request(url, init), bindings, createExecutionContext()),
  };
  return createClient(
    EchoService,
    workerTransport({ baseUrl: "http://gateway.test", fetcher, ...options }),
  );
}

async function* words(): AsyncGenerator<{ value: string }> {
  for (const value of ["a", "b", "c"]) {
    yield await Promise.resolve({ value });
  }
}

describe("a mount inside workerd", () => {
  it("serves all four kinds to a transport inside workerd", async () => {
    const echo = createEchoApp();
    for (const useJson of [false, true]) {
      const client = clientOf(echo, { useJson });
      expect((await client.say({ value: "Lily" })).value).toBe("hi Lily");
      const numbers: number[] = [];
      for await (const message of client.count({ value: 3 })) {
        numbers.push(message.value);
      }
      expect(numbers).toEqual([1, 2, 3]);
      expect((await client.join(words())).value).toBe("abc");
      const echoed: string[] = [];
      for await (const message of client.chat(words())) {
        echoed.push(message.value);
      }
      expect(echoed).toEqual(["a", "b", "c"]);
    }
    expect(new Set(echo.ends)).toEqual(new Set(["success"]));
    expect(echo.unexpected).toEqual([]);
  });

  it("sends a body that it compressed itself as it is, behind middleware that sets headers too", async () => {
    const echo = createEchoApp();
    const outer = new Hono<EchoEnv>();
    outer.use(async (c, next) => {
      await next();
      c.header("x-after", "1");
    });
    outer.route("/", echo.app);
    const request = new Request("http://gateway.test/leanedge.test.v1.EchoService/Say", {
      method: "POST",
      headers: { "content-type": "application/json", "accept-encoding": "gzip" },
      body: '"big"',
    });
    const response = await outer.fetch(request, bindings, createExecutionContext());
    expect(response.headers.get("content-encoding")).toBe("gzip");
    expect(response.headers.get("x-after")).toBe("1");
    const body = response.body as ReadableStream<Uint8Array>;
    const text = await new Response(
      body.pipeThrough(
        new DecompressionStream("gzip") as ReadableWritablePair<Uint8Array, Uint8Array>,
      ),
    ).json();
    expect(text).toHaveLength(64 * 1024);
    const client = clientOf(echo, { acceptGzip: true });
    expect((await client.say({ value: "big" })).value).toHaveLength(64 * 1024);
  });

  it("ends calls at the deadline and tells how each call ended", async () => {
    const echo = createEchoApp();
    const client = clientOf(echo);
    const headers = { "connect-timeout-ms": "40" };
    await expect(client.say({ value: "stuck" }, { headers })).rejects.toMatchObject({
      code: Code.DeadlineExceeded,
    });
    await expect(client.say({ value: "fail" })).rejects.toMatchObject({
      code: Code.FailedPrecondition,
    });
    await client.say({ value: "x" });
    expect(echo.ends).toEqual(["deadline", "error", "success"]);
  });

  it("notices that the reader of a stream left, and stops the implementation", async () => {
    const echo = createEchoApp();
    const context = createExecutionContext();
    const request = new Request("http://gateway.test/leanedge.test.v1.EchoService/Count", {
      method: "POST",
      headers: { "content-type": "application/connect+json" },
      body: new Uint8Array([0, 0, 0, 0, 4, ...new TextEncoder().encode("1000")]),
    });
    const response = await echo.app.fetch(request, bindings, context);
    const body = response.body as ReadableStream<Uint8Array>;
    const reader = body.getReader();
    await reader.read();
    await reader.cancel();
    await vi.waitFor(() => expect(echo.ends).toEqual(["client-gone"]), { timeout: 5000 });
    const counted = echo.counted();
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(echo.counted()).toBeLessThanOrEqual(counted + 1);
    await waitOnExecutionContext(context);
    expect(echo.unexpected).toEqual([]);
  });
});
