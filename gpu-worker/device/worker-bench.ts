/**
 * How much of the CUDA engine's speed arrives at the clients of a worker process: 64 sessions over Connect, prompts of
 * about 1,024 tokens, answers of 256, against the engine alone in a loop over the same prompts. A model of an 8B Llama's
 * shape with random weights is written first.
 *
 *   node worker-bench.mjs --addon leanedge.node --folder DIR [--shape 8b|tiny]
 *     [--type BF16|Q8_0|Q4_0] [--plan FILE] [--sessions N] [--prompt N] [--generate N] [--memory MiB] [--rounds N]
 *     [--seconds N]
 *
 * Engine and worker are processes of their own that run one after the other. Prints a line a round; writes serving.json
 * and serving.md into the folder that OUT names after each. LEANEDGE_COMMIT and LEANEDGE_KERNELS say what was measured.
 */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { allSessions } from "../../bench/worker/sessions.js";
import type { BareRun, LoadRun } from "../../bench/worker/workload.js";
import type { LoadedModel } from "../../src/worker/process/engine-host.js";
import { WorkerService } from "../../src/gen/leanedge/worker/v1/worker_pb.js";
import {
  listenAddress,
  openModel,
  PromptTexts,
  startWorkerProcess,
} from "../../src/worker/process/index.js";
import { writeGguf, type GgufSource, type TensorSource } from "../../test/oracle/gguf.js";
import { randomModel, type ModelSpec } from "../../test/oracle/random-model.js";
import { SeededRandom } from "../../test/oracle/random.js";
import { encodeTensor, tensorTypes, type TensorType } from "../../test/oracle/tensor-types.js";

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
    role: { type: "string", default: "" },
  },
});
const modelId = "random-8b";
const sessions = Number(options.sessions);
const generate = Number(options.generate);
const modelPath = join(
  options.folder,
  `random-${options.shape}-${options.type.toLowerCase()}.gguf`,
);
/** Rows x layers of one step: no prompt has more. */
const workMax = 1e7;
/** A worker that has not begun to serve by then, or an engine that has not answered, never will. */
const startMsMax = 120_000;

const common = {
  architecture: "llama",
  seed: 1,
  vocabularyKind: "bpe",
  context: 8_192,
  tied: false,
  ropeBase: 500_000,
} as const;

/** The shape that `--shape` names. */
function spec(type: TensorType): ModelSpec {
  if (options.shape === "8b") {
    return {
      ...common,
      type,
      layers: 32,
      dim: 4_096,
      ffDim: 14_336,
      heads: 32,
      kvHeads: 8,
      headDim: 128,
      vocabulary: 16_384,
    };
  }
  if (options.shape !== "tiny") throw new Error(`--shape is ${options.shape}, must be 8b or tiny`);
  return {
    ...common,
    type,
    layers: 2,
    dim: 128,
    ffDim: 128,
    heads: 2,
    kvHeads: 1,
    headDim: 64,
    vocabulary: 1_024,
  };
}

/** Tokens of the vocabulary: a Llama 3's. Random words do not join to so many, those behind them are plain text. */
const vocabulary = options.shape === "8b" ? 128_256 : 2_048;

/** Metadata and tensors of the shape, with as many tokens as `vocabulary` says. */
function widened({ metadata, tensors }: GgufSource): GgufSource {
  const all = new Map(metadata);
  const tokens = all.get("tokenizer.ggml.tokens");
  const types = all.get("tokenizer.ggml.token_type");
  if (tokens?.type !== "strings" || types?.type !== "i32s") throw new Error("no vocabulary");
  const more = vocabulary - tokens.value.length;
  const names = Array.from({ length: more }, (_, i) => `[word${i}]`);
  all.set("tokenizer.ggml.tokens", { type: "strings", value: [...tokens.value, ...names] });
  all.set("tokenizer.ggml.token_type", {
    type: "i32s",
    value: [...types.value, ...names.map(() => 1)],
  });
  all.set("llama.vocab_size", { type: "u32", value: vocabulary });
  const tables = new Set(["token_embd.weight", "output.weight"]);
  return {
    metadata: all,
    tensors: tensors.map((tensor) =>
      tables.has(tensor.name) ? { ...tensor, shape: [tensor.shape[0] ?? 0, vocabulary] } : tensor,
    ),
  };
}

/** Writes the model: real metadata and norms, matrices cut from one run of random values. */
function writeModel(): void {
  const type = (Object.keys(tensorTypes) as TensorType[]).find((name) => name === options.type);
  if (type === undefined) throw new Error(`--type is ${options.type}, must be a type of tensors`);
  const { metadata, tensors } = widened(randomModel(spec(type)));
  const block = tensorTypes[type];
  const bytesOf = ({ shape }: TensorSource): number =>
    (shape.reduce((product, size) => product * size, 1) / block.values) * block.bytes;
  const matrices = tensors.filter(({ shape }) => shape.length === 2);
  const piece = encodeTensor(type, SeededRandom.named(1, "weights").normals(1 << 21, 0.02));
  // Tensors begin at different places of the run, so that no two layers are alike.
  const stride = 997 * block.bytes;
  const random = Buffer.alloc(Math.max(...matrices.map(bytesOf)) + stride * tensors.length);
  for (let at = 0; at < random.length; at += piece.length) {
    random.set(piece.subarray(0, Math.min(piece.length, random.length - at)), at);
  }
  writeGguf(modelPath, {
    metadata,
    tensors: tensors.map((tensor, index) => {
      if (tensor.shape.length !== 2) return tensor;
      const begin = index * stride;
      return { ...tensor, bytes: () => random.subarray(begin, begin + bytesOf(tensor)) };
    }),
  });
}

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
    const sequences = Array.from({ length: sessions }, () => engine.createSequence(plan));
    const begun = performance.now();
    for (const sequence of sequences) {
      engine.append(sequence, "prompt", ids);
      const [result] = await engine.step([{ sequence, workMax, sample: true }]);
      if (result?.error !== undefined) throw result.error;
    }
    const entries = sequences.map((sequence) => ({
      sequence,
      workMax: engine.layers,
      sample: true,
    }));
    const start = performance.now();
    for (let step = 1; step < generate; step++) {
      for (const { token, error } of await engine.step(entries)) {
        if (error !== undefined) throw error;
        if (token === undefined) throw new Error("a sequence drew no token");
      }
    }
    const end = performance.now();
    for (const sequence of sequences) engine.freeSequence(sequence);
    const stepMs = (end - start) / (generate - 1);
    console.log(
      JSON.stringify({
        tokens: ids.length,
        stepMs,
        tokensPerSecond: (1000 * sessions) / stepMs,
        wholeMs: end - begun,
      } satisfies Bare),
    );
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

/** What the engine alone shows, prompts included in `wholeMs`. */
type Bare = BareRun & { tokens: number; wholeMs: number };
type Round = { name: string; tokensPerSecond: number; stepMs: number; wholeMs: number };

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

/** The name and driver of the GPU; what is said where there is none. */
function gpu(): readonly string[] {
  try {
    const query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    return execFileSync("nvidia-smi", query, { encoding: "utf8" }).trim().split(", ");
  } catch {
    return ["no GPU", "none"];
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return ((sorted[(sorted.length - 1) >> 1] ?? NaN) + (sorted[sorted.length >> 1] ?? NaN)) / 2;
}

/** Leaves what has been measured so far in the folder OUT. */
async function writeResults(prompt: number, rounds: readonly Round[]): Promise<void> {
  const out = process.env["OUT"] ?? "";
  if (out === "") return;
  const [device = "", driver = ""] = gpu();
  const of = (name: string, what: (round: Round) => number): number =>
    median(rounds.filter((round) => round.name === name).map(what));
  const share = of("worker", (r) => r.tokensPerSecond) / of("engine", (r) => r.tokensPerSecond);
  const whole = of("engine", (r) => r.wholeMs) / of("worker", (r) => r.wholeMs);
  const head = {
    device,
    driver,
    node: process.version,
    date: `${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC`,
    commit: process.env["LEANEDGE_COMMIT"] ?? "unknown",
    command: `node worker-bench.mjs --shape ${options.shape} --type ${options.type} --sessions ${sessions} --generate ${generate}`,
    kernels: process.env["LEANEDGE_KERNELS"] ?? "unknown",
  };
  const figures = { sessions, prompt, generate, plans: options.plan.length, share, whole };
  await writeFile(
    join(out, "serving.json"),
    `${JSON.stringify({ head, figures, rounds }, null, 1)}\n`,
  );
  const rows = rounds.map(
    ({ name, tokensPerSecond, stepMs, wholeMs }) =>
      `| ${name} | ${tokensPerSecond.toFixed(0)} | ${stepMs.toFixed(2)} | ${wholeMs.toFixed(0)} |`,
  );
  await writeFile(
    join(out, "serving.md"),
    [
      `# ${sessions} sessions on a worker with the CUDA engine`,
      "",
      `${device}, ${head.date}, commit \`${head.commit.slice(0, 12)}\` (kernels \`${head.kernels}\`), driver ${driver}, Node ${head.node}, \`${head.command}\`. ` +
        `${options.shape} shape, random weights (${options.type}), prompts of ${prompt} tokens, ${options.plan.length > 0 ? "the first plan" : "dense f16 cache"}.`,
      "",
      "| | tokens/s while all answer | ms a step | ms from the first call to the last token |",
      "| --- | --- | --- | --- |",
      ...rows,
      "",
      `While all answer the worker gives ${(100 * share).toFixed(1)} % of the engine's tokens (aimed at: 90 %); prompts included, ${(100 * whole).toFixed(1)} %.`,
      "",
    ].join("\n"),
  );
}

async function measure(): Promise<void> {
  const begun = performance.now();
  const late = (): boolean => performance.now() - begun > 1000 * Number(options.seconds);
  mkdirSync(options.folder, { recursive: true });
  if (!existsSync(modelPath)) writeModel();
  console.log(`model: ${modelPath}, ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  const rounds: Round[] = [];
  let prompt = 0;
  const bare = child("bare");
  const text = JSON.parse(await bare.line()) as string;
  // The first round warms up.
  for (let round = 0; round <= Number(options.rounds); round++) {
    const run = JSON.parse(await bare.line()) as Bare;
    console.log(`engine: ${JSON.stringify(run)}`);
    prompt = run.tokens;
    const { tokensPerSecond, stepMs, wholeMs } = run;
    if (round > 0) rounds.push({ name: "engine", tokensPerSecond, stepMs, wholeMs });
    await writeResults(prompt, rounds);
  }
  await stop(bare);
  const worker = child("worker");
  try {
    const { url } = JSON.parse(await worker.line()) as { url: string };
    const transport = createConnectTransport({ baseUrl: url, httpVersion: "2" });
    const client = createClient(WorkerService, transport);
    const asked = { model: modelId, sessions, prompt: text, generate };
    for (let round = 0; round <= Number(options.rounds) && !(round > 1 && late()); round++) {
      const run: LoadRun = await allSessions(client, url, asked);
      console.log(`worker: ${JSON.stringify(run)}`);
      const { tokensPerSecond, stepMs, wholeMs } = run;
      if (round > 0) rounds.push({ name: "worker", tokensPerSecond, stepMs, wholeMs });
      await writeResults(prompt, rounds);
    }
  } finally {
    await stop(worker);
  }
}

const roles: Record<string, () => Promise<void>> = {
  "": measure,
  bare: runBare,
  worker: runWorker,
};
await roles[options.role]?.();
