import { createServer } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { readFile, writeFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { buildGguf, tinyModel } from "../engine/gguf/testing/build-gguf.js";
import type { PullError } from "./errors.js";
import { pauseAsked } from "./http-client.js";
import { modelPaths } from "./models-folder.js";
import { breakCountedMs, HubServer, sha256Of } from "./testing/hub-server.js";
import { TestPull, tinyModelBytes } from "./testing/test-pull.js";

let test: TestPull;
let url: string;
beforeEach(async () => {
  test = await TestPull.start();
  url = test.hub.storageUrl("model-Q8_0.gguf");
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await test.stop();
});

const sha256 = sha256Of(tinyModelBytes);

describe("a pull from an address", () => {
  it("fetches what has the checksum", async () => {
    const model = await test.pull(url, { sha256 });
    expect(new Uint8Array(await readFile(model.path))).toEqual(tinyModelBytes);
    expect(model).toMatchObject({ name: url, licence: undefined });
    expect(test.heard.notes.join("\n")).toMatch(/Licence: not named by the source/);
    expect((await test.pull(url, { sha256 })).wasThere).toBe(true);
  });

  it("fetches nothing without a checksum, or with half of one", async () => {
    expect((await test.pullFails(url)).code).toBe("no-checksum");
    expect((await test.pullFails(url, { sha256: "abc" })).message).toMatch(/64 hexadecimal digits/);
    expect(test.hub.storageSeen).toHaveLength(0);
  });

  it("refuses other bytes, and a body that ends too early without saying so", async () => {
    expect((await test.pullFails(url, { sha256: "0".repeat(64) })).code).toBe("checksum");
    test.hub.storageFaults.push({ kind: "short", afterBytes: 100 });
    expect((await test.pullFails(url, { sha256 })).code).toBe("checksum");
    expect(await test.fileNames()).toEqual([]);
  });

  it("notices a file that changed while it was fetched", async () => {
    const other = buildGguf(tinyModel("qwen3"));
    test.hub.storageFaults.push({ kind: "break", afterBytes: 5_000, readMs: breakCountedMs });
    test.hub.onStorage = () => test.hub.files.set("model-Q8_0.gguf", { bytes: other });
    expect((await test.pullFails(url, { sha256 })).code).toBe("checksum");
    expect(test.heard.notes.join("\n")).toMatch(/may have changed since the last pull/);
    expect(await test.fileNames()).toEqual([]);
  });

  it("notices it too where the server looks at no If-Range", async () => {
    const other = buildGguf(tinyModel("qwen3"));
    test.hub.storageFaults.push(
      { kind: "break", afterBytes: 5_000, readMs: breakCountedMs },
      { kind: "no-if-range" },
    );
    test.hub.onStorage = () => test.hub.files.set("model-Q8_0.gguf", { bytes: other });
    expect((await test.pull(url, { sha256: sha256Of(other) })).sha256).toBe(sha256Of(other));
    expect(test.hub.storageSeen.map(({ range }) => range)).toEqual([
      undefined,
      "bytes=5000-",
      undefined,
    ]);
  });

  it("takes a part that has all bytes for what it is, though no size was known", async () => {
    const { part } = modelPaths(test.folder, url);
    await writeFile(part, tinyModelBytes);
    await writeFile(`${part}.json`, JSON.stringify({ source: url, sha256 }));
    await test.pull(url, { sha256 });
    expect(test.hub.storageSeen.map(({ range }) => range)).toEqual([
      `bytes=${tinyModelBytes.length}-`,
    ]);
    expect(test.heard.steps.map(({ what }) => what)).toEqual(["checking what is there"]);
  });

  it("fetches all of it again when the storage has no such byte", async () => {
    const { part } = modelPaths(test.folder, url);
    await writeFile(part, new Uint8Array(tinyModelBytes.length + 1));
    await writeFile(`${part}.json`, JSON.stringify({ source: url, sha256 }));
    await test.pull(url, { sha256 });
    expect(test.hub.storageSeen).toHaveLength(2);
    expect(test.heard.notes.join("\n")).toMatch(/has no byte/);
  });

  it("refuses a password in the address", async () => {
    const error = await test.pullFails("https://me:secret@example.com/x.gguf", { sha256 });
    expect(error.message).toBe("a URL with a password in it is not fetched");
  });

  it("lets one pull of a file run at a time", async () => {
    let second: PullError | undefined;
    test.hub.onStorage = async () => {
      second = await test.pullFails(url, { sha256 });
    };
    await test.pull(url, { sha256 });
    expect(second?.code).toBe("locked");
    expect(second?.message).toContain(modelPaths(test.folder, url).lock);
  });

  it("says so when nobody answers", async () => {
    const gone = await HubServer.start();
    const address = gone.storageUrl("x.gguf");
    await gone.stop();
    const error = await test.pullFails(address, { sha256 });
    expect(error.code).toBe("unreachable");
    expect(error.message).toMatch(/ECONNREFUSED.*\(after 3 attempts\)$/);
  });

  it("goes through the proxy that the environment names", async () => {
    const tunnels: string[] = [];
    const proxy = createServer();
    proxy.on("connect", (request, socket) => {
      tunnels.push(request.url ?? "");
      const { hostname, port } = new URL(`http://${request.url ?? ""}`);
      const upstream = connect(Number(port), hostname, () => {
        socket.write("HTTP/1.1 200 OK\r\n\r\n");
        upstream.pipe(socket).pipe(upstream);
      });
    });
    await new Promise<void>((listening) => proxy.listen(0, "127.0.0.1", listening));
    const address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    try {
      vi.stubEnv("no_proxy", "").stubEnv("NO_PROXY", "").stubEnv("http_proxy", address);
      await test.pull(url, { sha256 });
      expect(tunnels).toEqual([new URL(url).host]);
      vi.stubEnv("no_proxy", "127.0.0.1");
      await test.pull();
      expect(tunnels).toHaveLength(1);
    } finally {
      proxy.closeAllConnections();
      proxy.close();
    }
  });
});

describe("the pause that a server asks for", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  it.each<[string, Record<string, string>, number | undefined]>([
    ["in seconds", { "retry-after": " 7 " }, 7_000],
    ["as a date", { "retry-after": "Thu, 01 Jan 2026 00:00:09 GMT" }, 9_000],
    ["as a date that is past", { "retry-after": "Wed, 31 Dec 2025 00:00:00 GMT" }, 0],
    ["as a rate limit", { ratelimit: '"resolvers";r=0;t=55' }, 55_000],
    ["in no words that are known", { "retry-after": "soon" }, undefined],
    ["not at all", {}, undefined],
  ])("is read %s", (_, headers, pauseMs) => {
    expect(pauseAsked({ header: (name) => headers[name] }, now)).toBe(pauseMs);
  });
});
