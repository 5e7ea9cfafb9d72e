/** Models that benchmarks run: the embedded one, and ones of random weights in models/cache/. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { embeddedFile } from "../../src/embedded-model.js";
import { GgufFile } from "../../test/oracle/gguf.js";
import { model222m, model26m, writeRandomModel } from "../../test/oracle/random-model.js";
import type { ModelSpec } from "../../test/oracle/random-model.js";

/** Positions of the generated models: random weights know no window. */
const contextTokens = 32_768;

// Answers are text, or wllama, which streams text, would fail on them.
const random = { textOnly: true, context: contextTokens } as const;

/** The generated models. */
const specs = {
  "26m-q8_0": { ...model26m("Q8_0"), ...random },
  "26m-q4_0": { ...model26m("Q4_0"), ...random },
  "222m-q8_0": { ...model222m("Q8_0"), ...random },
  "222m-q4_0": { ...model222m("Q4_0"), ...random },
  /** The embedded model's shape, so that its plans fit, with a window of 32,768. */
  "long-29m-q4_0": {
    ...model26m("Q4_0"),
    embeddingType: "Q8_0",
    seed: 29,
    layers: 8,
    ffDim: 1536,
    tied: true,
    ropeBase: 100_000,
    context: contextTokens,
  },
  /** For tests: a few milliseconds a token in the slowest engine. */
  "tiny-f16": {
    ...{ ...model26m("F16"), ...random, layers: 2, dim: 128, heads: 4, kvHeads: 2, headDim: 32 },
    ...{ ffDim: 256, vocabulary: 512 },
  },
} as const satisfies Record<string, ModelSpec>;

/** A model's name: `embedded`, or a generated one. */
export type ModelName = "embedded" | keyof typeof specs;

const root = new URL("../../", import.meta.url);

/** Path of a model; a generated one is written first if it is not there: 222M take half a minute. */
export function modelPath(name: ModelName): string {
  if (name === "embedded") return fileURLToPath(new URL(embeddedFile, root));
  const spec: ModelSpec = specs[name];
  const hash = createHash("sha256").update(JSON.stringify(spec)).digest("hex").slice(0, 8);
  const path = fileURLToPath(new URL(`models/cache/bench-${name}-${hash}.gguf`, root));
  if (!existsSync(path)) {
    mkdirSync(dirname(path), { recursive: true });
    const part = `${path}.${process.pid}.part`;
    writeRandomModel(part, spec);
    renameSync(part, path);
  }
  return path;
}

/** Bytes of weights that one decoded token reads: all of the file but unused rows of the embedding. */
export function fileBytesPerToken(path: string): number {
  const { tensors } = new GgufFile(path).header;
  const tied = !tensors.has("output.weight");
  return [...tensors.values()]
    .filter(({ name }) => tied || name !== "token_embd.weight")
    .reduce((sum, { bytes }) => sum + bytes, 0);
}
