/**
 * How much of the CUDA engine's speed arrives at the clients of a worker process: 64 sessions over Connect, prompts of
 * about 1,024 tokens, answers of 256, against the engine alone in a loop over the same prompts, and the same through a gateway before
 * the worker. A model of an 8B Llama's shape with random weights is written first.
 *
 *   node worker-bench.mjs --addon leanedge.node --folder DIR [--shape 8b|tiny]
 *     [--type BF16|Q8_0|Q4_0] [--plan FILE] [--sessions N] [--prompt N] [--generate N] [--memory MiB] [--rounds N]
 *     [--seconds N] [--gateway FOLDER --workerd FILE]
 *
 * Engine and worker are processes of their own that run one after the other; with --role model only the model is written.
 * --gateway: the folder that bench/gateway/device/pack.sh has written; sessions ask the worker and the gateway in turn then.
 * Prints a line a round; writes serving.json and serving.md (serving-gateway with a gateway) into the folder that OUT names after each. LEANEDGE_COMMIT and LEANEDGE_KERNELS say what was measured.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { performance } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { serveGateway, type Server } from "../../bench/gateway/serve-gateway.js";
import { engineAlone } from "../../bench/worker/engine-alone.js";
import { gatewayWay } from "../../bench/worker/gateway-way.js";
import { allSessionsOf, workerWay, type Way } from "../../bench/worker/sessions.js";
import type { BareRun } from "../../bench/worker/workload.js";
import type { LoadedModel } from "../../src/worker/process/engine-host.js";
import { WorkerService } from "../../src/gen/leanedge/worker/v1/worker_pb.js";
import {
  listenAddress,
  openModel,
  PromptTexts,
  startWorkerProcess,
} from "../../src/worker/process/index.js";
import { writeShape } from "./shape-model.js";
import { writeResults, type Round } from "./worker-results.js";

const { values: options } = parseArgs({
  options: {
    addon: { type: "string", default: "" },
    folder: { type: "string", default: "" },
    shape: { type: "string", default: "8b" },
    type: { type: "string", default: "BF16" },
    plan: { type: "string", multiple: true, default: [] },
    sessions: { type: "string", default: "64" },
    prompt: { type: "string", default: "1024" },
    generate: { type: "string", default: "256" },
    memory: { type: "string", default: "76000" },
    rounds: { type: "string", default: "2" },
    seconds: { type: "string", default: "240" },
    gateway: { type: "string", default: "" },
    workerd: { type: "string", default: "" },
    role: { type: "string", default: "" },
  },
});
const modelId = "random-8b";
/** What the gateway takes from its clients. */
const key = "le-dev-benchmark";
const sessions = Number(options.sessions);
const generate = Number(options.generate);
const modelPath = join(
  options.folder,
  `random-${options.shape}-${options.type.toLowerCase()}.gguf`,
);
/** A worker that has not begun to serve by then, or an engine that has not answered, never will. */
const startMsMax = 120_000;

function load(): ReturnType<typeof openModel> {
  if (options.addon !== "") process.env["LEANEDGE_CUDA_ADDON"] = options.addon;
  return openModel({
    modelPath,
    planPaths: options.plan,
    engine: "cuda",
    cudaAddon: undefined,
    weights: "file",
    threads: 1,
    memoryBytesMax: Number(options.memory) * 1024 * 1024,
    sequencesMax: 2 * sessions,
    contextTokensMax: undefined,
  });
}

/** A text of about `tokens` tokens. */
function makeText({ codec }: LoadedModel, tokens: number): string {
  const count = (text: string): number =>
    codec.encodeFirst([{ role: "user", content: text }]).length;
  const word = (i: number): string => ["the", "cat", "saw", "a", "dog", "and", "ran"][i % 7] ?? "";
  let words = 16;
  const text = (): string => Array.from({ length: words }, (_, i) => word(i * i)).join(" ");
  while (count(text()) < tokens) words += Math.max(1, words >> 3);
  while (count(text()) > tokens) words -= 1;
  return text();
}

/** Role `bare`: the engine alone. Prints the prompt, then what it measured, a line of JSON each. */
async function runBare(): Promise<void> {
  const loaded = await (await load())();
  const { engine, codec } = loaded;
  const text = makeText(loaded, Number(options.prompt));
  console.log(JSON.stringify(text));
  const ids = codec.encodeFirst([{ role: "user", content: text }]);
  const plan = options.plan.length > 0 ? 1 : 0;
  for (let round = 0; round <= Number(options.rounds); round++) {
    const run = await engineAlone(engine, { sequences: sessions, ids, generate, plan });
    console.log(JSON.stringify({ tokens: ids.length, ...run } satisfies Bare));
  }
  engine.close();
}

/** Role `worker`: a worker process; prints where it listens. */
async function runWorker(): Promise<void> {
  const running = await startWorkerProcess({
    model: modelId,
    name: "bench",
    load: await load(),
    texts: new PromptTexts(modelPath),
    address: await listenAddress("127.0.0.1:0"),
    token: undefined,
    drainMs: 1_000,
    log: (line) => console.error(line),
  });
  console.log(JSON.stringify({ url: running.url }));
  process.once("SIGTERM", () => {
    void running.close().then(() => process.exit(0));
  });
}

/** What the engine alone shows, and how long each prompt is. */
type Bare = BareRun & { tokens: number };

/** Starts this program in another role. `lines` gives what it prints, as it comes. */
function child(role: string): { process: ChildProcess; line: () => Promise<string> } {
  const script = process.argv[1] ?? "";
  const given = process.argv.slice(2);
  const started = spawn(process.execPath, [...process.execArgv, script, ...given, "--role", role], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines: string[] = [];
  let rest = "";
  let changed: () => void = () => undefined;
  let ended = false;
  started.stdout.on("data", (chunk: Buffer) => {
    rest += chunk.toString("utf8");
    const whole = rest.split("\n");
    rest = whole.pop() ?? "";
    lines.push(...whole);
    changed();
  });
  started.once("exit", () => {
    ended = true;
    changed();
  });
  const line = async (): Promise<string> => {
    const deadlineMs = performance.now() + startMsMax;
    for (;;) {
      const next = lines.shift();
      if (next !== undefined) return next;
      if (ended) throw new Error(`${role} ended with ${started.exitCode ?? started.signalCode}`);
      const rest = deadlineMs - performance.now();
      if (rest <= 0) throw new Error(`${role} said nothing in ${startMsMax} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, rest);
        changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  };
  return { process: started, line };
}

async function stop({ process: started }: { process: ChildProcess }): Promise<void> {
  if (started.exitCode !== null || started.signalCode !== null) return;
  const gone = new Promise((resolve) => started.once("exit", resolve));
  started.kill("SIGTERM");
  const timer = setTimeout(() => started.kill("SIGKILL"), 5_000);
  await gone;
  clearTimeout(timer);
}

/** The model's file, written where it is not there yet. */
function writeModel(): Promise<void> {
  const begun = performance.now();
  mkdirSync(options.folder, { recursive: true });
  if (!existsSync(modelPath)) writeShape(modelPath, options.shape, options.type);
  console.log(`model: ${modelPath}, ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  return Promise.resolve();
}

/** The gateway before a worker, where one is asked for. */
async function openGateway(worker: string): Promise<Server | undefined> {
  if (options.gateway === "") return undefined;
  return serveGateway(
    { folder: resolve(options.gateway), workerd: resolve(options.workerd), processes: 1 },
    {
      LEANEDGE_MODELS: JSON.stringify([{ model: modelId, engines: 0 }]),
      LEANEDGE_WORKERS: `${modelId}=${worker}`,
      LEANEDGE_DEV_KEY: key,
    },
  );
}

async function measure(): Promise<void> {
  const begun = performance.now();
  const late = (): boolean => performance.now() - begun > 1000 * Number(options.seconds);
  await writeModel();
  const rounds: Round[] = [];
  let prompt = 0;
  const write = (): Promise<void> => {
    const { shape, type, plan } = options;
    const setting = { shape, type, sessions, generate, prompt, plans: plan.length };
    return writeResults({ ...setting, gateway: options.gateway !== "" }, rounds);
  };
  const bare = child("bare");
  const text = JSON.parse(await bare.line()) as string;
  // The first round warms up.
  for (let round = 0; round <= Number(options.rounds); round++) {
    const { tokens, ...run } = JSON.parse(await bare.line()) as Bare;
    console.log(`engine: ${JSON.stringify(run)}`);
    prompt = tokens;
    if (round > 0) rounds.push({ name: "engine", ...run });
    await write();
  }
  await stop(bare);
  const worker = child("worker");
  let gateway: Server | undefined;
  try {
    const { url } = JSON.parse(await worker.line()) as { url: string };
    gateway = await openGateway(url);
    const client = createClient(
      WorkerService,
      createConnectTransport({ baseUrl: url, httpVersion: "2" }),
    );
    const asked = { sessions, prompt: text, generate };
    for (let round = 0; round <= Number(options.rounds) && !(round > 1 && late()); round++) {
      const ways: [Round["name"], Way][] = [["worker", workerWay(client, modelId)]];
      if (gateway !== undefined) {
        const access = { url: gateway.url, key, model: modelId, label: `round${round}` };
        ways.push(["gateway", gatewayWay(access)]);
      }
      // In turn, and each of them first as often as the other.
      for (const [name, way] of round % 2 === 0 ? ways : ways.reverse()) {
        const run = await allSessionsOf(way, url, asked);
        console.log(`${name}: ${JSON.stringify(run)}`);
        if (round > 0) rounds.push({ name, ...run });
        await write();
      }
    }
  } finally {
    await gateway?.stop();
    await stop(worker);
  }
}

const roles: Record<string, () => Promise<void>> = {
  "": measure,
  model: writeModel,
  bare: runBare,
  worker: runWorker,
};
await roles[options.role]?.();
