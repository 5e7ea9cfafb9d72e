/** Helper threads in a browser: on the page itself, and in a worker of the page. */
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startBrowser } from "../support/browser.js";
import { needsChromium } from "../support/requirement.js";

const root = new URL("../../", import.meta.url);

/** What the page and its worker run: products of 64 rows on some threads. */
const script = `
  import { WasmInstance } from "./instance.js";
  export async function multiply(threads) {
    const response = await fetch("/wasm/prebuilt/leanedge-simd128-threads.wasm");
    const module = await WebAssembly.compileStreaming(response);
    const instance = await WasmInstance.create(module, 8 * 1024 * 1024, threads);
    const rows = 64;
    const [data, x, y] = [rows * 16, 256, rows * 4].map((n) => instance.run((k) => k.lek_alloc(n)));
    new Float32Array(instance.buffer, data, rows * 4).fill(0.5);
    new Float32Array(instance.buffer, x, 4).set([1, 2, 3, 4]);
    for (let i = 0; i < 200; i++) instance.run((k) => k.lek_matmul(0, rows, 4, data, x, x, 1, y));
    const sums = [...new Set(new Float32Array(instance.buffer, y, rows))];
    instance.close();
    return sums;
  }
`;

const workerScript = `
  importScripts("/multiply.js");
  onmessage = async ({ data }) => postMessage(await app.multiply(data).catch(String));
`;

async function bundled(): Promise<string> {
  const { outputFiles } = await build({
    stdin: {
      contents: script,
      loader: "ts",
      resolveDir: fileURLToPath(new URL("src/engine/wasm", root)),
      sourcefile: "page.ts",
    },
    bundle: true,
    // A script: what a package imports of Node's where it runs in Node is then never looked up.
    format: "iife",
    globalName: "app",
    platform: "node",
    target: "es2022",
    write: false,
  });
  return outputFiles[0]?.text ?? "";
}

async function answer(path: string): Promise<{ type: string; body: string | Uint8Array }> {
  const type = "text/javascript";
  switch (path) {
    case "/":
      return { type: "text/html", body: `<!doctype html><script src="/multiply.js"></script>` };
    case "/multiply.js":
      return { type, body: await bundled() };
    case "/worker.js":
      return { type, body: workerScript };
    default:
      return { type: "application/wasm", body: await readFile(new URL(`.${path}`, root)) };
  }
}

async function serve(isolated: boolean): Promise<Server> {
  const server = createServer((request, response) => {
    void answer(request.url ?? "/").then(
      ({ type, body }) => {
        response.setHeader("content-type", type);
        if (isolated) {
          response.setHeader("cross-origin-opener-policy", "same-origin");
          response.setHeader("cross-origin-embedder-policy", "require-corp");
        }
        response.end(body);
      },
      (error: unknown) => response.writeHead(404).end(String(error)),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

describe.skipIf(needsChromium.missing)(`threads in a browser${needsChromium.note}`, () => {
  let browser: Browser;
  const servers: Server[] = [];
  beforeAll(async () => {
    browser = await startBrowser();
  }, 60_000);
  afterAll(async () => {
    await browser.close();
    for (const server of servers) server.close();
  });

  /** Runs an expression on a page of a fresh server. */
  async function evaluate(isolated: boolean, expression: string): Promise<unknown> {
    const server = await serve(isolated);
    servers.push(server);
    const page = await browser.newPage();
    try {
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
      return await page.evaluate(expression);
    } finally {
      await page.close();
    }
  }

  const onPage = `app.multiply(2).catch(String)`;

  it("compute on the page itself, which may not sleep", async () => {
    expect(await evaluate(true, onPage)).toEqual([5]);
  });

  it("compute in a worker of the page", async () => {
    const inWorker = `new Promise((resolve) => {
      const worker = new Worker("/worker.js");
      worker.onmessage = ({ data }) => resolve(data);
      worker.postMessage(3);
    })`;
    expect(await evaluate(true, inWorker)).toEqual([5]);
  });

  it("are refused where the page is not cross-origin isolated", async () => {
    expect(await evaluate(false, onPage)).toBe(
      "EngineError: 2 threads, must be 1: this environment starts no threads that share memory",
    );
  });
});
