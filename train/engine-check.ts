/**
 * What leanedge's own engine makes of a model file and its plans, for the tests of the Python
 * package: reads one JSON request from standard input, answers with one JSON object.
 *
 *   tsx train/engine-check.ts < request.json
 */
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { text } from "node:stream/consumers";
import { greedySampling } from "../src/engine/engine.js";
import { openFileSource } from "../src/engine/gguf/file-source.js";
import { loadEngine } from "../src/engine/load-engine.js";
import { parsePlan } from "../src/engine/plan/parse.js";
import { readEngineModule } from "../src/engine/wasm/node-module.js";

/** What to do. */
interface Request {
  /** A GGUF file. */
  readonly model: string;
  /** Plan files. */
  readonly plans: readonly string[];
  /** Ids of a prompt. */
  readonly prompt: readonly number[];
  /** Tokens of a greedy answer under each plan, the identity plan first. */
  readonly answerTokens: number;
  /** A text to tokenize. */
  readonly text: string;
}

/** Rows x layers of a step: more than any test has. */
const workMax = 10_000_000;
const memoryBytesMax = 256 * 1024 * 1024;

const request = JSON.parse(await text(process.stdin)) as Request;
const source = await openFileSource(request.model);
const plans = await Promise.all(
  request.plans.map(async (path) =>
    parsePlan(await readFile(path, "utf8"), basename(path, ".json")),
  ),
);
const { engine, tokenizer, template } = await loadEngine({
  source,
  module: await readEngineModule("simd128"),
  plans,
  memoryBytesMax,
});
await source.close();

const answers = engine.plans.map(({ index }) => {
  const sequence = engine.createSequence(index);
  engine.append(sequence, "prompt", request.prompt);
  engine.setSampling(sequence, greedySampling);
  const logits: number[][] = [];
  const tokens = Array.from({ length: request.answerTokens }, () => {
    const [result] = engine.stepSync?.([{ sequence, workMax, sample: true }]) ?? [];
    if (result?.error !== undefined) throw result.error;
    if (result?.token === undefined) throw new Error("the engine drew no token");
    logits.push([...engine.logits(sequence)]);
    return result.token;
  });
  engine.freeSequence(sequence);
  return { tokens, logits };
});
process.stdout.write(
  JSON.stringify({
    plans: engine.plans.map(({ name, fingerprint, pageBytes }) => ({
      name,
      fingerprint,
      pageBytes,
    })),
    answers,
    ids: tokenizer.encode(request.text, { parseSpecial: false }),
    rendered: template.source,
  }),
);
engine.close();
