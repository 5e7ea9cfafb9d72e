import { describe, expect, it } from "vitest";
import { isMet } from "../support/figures.js";
import { caseFigures, caseTable } from "./report.js";
import { decodeSpeed, prefillSpeed } from "./run.js";
import type { CaseResult } from "./run.js";

const tasks = [
  { prompt: 100, generate: 11 },
  { prompt: 1000, generate: 1 },
];
const check = { prompt: 1, generate: 1 };
const reads = { weightBytesPerRow: 20e6, readBytesPerSecond: 8e9, version: "v1", checked: [] };

function round(
  prefillMs: number,
  decodeMs: number,
): { tasks: { prefillMs: number; decodeMs: number }[] } {
  return {
    tasks: [
      { prefillMs, decodeMs },
      { prefillMs: 10 * prefillMs, decodeMs: 0 },
    ],
  };
}

const result: CaseResult = {
  case: {
    model: "26m-q8_0",
    weight: 1,
    prompts: [100, 1000],
    variants: [],
  },
  fileBytesPerToken: 10e6,
  variants: [
    {
      plan: { name: "node", rounds: 3, check, tasks },
      rounds: [
        { ...reads, ...round(1000, 100) },
        { ...reads, ...round(500, 200) },
        { ...reads, ...round(250, 50) },
      ],
    },
    {
      plan: { name: "wllama", rounds: 1, check, tasks: [{ prompt: 100, generate: 6 }, undefined] },
      rounds: [{ checked: [], version: "v2", tasks: [{ prefillMs: 1000, decodeMs: 500 }] }],
    },
  ],
};

describe("the decode report", () => {
  it("leaves the first token of an answer to the prompt, and finds tasks by their column", () => {
    const [node, wllama] = result.variants;
    if (node?.rounds[0] === undefined || wllama?.rounds[0] === undefined) throw new Error("none");
    expect(decodeSpeed(node.plan, node.rounds[0])).toBe(100);
    expect(decodeSpeed(wllama.plan, wllama.rounds[0])).toBe(10);
    expect(prefillSpeed([100, 1000], node.plan, node.rounds[0], 1)).toBe(100);
    expect(prefillSpeed([100, 1000], wllama.plan, wllama.rounds[0], 1)).toBeUndefined();
    // A prompt of another length than the column's is no figure of that column.
    expect(prefillSpeed([127], node.plan, node.rounds[0], 0)).toBeUndefined();
  });

  it("shows medians, bytes against the read loop, and every round", () => {
    const lines = caseTable(result).split("\n");
    expect(lines).toContain(
      "| node | 200 | 200 | 100 | 2.00 | 25 % of 8.00 | 100 200 400 | 100 200 400 | 100 50.0 200 |",
    );
    // Without a read loop of its own, a variant is set against the one in Node.
    expect(lines).toContain("| wllama | 100 | - | 10.0 | 0.10 | 1.3 % of 8.00 | 100 | - | 10.0 |");
  });

  it("sets every figure against its target, and names a stand-in", () => {
    const figures = caseFigures(result);
    expect(figures.map((one) => [one.name, one.measured, one.bound, isMet(one)])).toEqual([
      ["decode, 26m-q8_0, against wllama", 10, 6, true],
      ["prefill of 100, 26m-q8_0, against wllama", 2, 7, false],
      ["prefill of 1000, 26m-q8_0, against wllama at 127", 2, 7, false],
      ["weight bytes read at decode, 26m-q8_0, of the pure read loop", 0.25, 0.6, false],
    ]);
  });
});
