import { Buffer } from "node:buffer";
import { connect as connectTcp } from "node:net";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { startGrpcFront } from "../../src/front/index.js";
import type { GrpcFront } from "../../src/front/index.js";
import { EchoService } from "../support/echo-service.js";
import { startWorkerd, type ServedWorker } from "../support/workerd.js";

/** A stream that would run for 100 s if nobody stopped it. */
const longCount = 10_000;
const countPath = "/leanedge.test.v1.EchoService/Count";
/** `longCount` as a gRPC-web frame. */
const countFrame = Buffer.from([0, 0, 0, 0, 3, 0x08, 0x90, 0x4e]);

let worker: ServedWorker;
let front: GrpcFront;

beforeAll(async () => {
  worker = await startWorkerd("test/adapter/wrangler.toml");
  front = await startGrpcFront({ port: 0, targetUrl: worker.url, limits: { drainMsMax: 100 } });
});

afterAll(async () => {
  await front.close();
  await worker.stop();
});

interface Seen {
  ends: string[];
  counted: number;
  unexpected: string[];
}

async function seen(): Promise<Seen> {
  return (await (await fetch(`${worker.url}/seen`)).json()) as Seen;
}

/** Runs `leave` and expects one more call that ended because its client left, with nothing computed after that. */
async function expectStopped(leave: () => Promise<void>): Promise<void> {
  const before = await seen();
  await leave();
  await vi.waitFor(
    async () => {
      expect((await seen()).ends.slice(before.ends.length)).toEqual(["client-gone"]);
    },
    { timeout: 5000, interval: 50 },
  );
  const { counted } = await seen();
  await new Promise((resolve) => setTimeout(resolve, 200));
  const after = await seen();
  expect(after.counted).toBeLessThanOrEqual(counted + 1);
  expect(after.unexpected).toEqual([]);
}

function transportOf(name: string): Transport {
  switch (name) {
    case "Connect":
      return createConnectTransport({ baseUrl: worker.url, httpVersion: "1.1" });
    case "gRPC-web":
      return createGrpcWebTransport({ baseUrl: worker.url, httpVersion: "1.1" });
    case "Connect through the front":
      return createConnectTransport({ baseUrl: front.url, httpVersion: "2" });
    case "gRPC through the front":
      return createGrpcTransport({ baseUrl: front.url });
    default:
      throw new Error(`no transport ${name}`);
  }
}

describe.each(["Connect", "gRPC-web", "Connect through the front", "gRPC through the front"])(
  "a client of %s",
  (name) => {
    it("gets each message when it exists", async () => {
      const client = createClient(EchoService, transportOf(name));
      const arrivals: number[] = [];
      for await (const message of client.count({ value: 20 })) {
        expect(message.value).toBe(arrivals.push(performance.now()));
      }
      // 19 pauses of 10 ms.
      expect((arrivals[19] ?? 0) - (arrivals[0] ?? 0)).toBeGreaterThan(100);
    });

    it("stops the Worker when it leaves in the middle of a stream", async () => {
      const client = createClient(EchoService, transportOf(name));
      await expectStopped(async () => {
        const controller = new AbortController();
        const { signal } = controller;
        try {
          for await (const message of client.count({ value: longCount }, { signal })) {
            if (message.value === 3) controller.abort();
          }
        } catch (error) {
          expect(ConnectError.from(error).code).toBe(Code.Canceled);
        }
      });
    });

    it("gets DEADLINE_EXCEEDED from the Worker, which is no leaving", async () => {
      const client = createClient(EchoService, transportOf(name));
      const before = await seen();
      const grpc = name.startsWith("gRPC");
      const headers = new Headers([
        grpc ? ["grpc-timeout", "100m"] : ["connect-timeout-ms", "100"],
      ]);
      await expect(client.say({ value: "stuck" }, { headers })).rejects.toMatchObject({
        code: Code.DeadlineExceeded,
      });
      expect((await seen()).ends.slice(before.ends.length)).toEqual(["deadline"]);
    });
  },
);

describe("a client of gRPC-web text", () => {
  it("stops the Worker when it leaves", async () => {
    await expectStopped(async () => {
      const controller = new AbortController();
      const response = await fetch(worker.url + countPath, {
        method: "POST",
        headers: { "content-type": "application/grpc-web-text" },
        body: countFrame.toString("base64"),
        signal: controller.signal,
      });
      const reader = (response.body as ReadableStream<Uint8Array>).getReader();
      const first = Buffer.from((await reader.read()).value ?? []).toString();
      expect(Buffer.from(first.slice(0, 12), "base64")).toEqual(Buffer.from([0, 0, 0, 0, 2, 8, 1]));
      controller.abort();
    });
  });
});

describe("a client whose machine is gone", () => {
  it("stops the Worker when its connection breaks", async () => {
    await expectStopped(async () => {
      const socket = connectTcp(worker.port, "127.0.0.1");
      socket.write(
        `POST ${countPath} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/grpc-web+proto\r\n` +
          `content-length: ${countFrame.byteLength}\r\n\r\n`,
      );
      socket.write(countFrame);
      await new Promise((resolve) => socket.once("data", resolve));
      socket.resetAndDestroy();
    });
  });
});

describe("a client that leaves before its answer begins", () => {
  it.each([
    ["gRPC", () => createGrpcTransport({ baseUrl: front.url })],
    ["Connect", () => createConnectTransport({ baseUrl: front.url, httpVersion: "2" })],
  ])("stops the Worker through the front (%s)", async (_, transport) => {
    const client = createClient(EchoService, transport());
    await expectStopped(async () => {
      const signal = AbortSignal.timeout(300);
      await expect(client.say({ value: "wait" }, { signal })).rejects.toBeInstanceOf(ConnectError);
    });
  });

  it("stops the Worker when its connection breaks", async () => {
    await expectStopped(async () => {
      const socket = connectTcp(worker.port, "127.0.0.1");
      socket.write(
        "POST /leanedge.test.v1.EchoService/Say HTTP/1.1\r\nhost: 127.0.0.1\r\n" +
          'content-type: application/json\r\ncontent-length: 6\r\n\r\n"wait"',
      );
      await new Promise((resolve) => setTimeout(resolve, 300));
      socket.resetAndDestroy();
    });
  });
});
