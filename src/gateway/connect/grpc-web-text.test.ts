import { Buffer } from "node:buffer";
import { describe, expect, it, vi } from "vitest";
import { createEchoApp, countPauseMs } from "./testing/echo-app.js";
import type { EchoApp } from "./testing/echo-app.js";
import { textDirections } from "./grpc-web-text.js";

const url = "http://gateway.test/leanedge.test.v1.EchoService/";
const textType = "application/grpc-web-text+proto";

/** Count with a value of 3, and Say "Lily", as gRPC-web frames. */
const countThree = Buffer.from([0, 0, 0, 0, 2, 0x08, 3]);
const sayLily = Buffer.from([0, 0, 0, 0, 6, 0x0a, 4, ...Buffer.from("Lily")]);

async function call(
  echo: EchoApp,
  method: string,
  body: BodyInit,
  headers: Record<string, string>,
): Promise<Response> {
  const request = new Request(url + method, { method: "POST", headers, body });
  return echo.app.fetch(request, { GREETING: "hi " });
}

/** Splits base64 with padding inside into its parts and decodes each. */
function decodeParts(text: string): Buffer {
  const groups = text.match(/.{4}/g) ?? [];
  return Buffer.concat(groups.map((group) => Buffer.from(group, "base64")));
}

describe("gRPC-web text", () => {
  it("is told from the binary form by content type and accept", () => {
    const binary = "application/grpc-web+proto";
    const cases: [string, string | undefined, boolean, boolean][] = [
      [textType, undefined, true, true],
      [textType, textType, true, true],
      [textType, "*/*", true, true],
      [textType, binary, true, false],
      [binary, textType, false, true],
      [binary, undefined, false, false],
      ["application/grpc-web-text", undefined, true, true],
      ["application/json", textType, false, false],
    ];
    for (const [type, accept, request, response] of cases) {
      const headers = new Headers({ "content-type": type });
      if (accept !== undefined) headers.set("accept", accept);
      expect(textDirections(headers), `${type} ${accept ?? "-"}`).toEqual({ request, response });
    }
  });

  it("answers a text request in text, trailers included", async () => {
    const response = await call(createEchoApp(), "Say", sayLily.toString("base64"), {
      "content-type": textType,
    });
    expect(response.headers.get("content-type")).toBe(textType);
    const bytes = decodeParts(await response.text());
    expect(bytes.subarray(0, 14).toString("latin1")).toBe("\0\0\0\0\x09\x0a\x07hi Lily");
    expect(bytes[14]).toBe(0x80);
    expect(bytes.subarray(19).toString()).toContain("grpc-status: 0\r\n");
  });

  it("sends each message as soon as it exists, as base64 that stands alone", async () => {
    const response = await call(createEchoApp(), "Count", countThree.toString("base64"), {
      "content-type": textType,
    });
    const body = response.body as ReadableStream<Uint8Array>;
    const reader = body.getReader();
    const arrivals: { text: string; atMs: number }[] = [];
    for (;;) {
      const result = await reader.read();
      if (result.done) break;
      arrivals.push({ text: Buffer.from(result.value).toString(), atMs: performance.now() });
    }
    const messages = arrivals.slice(0, 3).map(({ text }) => [...Buffer.from(text, "base64")]);
    expect(messages).toEqual([1, 2, 3].map((n) => [0, 0, 0, 0, 2, 8, n]));
    expect(Buffer.from(arrivals[3]?.text ?? "", "base64")[0]).toBe(0x80);
    const span = (arrivals[2]?.atMs ?? 0) - (arrivals[0]?.atMs ?? 0);
    expect(span).toBeGreaterThan(countPauseMs);
  });

  it("reads a text request that arrives one character at a time", async () => {
    const text = sayLily.toString("base64");
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sent === text.length) {
          controller.close();
        } else {
          controller.enqueue(Buffer.from(text.charAt(sent++)));
        }
      },
    });
    const init = { method: "POST", headers: { "content-type": textType }, body, duplex: "half" };
    const response = await createEchoApp().app.fetch(new Request(`${url}Say`, init), {
      GREETING: "hi ",
    });
    expect(decodeParts(await response.text()).toString("latin1")).toContain("hi Lily");
  });

  it("answers a binary request in text where that is accepted, and the reverse", async () => {
    const text = await call(createEchoApp(), "Say", new Uint8Array(sayLily), {
      "content-type": "application/grpc-web+proto",
      accept: "application/grpc-web-text",
    });
    expect(text.headers.get("content-type")).toBe(textType);
    expect(decodeParts(await text.text()).toString("latin1")).toContain("hi Lily");
    const binary = await call(createEchoApp(), "Say", sayLily.toString("base64"), {
      "content-type": textType,
      accept: "application/grpc-web+proto",
    });
    expect(binary.headers.get("content-type")).toBe("application/grpc-web+proto");
    expect(await binary.text()).toContain("hi Lily");
  });

  it("names invalid base64 in the trailers", async () => {
    const echo = createEchoApp();
    const response = await call(echo, "Say", "AAAA*AAA", { "content-type": textType });
    const trailer = decodeParts(await response.text()).toString("latin1");
    expect(trailer).toContain("grpc-status: 3\r\n");
    expect(decodeURIComponent(trailer)).toContain("invalid base64 byte 0x2a at position 4");
    expect(echo.unexpected).toEqual([]);
  });

  it("stops the implementation when the reader of a text stream leaves", async () => {
    const echo = createEchoApp();
    const many = Buffer.from([0, 0, 0, 0, 3, 0x08, 0xe8, 0x07]);
    const response = await call(echo, "Count", many.toString("base64"), {
      "content-type": textType,
    });
    const body = response.body as ReadableStream<Uint8Array>;
    const reader = body.getReader();
    await reader.read();
    await reader.cancel();
    await vi.waitFor(() => expect(echo.ends).toEqual(["client-gone"]), { timeout: 5000 });
  });
});
