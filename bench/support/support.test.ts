import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { alternate } from "./child.js";
import { figureTable, isMet } from "./figures.js";
import type { Figure } from "./figures.js";
import { checkDepartures } from "./judge.js";
import { fileBytesPerToken, modelPath } from "./models.js";
import { barChart } from "./plot.js";
import { promptOf, tokenizerOf } from "./prompt.js";
import { deadlines, heading, replaceSection, wanted } from "./section.js";
import { digits, median, percent, quantile } from "./stats.js";

const folder = mkdtempSync(join(tmpdir(), "leanedge-bench-support-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("median()", () => {
  it("is the middle value, or the mean of the two in the middle", () => {
    expect(median([9, 1, 5])).toBe(5);
    expect(median([1, 2, 4, 100])).toBe(3);
    expect(() => median([])).toThrow("the median of no values");
  });
});

describe("quantile()", () => {
  it("is the value below which a share lies, at most the largest", () => {
    const values = Array.from({ length: 200 }, (_, at) => 199 - at);
    expect([0, 0.5, 0.99, 1].map((share) => quantile(values, share))).toEqual([0, 100, 198, 199]);
    expect(() => quantile([], 0.5)).toThrow("a quantile of no values");
  });
});

describe("numbers in tables", () => {
  it("have three digits, or as many as stand before the point", () => {
    expect([0.126, 12.34, 123.4, 4567.8].map(digits)).toEqual(["0.13", "12.3", "123", "4568"]);
    expect([0.0123, 0.5].map(percent)).toEqual(["1.2", "50"]);
  });
});

describe("a figure", () => {
  const figure = (sense: Figure["sense"], measured: number): Figure => ({
    ...{ name: "f", sense, measured, bound: 2, unit: "x" },
  });

  it("keeps its bound on the good side only", () => {
    expect([1, 2, 3].map((value) => isMet(figure("at least", value)))).toEqual([false, true, true]);
    expect([1, 2, 3].map((value) => isMet(figure("at most", value)))).toEqual([true, true, false]);
    expect([1, 2, 3].map((value) => isMet(figure("exactly", value)))).toEqual([false, true, false]);
  });

  it("says so in its row", () => {
    const table = figureTable([figure("at least", 2.5), figure("at least", 1)]);
    expect(table).toContain("| f | 2.50 x | at least 2.00 x | met |");
    expect(table).toContain("| f | 1.00 x | at least 2.00 x | **missed** |");
  });
});

describe("a document's section", () => {
  const document = "a\n<!-- x:start -->\nold\n<!-- x:end -->\nb\n";

  it("is replaced between its markers and nowhere else", () => {
    expect(replaceSection(document, "x", "new")).toBe(
      "a\n<!-- x:start -->\n\nnew\n\n<!-- x:end -->\nb\n",
    );
  });

  it("must be there once", () => {
    expect(() => replaceSection(document, "y", "new")).toThrow("<!-- y:start -->");
    expect(() => replaceSection(document + document, "x", "new")).toThrow("once each");
  });

  it("says so when the machine was busy", () => {
    expect(heading("c", 0.2)).not.toContain("busy");
    expect(heading("c", 3)).toContain("The machine was busy");
  });
});

describe("wanted()", () => {
  it("picks names in their own order and refuses unknown ones", () => {
    expect(wanted("model", ["a", "b", "c"], ["c", "a"])).toEqual(["a", "c"]);
    expect(wanted("model", ["a"], undefined)).toEqual(["a"]);
    expect(() => wanted("model", ["a"], ["z"])).toThrow("no model z: a");
  });
});

describe("alternate()", () => {
  it("turns the order every other round, and ends variants of fewer rounds early", async () => {
    const seen: string[] = [];
    const variants = [
      { name: "a", rounds: 3 },
      { name: "b", rounds: 1 },
      { name: "c", rounds: 2 },
    ];
    await alternate(variants, ({ name }, round) => {
      seen.push(`${name}${round}`);
      return Promise.resolve();
    });
    expect(seen).toEqual(["a0", "b0", "c0", "c1", "a1", "a2"]);
  });
});

describe("time limits", () => {
  it("let the first round run, and no more where they are over", async () => {
    let ran = 0;
    const run = (): Promise<void> => {
      ran += 1;
      return Promise.resolve();
    };
    await alternate([{ rounds: 5 }, { rounds: 5 }], run, performance.now() - 1);
    expect(ran).toBe(2);
  });

  it("are shared out by weight, and pass on what is left", () => {
    expect(deadlines(100, 200, [1, 3, 1])).toEqual([120, 180, 200]);
    expect(deadlines(100, Infinity, [1, 3])).toEqual([Infinity, Infinity]);
  });
});

describe("checkDepartures()", () => {
  it("allows few near ties and nothing else", () => {
    expect(() => checkDepartures("v", [{ position: 3, lead: 0.4 }], 4)).not.toThrow();
    expect(() => checkDepartures("v", [{ position: 3, lead: 1.4 }], 64)).toThrow(
      "v answers wrongly: token 3 gives up a lead of 1.400, at most 1",
    );
    const many = Array.from({ length: 9 }, (_, position) => ({ position, lead: 0.3 }));
    expect(() => checkDepartures("v", many, 64)).toThrow("9 of 64 tokens are not the oracle's");
    const ties = many.map(({ position }) => ({ position, lead: 0.2 }));
    expect(() => checkDepartures("v", ties, 64)).not.toThrow();
  });
});

describe("a prompt", () => {
  it("has exactly as many tokens as asked for, whatever the vocabulary", async () => {
    for (const model of ["tiny-f16", "embedded"] as const) {
      const tokenizer = await tokenizerOf(modelPath(model));
      for (const tokens of [24, 127, 1000]) {
        const { text, ids } = promptOf(tokenizer, tokens);
        expect(ids).toHaveLength(tokens);
        expect(tokenizer.encodePieces([{ text, special: false }], { start: true })).toEqual(ids);
      }
    }
  });
});

describe("fileBytesPerToken()", () => {
  it("leaves out the embedding of an untied model, of which a token reads one row", () => {
    // 2 layers of 128 x (128 + 64 + 64 + 128 + 3 x 256) and an output of 512 x 128 in f16; norms in f32.
    const matrices = 2 * (2 * 128 * (128 + 64 + 64 + 128 + 3 * 256) + 2 * 128 * 4) + 2 * 512 * 128;
    expect(fileBytesPerToken(modelPath("tiny-f16"))).toBe(matrices + 128 * 4);
  });
});

describe("barChart()", () => {
  const chart = {
    title: "a < b",
    series: ["one", "two"],
    groups: [
      { label: "g", values: [10, undefined] },
      { label: "h", values: [1, 2] },
    ],
  };

  it("draws a bar for every value that is there, the longest of a group over the whole width", () => {
    const svg = barChart({ ...chart, scale: "each" });
    expect(svg).toContain("a &lt; b");
    // Background, three bars, two squares of the legend.
    expect(svg.match(/<rect/g)).toHaveLength(6);
    expect(svg.match(/width="520.0"/g)).toHaveLength(2);
    expect(svg).toContain('width="260.0"');
  });

  it("can draw all groups to one scale", () => {
    const svg = barChart({ ...chart, scale: "shared" });
    expect(svg.match(/width="520.0"/g)).toHaveLength(1);
    expect(svg).toContain('width="104.0"');
  });
});
