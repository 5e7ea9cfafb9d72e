import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { parityCases } from "./cases.js";
import { logitError, topTwo } from "./compare.js";
import { GgufFile, ggufBytes, parseGguf } from "./gguf.js";
import { Oracle, logitsAt } from "./oracle.js";
import { interleaveRows, model222m, model26m, parameterCount } from "./random-model.js";
import { randomModelBytes, writeRandomModel } from "./random-model.js";
import { SeededRandom } from "./random.js";
import { ropeAngles, ropeConfig, rotate } from "./rope.js";
import { bf16Bits, bf16Value, decodeTensor, encodeTensor } from "./tensor-types.js";
import { f16Bits, f16Value } from "./tensor-types.js";

const folder = mkdtempSync(join(tmpdir(), "leanedge-oracle-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("tensor types", () => {
  it("give every finite f16 back bit for bit", () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      if ((bits & 0x7c00) === 0x7c00) continue;
      expect(f16Bits(f16Value(bits))).toBe(bits);
    }
  });

  it("round to the even neighbour on a tie, in f16 and bf16", () => {
    expect(f16Value(f16Bits(2049))).toBe(2048);
    expect(f16Value(f16Bits(2051))).toBe(2052);
    expect(f16Value(f16Bits(2049.001))).toBe(2050);
    expect(f16Bits(2 ** -25)).toBe(0);
    expect(f16Bits(1.5 * 2 ** -25)).toBe(1);
    expect(f16Bits(65520)).toBe(0x7c00);
    expect(bf16Value(bf16Bits(257))).toBe(256);
    expect(bf16Value(bf16Bits(259))).toBe(260);
  });

  it("keep values that lie on a block's grid, with ggml's byte order", () => {
    const grid = Float32Array.from({ length: 32 }, (_, i) => (i % 16) - 8);
    expect(decodeTensor("Q4_0", encodeTensor("Q4_0", grid), 32)).toEqual(grid);
    expect(decodeTensor("Q4_1", encodeTensor("Q4_1", grid), 32)).toEqual(grid);
    // Scale 1 as f16, then value 0 in the low half and value 16 in the high half of the first byte.
    expect([...encodeTensor("Q4_0", grid).subarray(0, 4)]).toEqual([0, 0x3c, 0x00, 0x11]);
    const bytes = Float32Array.from({ length: 32 }, (_, i) => (i === 31 ? 127 : 4 * i - 64));
    expect(decodeTensor("Q8_0", encodeTensor("Q8_0", bytes), 32)).toEqual(bytes);
  });

  it("round halves of Q8_0 away from zero", () => {
    const values = new Float32Array(32);
    values.set([127, 2.5, -2.5, -0.5]);
    const bytes = encodeTensor("Q8_0", values);
    expect([...new Int8Array(bytes.buffer, 2, 4)]).toEqual([127, 3, -3, -1]);
  });

  it("stay within half a step of what they store", () => {
    const values = new SeededRandom(7).normals(32 * 64, 1);
    const errors = (["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"] as const).map((type) => {
      const back = decodeTensor(type, encodeTensor(type, values), values.length);
      return Math.sqrt(back.reduce((sum, v, i) => sum + (v - (values[i] ?? 0)) ** 2, 0) / 2048);
    });
    // A uniform error of one step has a deviation of step / sqrt(12); steps follow from the ranges.
    const bounds = [5e-4, 4e-3, 6e-3, 0.1, 0.09];
    for (const [i, error] of errors.entries()) expect(error).toBeLessThan(bounds[i] ?? 0);
  });

  it("refuse rows that are no whole blocks", () => {
    expect(() => encodeTensor("Q4_0", new Float32Array(33))).toThrow(
      "33 values are not a multiple of the 32 in a block of Q4_0",
    );
  });
});

describe("GGUF files", () => {
  it("come back as they were written", () => {
    const source = {
      metadata: new Map([
        ["general.architecture", { type: "string", value: "llama" }],
        ["a.number", { type: "u32", value: 7 }],
        ["a.fraction", { type: "f32", value: 0.5 }],
        ["a.flag", { type: "bool", value: true }],
        ["a.list", { type: "strings", value: ["x", "ü"] }],
        ["a.vector", { type: "i32s", value: [-1, 2] }],
      ] as const),
      tensors: [
        {
          name: "one",
          shape: [3],
          type: "F32",
          bytes: () => encodeTensor("F32", Float32Array.of(1, 2, 3)),
        },
        {
          name: "two",
          shape: [32, 2],
          type: "Q8_0",
          bytes: () => encodeTensor("Q8_0", new Float32Array(64).fill(254)),
        },
      ],
    } as const;
    const bytes = ggufBytes(source);
    const header = parseGguf(bytes);
    expect(Object.fromEntries(header.metadata)).toEqual({
      "general.architecture": "llama",
      "a.number": 7,
      "a.fraction": 0.5,
      "a.flag": true,
      "a.list": ["x", "ü"],
      "a.vector": [-1, 2],
    });
    const two = header.tensors.get("two");
    expect(two).toMatchObject({ shape: [32, 2], type: "Q8_0", bytes: 68 });
    const offset = two?.offset ?? 0;
    expect(offset % 32).toBe(0);
    expect(decodeTensor("Q8_0", bytes.subarray(offset, offset + 68), 64)[63]).toBe(254);
  });

  it("depend on nothing but their seed", () => {
    const spec = parityCases[0]?.spec;
    if (spec === undefined) throw new Error("there is no case");
    const bytes = (seed: number): Buffer => Buffer.from(randomModelBytes({ ...spec, seed }));
    expect(bytes(spec.seed).equals(bytes(spec.seed))).toBe(true);
    expect(bytes(spec.seed).equals(bytes(spec.seed + 1))).toBe(false);
  });

  it("have the sizes that the benchmark models are named after", () => {
    expect(Math.round(parameterCount(model26m("Q8_0")) / 1e6)).toBe(26);
    expect(Math.round(parameterCount(model222m("Q8_0")) / 1e6)).toBe(222);
  });
});

describe("rotation", () => {
  const rope = (keys: Record<string, string | number>): ReturnType<typeof ropeConfig> =>
    ropeConfig(new Map(Object.entries(keys)), "llama", 64, undefined);

  it("makes scores depend on distance only", () => {
    const plain = rope({});
    const random = new SeededRandom(3);
    const q = Float64Array.from(random.normals(64, 1));
    const k = Float64Array.from(random.normals(64, 1));
    const score = (queryAt: number, keyAt: number): number => {
      const [a, b] = [q.slice(), k.slice()];
      rotate(plain, a, queryAt);
      rotate(plain, b, keyAt);
      return a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
    };
    expect(score(17, 5)).toBeCloseTo(score(112, 100), 10);
    expect(score(17, 5)).not.toBeCloseTo(score(17, 6), 1);
  });

  it("scales slow pairs by the factor, keeps fast ones, and lengthens both, under YaRN", () => {
    const yarn = rope({
      "llama.rope.scaling.type": "yarn",
      "llama.rope.scaling.factor": 4,
      "llama.rope.scaling.original_context_length": 2048,
    });
    const plain = ropeAngles(rope({}), 100);
    const scaled = ropeAngles(yarn, 100);
    expect(scaled[0]).toBeCloseTo(plain[0] ?? 0, 12);
    expect(scaled[31]).toBeCloseTo((plain[31] ?? 0) / 4, 12);
    expect(yarn.magnitude).toBeCloseTo(1 + 0.1 * Math.log(4), 12);
  });

  it("pairs the rows of a llama file as its converter laid them out", () => {
    const rows = Float32Array.from({ length: 8 }, (_, i) => i);
    expect([...interleaveRows(rows, 1, 8, 1)]).toEqual([0, 4, 1, 5, 2, 6, 3, 7]);
  });
});

describe("the oracle", () => {
  it("gives a prefix the logits that it gives the whole sequence there", () => {
    const spec = parityCases.find((entry) => entry.name === "qwen3 Q8_0, grouped, tied")?.spec;
    if (spec === undefined) throw new Error("the case is gone");
    const path = join(folder, "prefix.gguf");
    writeRandomModel(path, spec);
    const oracle = new Oracle(path);
    const whole = oracle.logits([1, 20, 30, 40]);
    const prefix = oracle.logits([1, 20, 30]);
    expect([...logitsAt(whole, 2)]).toEqual([...logitsAt(prefix, 2)]);
    expect(new GgufFile(path).header.tensors.has("output.weight")).toBe(false);
  });

  it("refuses a token outside the vocabulary", () => {
    const oracle = new Oracle(join(folder, "prefix.gguf"));
    expect(() => oracle.logits([448])).toThrow("token 448 is outside the vocabulary of 448");
  });
});

describe("comparison of logits", () => {
  const logits = (...values: number[]): Parameters<typeof logitError>[0] => ({
    positions: 1,
    vocabulary: values.length,
    values: Float64Array.from(values),
  });

  it("does not see a shift of the whole row", () => {
    const error = logitError(logits(101, 102, 103), logits(1, 2, 3));
    expect(error.max).toBeLessThan(1e-12);
  });

  it("throws on a logit that is not a number", () => {
    expect(() => logitError(logits(1, NaN), logits(1, 2))).toThrow("is not a number");
  });

  it("names the best token and its lead", () => {
    expect(topTwo(Float64Array.of(1, 5, 3))).toEqual({ token: 1, margin: 2 });
    expect(topTwo(Float64Array.of(4, 4))).toEqual({ token: 0, margin: 0 });
  });
});
