/**
 * Variant `wllama`: llama.cpp as WASM in Chromium, one thread, no WebGPU. Page, module and model come
 * from a server of this process; times are taken in the page, which is the side that waits.
 */
import { createReadStream, existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { chromiumArguments, chromiumPath } from "./chromium.js";
import { runVariant } from "./workload.js";
import type { Measurement, Workload } from "./workload.js";

const modules = fileURLToPath(new URL("../peers/node_modules/@wllama/wllama/", import.meta.url));

// The part of @wllama/wllama that the page uses; it runs there as written here.
type Chunk = { choices: { text: string }[]; usage?: { prompt_tokens: number } | null };
type Page = {
  load(): Promise<void>;
  complete(prompt: string, tokens: number): Promise<PageResult>;
};
type PageResult = { prefillMs: number; decodeMs: number; text: string; chunks: Chunk[] };

const page = `<!doctype html><meta charset="utf-8"><title>wllama</title><link rel="icon" href="data:,">
<script type="module">
  import { Wllama, LoggerWithoutDebug } from "/wllama/esm/index.js";
  const wllama = new Wllama(
    { default: "/wllama/esm/wasm/wllama.wasm" },
    { suppressNativeLog: true, logger: LoggerWithoutDebug },
  );
  window.bench = {
    async load(contextTokens) {
      const model = await (await fetch("/model.gguf")).blob();
      await wllama.loadModel([model], {
        n_ctx: contextTokens, n_threads: 1, n_gpu_layers: 0, n_parallel: 1, warmup: false,
      });
    },
    async complete(prompt, tokens) {
      const chunks = [];
      let first = 0;
      let last = 0;
      const start = performance.now();
      await wllama.createCompletion({
        prompt, max_tokens: tokens, temperature: 0, top_k: 1, cache_prompt: false, stream: true,
        ignore_eos: true,
        onData: (chunk) => {
          last = performance.now();
          first ||= last;
          chunks.push(chunk);
        },
      });
      const text = chunks.map((chunk) => chunk.choices[0]?.text ?? "").join("");
      return { prefillMs: first - start, decodeMs: last - first, text, chunks: chunks.slice(-1) };
    },
  };
</script>`;

const contentTypes: Readonly<Record<string, string>> = {
  js: "text/javascript",
  wasm: "application/wasm",
};

async function measure(workload: Workload): Promise<Measurement> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://localhost").pathname;
    if (path === "/") {
      response.setHeader("content-type", "text/html").end(page);
    } else if (path === "/model.gguf") {
      createReadStream(workload.modelPath).pipe(response);
    } else if (path.startsWith("/wllama/") && !path.includes("..")) {
      const file = join(modules, path.slice("/wllama/".length));
      const type = contentTypes[file.slice(file.lastIndexOf(".") + 1)] ?? "text/plain";
      if (existsSync(file)) response.setHeader("content-type", type).end(readFileSync(file));
      else response.writeHead(404).end();
    } else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumArguments });
  const tab = await browser.newPage();
  await tab.goto(`http://127.0.0.1:${port}/`);
  await tab.waitForFunction(() => "bench" in globalThis);
  const { promptIds, generate, prompt } = workload;
  await tab.evaluate(
    (contextTokens) =>
      (globalThis as unknown as { bench: { load(n: number): Promise<void> } }).bench.load(
        contextTokens,
      ),
    promptIds.length + generate + 1,
  );
  const complete = (): Promise<PageResult> =>
    tab.evaluate(
      ([text, tokens]) => (globalThis as unknown as { bench: Page }).bench.complete(text, tokens),
      [prompt, generate] as const,
    );
  for (let i = 0; i < workload.warmups; i++) await complete();
  const result = await complete();
  const version = browser.version();
  await browser.close();
  server.close();
  const wllama = JSON.parse(readFileSync(join(modules, "package.json"), "utf8")) as {
    version: string;
  };
  return {
    prefillMs: result.prefillMs,
    decodeMs: result.decodeMs,
    text: result.text,
    promptTokens: result.chunks[0]?.usage?.prompt_tokens ?? 0,
    version: `wllama ${wllama.version}, Chromium ${version}`,
  };
}

await runVariant(measure);
