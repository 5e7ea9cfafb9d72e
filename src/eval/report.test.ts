import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { packagePath } from "../cli/repository.js";
import { reportOf } from "./index.js";
import { renderReport } from "./report.js";
import type { MethodLine, ResultLine } from "./samples-file.js";

function method(name: string, bytesPerToken: number): MethodLine {
  return {
    method: name,
    model: "seed",
    modelFingerprint: "ab",
    planFingerprint: name,
    backend: "wasm",
    bytesPerToken,
    denseBytesPerToken: 1_000,
    keptFraction: bytesPerToken / 1_000,
    series: "a",
  };
}

function results(name: string, task: string, length: number, scores: number[]): ResultLine[] {
  return scores.map((score, seed) => ({ method: name, task, length, seed, score, text: "" }));
}

describe("report", () => {
  it("says what methods take, what they score, and what they lose on the same samples", () => {
    const report = renderReport([
      {
        methods: [method("full", 1_000), method("half", 500)],
        results: [
          ...results("full", "single-1", 1_024, [1, 1, 1, 1]),
          ...results("full", "single-1", 2_048, [1, 1, 1, 0]),
          ...results("full", "session", 20, [1]),
          ...results("half", "single-1", 1_024, [1, 1, 1, 1]),
          ...results("half", "single-1", 2_048, [1, 1, 1, 0]),
          ...results("half", "session", 20, [1]),
        ],
      },
    ]);
    const lines = report.split("\n");
    expect(lines.find((line) => line.startsWith("| full | 1000"))).toMatch(
      /^\| full \| 1000 \| 1\.0 \| 100 % \| 88\.9 \([\d.]+ to 100\.0\) \| {2}\| 9 \|$/,
    );
    expect(lines.find((line) => line.startsWith("| half | 500"))).toMatch(
      /^\| half \| 500 \| 2\.0 \| 50 % \| 88\.9 \(.*\) \| 0\.0 \(0\.0 to 0\.0\) \| 9 \|$/,
    );
    expect(lines).toContain("| method | 1024 | 2048 |");
    expect(report).toMatch(/^\| full \| 100\.0 \(100\.0 to 100\.0\) \| 75\.0 \(.*\) \|$/m);
    expect(report).toContain("### By task, 2048 tokens");
    expect(report).toContain("| single-1 | 75.0 | 75.0 | 4 |");
    expect(report).toContain("### Sessions, by turns between telling and asking");
    expect(report).toContain("A first look: 9 pairs, 2000 are wanted");
  });

  it("shows the sign of a loss and of a gain", () => {
    const report = renderReport([
      {
        methods: [method("full", 1_000), method("less", 500), method("more", 900)],
        results: [
          ...results("full", "t", 1_024, [0.5, 0.5]),
          ...results("less", "t", 1_024, [0.25, 0.25]),
          ...results("more", "t", 1_024, [1, 1]),
        ],
      },
    ]);
    expect(report).toContain("-25.0 (-25.0 to -25.0)");
    expect(report).toContain("+50.0 (+50.0 to +50.0)");
  });

  it("refuses replies of a method that no line explains, and files of two models", () => {
    const unknown = { methods: [method("full", 1)], results: results("x", "t", 1, [1]) };
    expect(() => renderReport([unknown])).toThrow("no line says what method x is");
    const two = {
      methods: [method("full", 1), { ...method("b", 1), model: "other" }],
      results: [],
    };
    expect(() => renderReport([two])).toThrow("results of 2 models in one file, 1 expected");
  });

  it("is, for the committed results, the committed page", async () => {
    const folder = packagePath("docs/evaluation/results");
    const files = readdirSync(folder).filter((name) => name.endsWith(".jsonl"));
    expect(files.length).toBeGreaterThan(0);
    const page = readFileSync(packagePath("docs/evaluation/results.md"), "utf8");
    expect(await reportOf(files.map((name) => `${folder}/${name}`))).toBe(page);
  });
});
