import { readFile, readdir } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import {
  abiVersion,
  batchRowsMax,
  plansMax,
  sequencesMax,
  stagingBytes,
  stepEntriesMax,
  structBytes,
  writeConfig,
  writeOptions,
  writeSampling,
  writeStepEntry,
  writeTensor,
} from "./abi.js";
import { wasmPageBytes, wasmPagesInitial } from "../wasm/memory-pages.js";

const root = new URL("../../../", import.meta.url);
const headers = new URL("engine/include/leanedge/", root);

async function headerText(): Promise<string> {
  const files = await readdir(headers);
  return (await Promise.all(files.map((file) => readFile(new URL(file, headers), "utf8")))).join();
}

/** Value of `inline constexpr int32_t name = a * b;`. */
function constant(text: string, name: string): number {
  const expression = new RegExp(`\\b${name} = ([\\d *]+);`).exec(text)?.[1] ?? "NaN";
  return expression.split("*").reduce((product, factor) => product * Number(factor), 1);
}

describe("the boundary", () => {
  it("has structs of the sizes that the headers assert", async () => {
    const text = await headerText();
    for (const [name, bytes] of Object.entries(structBytes)) {
      const asserted = new RegExp(`sizeof\\(${name}\\) == (\\d+)`).exec(text)?.[1];
      expect(Number(asserted), name).toBe(bytes);
    }
  });

  it("has the headers' constants", async () => {
    const text = await headerText();
    expect(constant(text, "kAbiVersion")).toBe(abiVersion);
    expect(constant(text, "kStagingBytes")).toBe(stagingBytes);
    expect(constant(text, "kStepEntriesMax")).toBe(stepEntriesMax);
    expect(constant(text, "kPlansMax")).toBe(plansMax);
    expect(constant(text, "kSequencesMax")).toBe(sequencesMax);
    expect(/batch_rows_max;\s*\/\/.*1 \.\. (\d+)/.exec(text)?.[1]).toBe(String(batchRowsMax));
  });

  it("begins with as much memory as the build script gives statics and stack", async () => {
    const script = await readFile(new URL("scripts/build-wasm.sh", root), "utf8");
    const bytes = /^initial_bytes=(\d+)/m.exec(script)?.[1];
    expect(Number(bytes)).toBe(wasmPagesInitial * wasmPageBytes);
  });

  it("writes every byte of every struct, and none beyond", () => {
    const writers = {
      EngineOptions: (memory: ArrayBuffer, at: number) =>
        writeOptions(memory, at, {
          memoryBytesMax: 2 ** 33,
          sequencesMax: 2,
          batchRowsMax: 3,
          contextTokensMax: 4,
          weights: "fp8",
        }),
      ModelConfig: (memory: ArrayBuffer, at: number) =>
        writeConfig(memory, at, {
          architecture: "qwen3",
          layers: 1,
          dim: 8,
          ffDim: 8,
          heads: 1,
          kvHeads: 1,
          headDim: 8,
          vocabSize: 9,
          contextTokensMax: 10,
          rmsEps: 1e-5,
          ropeBase: 1e4,
          ropeDim: 8,
          ropeOrder: "half",
          ropeScaling: "yarn",
          ropeScale: 4,
          yarnOriginalContext: 100,
          yarnBetaFast: 32,
          yarnBetaSlow: 1,
          yarnAttentionFactor: 1.1,
          tiedEmbeddings: true,
          qkvBias: true,
          qkNorm: true,
          ropeFactors: true,
        }),
      TensorDesc: (memory: ArrayBuffer, at: number) =>
        writeTensor(memory, at, {
          name: "blk.3.attn_q.weight",
          role: "attnQ",
          layer: 3,
          dtype: "Q8_0",
          rows: 5,
          cols: 32,
          offset: 0,
          byteLength: 170,
        }),
      SamplingParams: (memory: ArrayBuffer, at: number) =>
        writeSampling(memory, at, {
          temperature: 1,
          topK: 2,
          topP: 0.5,
          minP: 0.25,
          repetitionPenalty: 1.5,
          repetitionWindow: 64,
          seed: -1n,
        }),
      StepEntry: (memory: ArrayBuffer, at: number) =>
        writeStepEntry(memory, at, { sequence: 7, workMax: 8, sample: true }),
    };
    for (const [name, write] of Object.entries(writers)) {
      const size = structBytes[name as keyof typeof writers];
      const bytes = new Uint8Array(size + 32).fill(0xee);
      write(bytes.buffer, 16);
      expect(
        bytes.subarray(0, 16).every((byte) => byte === 0xee),
        name,
      ).toBe(true);
      expect(
        bytes.subarray(16 + size).every((byte) => byte === 0xee),
        name,
      ).toBe(true);
      // 0xee in a field would be a number that none of the values has.
      expect(bytes.subarray(16, 16 + size).includes(0xee), name).toBe(false);
    }
  });

  it("keeps a seed's 64 bits", () => {
    const bytes = new Uint8Array(structBytes.SamplingParams);
    writeSampling(bytes.buffer, 0, {
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      repetitionWindow: 1,
      seed: 0x1_fedc_ba98_7654_3210n,
    });
    expect(new DataView(bytes.buffer).getBigUint64(24, true)).toBe(0xfedc_ba98_7654_3210n);
  });
});
