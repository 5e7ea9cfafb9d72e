import { describe, expect, it } from "vitest";
import { median, replaceSection, reportMarkdown } from "./report.js";
import type { Run } from "./report.js";

describe("median()", () => {
  it("is the middle value, or the mean of the two in the middle", () => {
    expect(median([9, 1, 5])).toBe(5);
    expect(median([1, 2, 4, 100])).toBe(3);
    expect(() => median([])).toThrow("the median of no values");
  });
});

describe("replaceSection()", () => {
  const document = "a\n<!-- x:start -->\nold\n<!-- x:end -->\nb\n";

  it("replaces what stands between the markers and nothing else", () => {
    expect(replaceSection(document, "x", "new")).toBe(
      "a\n<!-- x:start -->\n\nnew\n\n<!-- x:end -->\nb\n",
    );
  });

  it("refuses a document without the markers, or with two pairs", () => {
    expect(() => replaceSection(document, "y", "new")).toThrow("<!-- y:start -->");
    expect(() => replaceSection(document + document, "x", "new")).toThrow("once each");
  });
});

describe("reportMarkdown()", () => {
  const run: Run = {
    command: "npm run bench:decode",
    date: "2026-01-02",
    device: "a processor, 2 cores",
    loadAverage: 0.1,
    model: "m.gguf",
    promptTokens: 100,
    generate: 11,
    fileBytesPerToken: 20e6,
    variants: [
      {
        name: "node",
        rounds: [
          { prefillMs: 1000, decodeMs: 100, readBytesPerSecond: 8e9, version: "v1" },
          { prefillMs: 500, decodeMs: 200, readBytesPerSecond: 8e9, version: "v1" },
          { prefillMs: 250, decodeMs: 50, readBytesPerSecond: 8e9, version: "v1" },
        ],
      },
      { name: "wllama", rounds: [{ prefillMs: 1000, decodeMs: 500, version: "v2" }] },
    ],
  };

  it("shows medians, bytes against the read loop, and every round", () => {
    const lines = reportMarkdown(run).split("\n");
    expect(lines).toContain(
      "| node | 200 | 100 | 2.00 | 25 % of 8.0 | 100 200 400 | 100 50.0 200 |",
    );
  });

  it("says so when the machine was busy", () => {
    expect(reportMarkdown(run)).not.toContain("busy");
    expect(reportMarkdown({ ...run, loadAverage: 3 })).toContain("The machine was busy");
  });

  it("sets variants without a read loop of their own against the one in Node", () => {
    expect(reportMarkdown(run)).toContain("| wllama | 100 | 20.0 | 0.40 | 5.0 % of 8.0 |");
  });
});
