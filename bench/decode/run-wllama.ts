/**
 * Variant `wllama`: llama.cpp as WASM in Chromium, one thread, no WebGPU. Page, module and model come
 * from a server of this process; times are taken in the page, which is the side that waits.
 */
import { createReadStream, existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startBrowser } from "../../test/support/browser.js";
import { runAsChild } from "../support/child.js";
import type { Measurement, Task, TaskTimes, Workload } from "./workload.js";

const modules = fileURLToPath(new URL("../peers/node_modules/@wllama/wllama/", import.meta.url));

// What the page below offers; it runs there as written here.
type Completion = TaskTimes & { ids: number[]; promptTokens: number };
type Page = {
  load(contextTokens: number): Promise<void>;
  complete(prompt: string, tokens: number, withIds: boolean): Promise<Completion>;
};

// `logprobs` brings the answer's ids, and makes every token slower: only the check asks for it.
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
    async complete(prompt, tokens, withIds) {
      const chunks = [];
      let first = 0;
      let last = 0;
      const start = performance.now();
      await wllama.createCompletion({
        prompt, max_tokens: tokens, temperature: 0, top_k: 1, cache_prompt: false, stream: true,
        ignore_eos: true, ...(withIds ? { logprobs: 1 } : {}),
        onData: (chunk) => {
          last = performance.now();
          first ||= last;
          chunks.push(chunk);
        },
      });
      return {
        prefillMs: first - start,
        decodeMs: last - first,
        ids: chunks.flatMap((chunk) =>
          chunk.choices.flatMap(({ logprobs }) => logprobs?.content?.map(({ id }) => id) ?? []),
        ),
        promptTokens: chunks.at(-1)?.usage?.prompt_tokens ?? 0,
      };
    },
  };
</script>`;

const contentTypes: Readonly<Record<string, string>> = {
  js: "text/javascript",
  wasm: "application/wasm",
};

function startServer(modelPath: string): Promise<{ url: string; close: () => void }> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://localhost").pathname;
    if (path === "/") {
      response.setHeader("content-type", "text/html").end(page);
    } else if (path === "/model.gguf") {
      createReadStream(modelPath).pipe(response);
    } else if (path.startsWith("/wllama/") && !path.includes("..")) {
      const file = join(modules, path.slice("/wllama/".length));
      const type = contentTypes[file.slice(file.lastIndexOf(".") + 1)] ?? "text/plain";
      if (existsSync(file)) response.setHeader("content-type", type).end(readFileSync(file));
      else response.writeHead(404).end();
    } else response.writeHead(404).end();
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      resolve({ url: `http://127.0.0.1:${port}/`, close: () => server.close() });
    });
  });
}

async function measure(workload: Workload): Promise<Measurement> {
  const server = await startServer(workload.modelPath);
  const browser = await startBrowser();
  try {
    const tab = await browser.newPage();
    tab.setDefaultTimeout(0);
    await tab.goto(server.url);
    await tab.waitForFunction(() => "bench" in globalThis);
    await tab.evaluate(
      (contextTokens) => (globalThis as unknown as { bench: Page }).bench.load(contextTokens),
      workload.contextTokens,
    );
    const complete = async (task: Task, withIds: boolean): Promise<Completion> => {
      const completion = await tab.evaluate(
        ([text, tokens, ids]) =>
          (globalThis as unknown as { bench: Page }).bench.complete(text, tokens, ids),
        [task.text, task.generate, withIds] as const,
      );
      if (completion.promptTokens !== task.ids.length) {
        throw new Error(
          `wllama counts ${completion.promptTokens} tokens in a prompt of ${task.ids.length}`,
        );
      }
      return completion;
    };
    const { ids: checked } = await complete(workload.check, true);
    const tasks: TaskTimes[] = [];
    for (const task of workload.tasks) {
      const { prefillMs, decodeMs } = await complete(task, false);
      tasks.push({ prefillMs, decodeMs });
    }
    const { version } = JSON.parse(readFileSync(join(modules, "package.json"), "utf8")) as {
      version: string;
    };
    return { checked, tasks, version: `wllama ${version}, Chromium ${browser.version()}` };
  } finally {
    await browser.close();
    server.close();
  }
}

await runAsChild(measure);
