/**
 * How fast is the embedded model, and what stands between it and the memory's speed? See README.md
 * beside this file for the method.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync } from "node:fs";
import { rmSync, writeFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readModelFile } from "../../src/engine/gguf/index.js";
import { Tokenizer } from "../../src/engine/tokenizer/index.js";
import { memoryBytesDefault } from "../../src/engine/wasm/wasm-engine.js";
import { GgufFile } from "../../test/oracle/gguf.js";
import { Oracle } from "../../test/oracle/oracle.js";
import { model222m, model26m, writeRandomModel } from "../../test/oracle/random-model.js";
import { tensorTypes } from "../../test/oracle/tensor-types.js";
import type { TensorType } from "../../test/oracle/tensor-types.js";
import { checkAnswer } from "./check-answer.js";
import { prompt as defaultPrompt } from "./prompt.js";
import { decodeSpeed, prefillSpeed, replaceSection, reportMarkdown } from "./report.js";
import type { Run, VariantRounds } from "./report.js";
import type { Measurement, Workload } from "./workload.js";

/** Variants, in the order of even rounds. */
export const variantNames = ["node", "workerd", "wllama", "llama.cpp"] as const;
/** Name of a variant. */
export type VariantName = (typeof variantNames)[number];

const scripts: Readonly<Record<VariantName, string>> = {
  node: "run-node.ts",
  workerd: "run-workerd.ts",
  wllama: "run-wllama.ts",
  "llama.cpp": "run-llama-cpp.ts",
};

/** One process at most this long: wllama on a busy machine takes a minute. */
const processMsMax = 600_000;

/** What to measure. */
export type Options = {
  modelPath: string;
  prompt?: string;
  generate: number;
  rounds: number;
  warmups: number;
  variants: readonly VariantName[];
  /** The command to show in the report. */
  command: string;
  /** Told of every round as it ends. */
  log: (line: string) => void;
};

/** Bytes of weights that one decoded token reads: all of the file but unused rows of the embedding. */
export function fileBytesPerToken(path: string): number {
  const { tensors } = new GgufFile(path).header;
  const tied = !tensors.has("output.weight");
  return [...tensors.values()]
    .filter(({ name }) => tied || name !== "token_embd.weight")
    .reduce((sum, { bytes }) => sum + bytes, 0);
}

function runProcess(name: VariantName, workloadPath: string): Promise<Measurement> {
  const script = fileURLToPath(new URL(scripts[name], import.meta.url));
  const child = spawn(process.execPath, ["--import", "tsx", script, workloadPath], {
    stdio: ["ignore", "pipe", "inherit"],
    timeout: processMsMax,
  });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      const last = output.trimEnd().split("\n").at(-1);
      if (code === 0 && last !== undefined) resolve(JSON.parse(last) as Measurement);
      else reject(new Error(`variant ${name} ended with ${code ?? "a signal"}`));
    });
  });
}

/** Ids of an answer that came as text only: what it adds to the prompt's ids. */
function continuation(
  tokenizer: Tokenizer,
  prompt: string,
  promptIds: readonly number[],
  text: string,
): number[] {
  const pieces = [{ text: prompt + text, special: false }];
  const ids = tokenizer.encodePieces(pieces, { start: true });
  if (promptIds.some((id, i) => ids[i] !== id)) {
    throw new Error("the answer's text changes how the prompt is tokenized");
  }
  return ids.slice(promptIds.length);
}

/** Runs all rounds, each variant in a fresh process, the order reversed every other round. */
export async function runBenchmark(options: Options): Promise<Run> {
  const { modelPath, generate, rounds, warmups, variants, log } = options;
  const prompt = options.prompt ?? defaultPrompt;
  const source = await openFileSource(modelPath);
  const tokenizer = new Tokenizer((await readModelFile(source)).vocabulary);
  await source.close();
  const promptIds = tokenizer.encodePieces([{ text: prompt, special: false }], { start: true });
  const readBytes = fileBytesPerToken(modelPath);
  // The host's default, and more only for models that no Worker could hold.
  const memoryBytesMax = Math.max(memoryBytesDefault, 2 * readBytes);
  const workload: Workload = {
    ...{ modelPath, prompt, promptIds, generate, warmups, readBytes, memoryBytesMax },
  };
  const oracle = new Oracle(modelPath);
  const run = {
    command: options.command,
    date: new Date().toISOString().slice(0, 10),
    device: `${cpus()[0]?.model.trim() ?? "unknown processor"}, ${cpus().length} cores`,
    loadAverage: loadavg()[0] ?? 0,
    model: basename(modelPath),
    promptTokens: promptIds.length,
    generate,
    fileBytesPerToken: readBytes,
  };
  const results = new Map<VariantName, Measurement[]>(variants.map((name) => [name, []]));
  const checked = new Set<string>();
  const folder = mkdtempSync(join(tmpdir(), "leanedge-decode-"));
  const workloadPath = join(folder, "workload.json");
  writeFileSync(workloadPath, JSON.stringify(workload));
  try {
    for (let round = 0; round < rounds; round++) {
      const order = round % 2 === 0 ? variants : [...variants].reverse();
      for (const name of order) {
        const measurement = await runProcess(name, workloadPath);
        if ((measurement.promptTokens ?? promptIds.length) !== promptIds.length) {
          throw new Error(`${name} counts ${measurement.promptTokens ?? 0} tokens in the prompt`);
        }
        const text = measurement.text ?? tokenizer.decode(measurement.tokens ?? []);
        if (!checked.has(text)) {
          const answer = measurement.tokens ?? continuation(tokenizer, prompt, promptIds, text);
          const found = checkAnswer(name, oracle, promptIds, answer);
          log(`${name}: answer checked, ${found.length} of ${answer.length} tokens on a near tie`);
          checked.add(text);
        }
        results.get(name)?.push(measurement);
        const shown: Run = { ...run, variants: [] };
        log(
          `round ${round + 1}, ${name}: prefill ${prefillSpeed(shown, measurement).toFixed(1)}, ` +
            `decode ${decodeSpeed(shown, measurement).toFixed(1)} tok/s`,
        );
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  const measured: VariantRounds[] = [...results].map(([name, list]) => ({ name, rounds: list }));
  return { ...run, variants: measured };
}

const embedded = fileURLToPath(
  new URL("../../models/leanedge-seed-29m-q4_0.gguf", import.meta.url),
);
const document = fileURLToPath(new URL("../../docs/benchmarks.md", import.meta.url));

/**
 * A model by path, or by a name such as `random-26m-Q8_0` or `random-222m-Q4_0`: random weights,
 * written into models/cache/ when they are not there.
 */
function resolveModel(name: string): string {
  const [, size, type] = /^random-(26m|222m)-(\w+)$/.exec(name) ?? [];
  if (size === undefined || type === undefined) {
    if (!existsSync(name)) throw new Error(`no model at ${name}`);
    return name;
  }
  if (!(type in tensorTypes)) throw new Error(`no tensor type ${type}`);
  const path = join(fileURLToPath(new URL("../../models/cache/", import.meta.url)), `${name}.gguf`);
  if (!existsSync(path)) {
    mkdirSync(dirname(path), { recursive: true });
    const spec = size === "26m" ? model26m : model222m;
    writeRandomModel(`${path}.part`, spec(type as TensorType));
    renameSync(`${path}.part`, path);
  }
  return path;
}

function isVariant(name: string): name is VariantName {
  return (variantNames as readonly string[]).includes(name);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: "string", default: embedded },
      generate: { type: "string", default: "64" },
      rounds: { type: "string", default: "5" },
      variants: { type: "string", default: variantNames.join(",") },
      write: { type: "boolean", default: false },
    },
  });
  const variants = values.variants.split(",");
  const unknown = variants.find((name) => !isVariant(name));
  if (unknown !== undefined) throw new Error(`no variant ${unknown}: ${variantNames.join(", ")}`);
  const shown = process.argv.slice(2).filter((argument) => argument !== "--write");
  const run = await runBenchmark({
    modelPath: resolveModel(values.model),
    generate: Number(values.generate),
    rounds: Number(values.rounds),
    warmups: 1,
    variants: variants.filter(isVariant),
    command: ["npm run bench:decode", ...(shown.length > 0 ? ["--", ...shown] : [])].join(" "),
    log: (line) => console.log(line),
  });
  const report = reportMarkdown(run);
  console.log(`\n${report}`);
  if (values.write) {
    writeFileSync(document, replaceSection(readFileSync(document, "utf8"), "decode", report));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
