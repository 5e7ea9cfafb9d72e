import { existsSync, readFileSync, readdirSync } from "node:fs";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packagePath } from "../../cli/repository.js";
import { parsePlan } from "../../engine/plan/parse.js";
import type { ResultLine, Results } from "../samples-file.js";
import { reportOf, writeReport } from "./index.js";
import { keptByBand, type PublishedRates } from "./masks.js";
import { renderSection } from "./render.js";
import { lengthChart } from "./score-plots.js";
import { common, sectionsOf } from "./sections.js";
import { method, results } from "./testing/results.js";
import { wholeCacheRatio } from "./tables.js";

function losses(name: string, values: number[]): ResultLine[] {
  return results(name, "perplexity", 1_024, values).map((line) => ({
    ...line,
    loss: line.score,
    score: Math.exp(-line.score),
  }));
}

function render(files: readonly Results[]): string {
  return sectionsOf(files)
    .flatMap((section) => renderSection(section, ["![chart](images/chart.svg)"]))
    .join("\n\n");
}

describe("report", () => {
  const methods = [method("half", 500), method("full", 1_000)];

  it("says what methods take, what they score, and what they lose on the same samples", () => {
    const report = render([
      {
        methods,
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
    expect(report).toContain("| full | 100 % | all | 1000 | 1.0 | 1.00 | 1.00 | learned |");
    expect(report).toContain("| half | 50 % | all | 500 | 2.0 | 1.94 | 1.98 | learned |");
    expect(report).toMatch(/^\| full \| 1000 \| 88\.9 \([\d.]+ to 100\.0\) \| {2}\| 9 \|$/m);
    expect(report).toMatch(/^\| half \| 500 \| 88\.9 \(.*\) \| 0\.0 \(0\.0 to 0\.0\) \| 9 \|$/m);
    expect(report).toContain("| method | 1024 | 2048 |");
    expect(report).toMatch(/^\| full \| 100\.0 \(100\.0 to 100\.0\) \| 75\.0 \(.*\) \|$/m);
    expect(report).toMatch(/^\| half \| 0\.0 \(0\.0 to 0\.0\) \| 0\.0 \(0\.0 to 0\.0\) \|$/m);
    expect(report).toContain("### By task, 2048 tokens");
    expect(report).toContain("| full | 75.0 | 4 |");
    expect(report).toContain("### Sessions, by turns between telling and asking");
    expect(report).toContain("A first look: 9 pairs");
    expect(report).not.toContain("Perplexity");
  });

  it("shows the tasks that the whole cache answers once more alone", () => {
    const files = [
      {
        methods,
        results: [
          ...results("full", "easy", 1_024, [1, 1]),
          ...results("half", "easy", 1_024, [1, 0]),
          ...results("full", "hard", 1_024, [0, 0.5]),
          ...results("half", "hard", 1_024, [0, 0.5]),
        ],
      },
    ];
    const report = render(files);
    expect(report).toMatch(/^\| half \| 500 \| 37\.5 .* \| -25\.0 .* \| 4 \|$/m);
    const [, answered = ""] = report.split("### Scores on the tasks that the whole cache answers");
    expect(answered).toContain("1 of 2, those with 50.0 points or more: `easy`.");
    expect(answered).toMatch(/^\| half \| 500 \| 50\.0 .* \| -50\.0 .* \| 2 \|$/m);
    const easy = files.map((file) => ({
      ...file,
      results: file.results.filter(({ task }) => task === "easy"),
    }));
    expect(render(easy)).not.toContain("that the whole cache answers");
  });

  it("keeps what is beyond the model's window apart, and names it", () => {
    const files = [
      {
        methods: methods.map((line) => ({ ...line, windowTokens: 2_048 })),
        results: [
          ...results("full", "single-1", 2_048, [1, 1]),
          ...results("half", "single-1", 2_048, [1, 1]),
          ...results("full", "session", 4_000, [1]),
          ...results("full", "single-1", 4_096, [0, 0]),
          ...results("half", "single-1", 4_096, [0, 0]),
        ],
      },
    ];
    const report = render(files);
    const [above = "", below = ""] = report.split(
      "### Extrapolated: beyond the 2048 tokens that the model was trained to read",
    );
    expect(above).toMatch(/^\| full \| 1000 \| 100\.0 .* \| 3 \|$/m);
    expect(above).not.toContain("4096");
    expect(below).toContain("| method | 4096 |");
    expect(below).toMatch(/^\| half \| 500 \| 0\.0 .* \| 2 \|$/m);
    expect(below).toContain("#### By task, 4096 tokens, extrapolated");
    // Where no file says how long the window is, nothing is known to be beyond it.
    expect(render([{ methods, results: files[0]?.results ?? [] }])).not.toContain("Extrapolated");
  });

  it("compares lengths that have the same tasks, and says where others are listed", () => {
    const [section] = sectionsOf([
      {
        methods,
        results: ["half", "full"].flatMap((name) => [
          ...[1_024, 2_048].flatMap((length) =>
            ["single-1", "tracking"].flatMap((task) => results(name, task, length, [0.5])),
          ),
          ...results(name, "single-1", 8_192, [1]),
        ]),
      },
    ]);
    if (section === undefined) throw new Error("one section expected");
    expect(JSON.stringify(lengthChart(section)?.data)).not.toContain("8192");
    expect(JSON.stringify(lengthChart(section)?.data)).toContain("2048");
    expect(renderSection(section, []).join("\n")).toContain("Not every length has the same tasks");
  });

  it("shows the sign of a loss and of a gain", () => {
    const report = render([
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

  it("shows what pruning costs by the share of K that goes, a line a family", () => {
    const names = ["full", "leank-50", "leank-90", "leank-even-50", "leank-70+k4+v4", "bytes-80"];
    const report = render([
      {
        methods: names.map((name, at) => method(name, 1_000 - 100 * at)),
        results: [
          ...names.flatMap((name) => results(name, "t", 1_024, [name === "leank-90" ? 0 : 1, 1])),
          // Sessions do not count.
          ...results("full", "session", 1, [1]),
          ...results("leank-50", "session", 1, [0]),
        ],
      },
    ]);
    const [, part = ""] = report.split("### By the share of K that goes");
    expect(part).toContain("(2 pairs)");
    expect(part).toContain("| method | 50 % | 90 % |");
    expect(part).toMatch(/^\| leank \| 0\.0 \(.*\); 900 \| -50\.0 \(.*\); 800 \|$/m);
    expect(part).toMatch(/^\| leank-even \| 0\.0 \(.*\); 700 \| {2}\|$/m);
    expect(part.split("\n\n")[2]).not.toMatch(/k4|bytes-80/);
  });

  it("says where scores are means over other samples", () => {
    const asked = (count: number): string =>
      render([
        {
          methods,
          results: [
            ...results("full", "t", 1_024, [1, 1, 1]),
            ...results("half", "t", 1_024, Array<number>(count).fill(1)),
          ],
        },
      ]);
    expect(asked(2)).toContain("means over other samples");
    expect(asked(3)).not.toContain("means over other samples");
  });

  it("has perplexities, and what they grow by on the same texts", () => {
    const report = render([
      {
        methods,
        results: [...losses("full", [3, 4, 5]), ...losses("half", [3.01, 4.01, 5.01])],
      },
    ]);
    expect(report).toMatch(/^\| full \| 54\.6 \(.*\) \| {2}\| 3 \|$/m);
    expect(report).toMatch(/^\| half \| 55\.1 \(.*\) \| \+1\.0 \(\+1\.0 to \+1\.0\) \| 3 \|$/m);
    expect(report).not.toContain("### Scores");
  });

  it("puts files of one model and engine together, and keeps their series apart", () => {
    const other = methods.map((line) => ({ ...line, series: "b" }));
    const sections = sectionsOf([
      { methods, results: results("full", "t", 1, [1]) },
      { methods: other, results: results("half", "t", 1, [0]) },
      { methods: [{ ...method("full", 1), backend: "reference" }], results: [] },
    ]);
    expect(sections.map(({ backend }) => backend)).toEqual(["wasm", "reference"]);
    expect(sections[0]?.methods.map((line) => line.method)).toEqual(["full", "half"]);
    expect(sections[0]?.series).toEqual(["a", "b"]);
    expect(common(sections[0]?.replies ?? [], ["full", "half"])).toEqual([]);
  });

  it("refuses replies of a method that no line explains, two models, and two plans of a name", () => {
    const unknown = { methods: [method("full", 1)], results: results("x", "t", 1, [1]) };
    expect(() => sectionsOf([unknown])).toThrow("no line says what method x is");
    const two = {
      methods: [method("full", 1), { ...method("b", 1), model: "other" }],
      results: [],
    };
    expect(() => sectionsOf([two])).toThrow("results of 2 models in one file, 1 expected");
    const changed = { methods: [{ ...method("half", 1), planFingerprint: "x" }], results: [] };
    expect(() => sectionsOf([{ methods, results: [] }, changed])).toThrow(
      "seed, engine wasm: half has two values of planFingerprint",
    );
  });

  it("takes a cache as large as it is where nothing is archived", () => {
    expect(wholeCacheRatio(method("x", 100), 100)).toBe(1);
  });
});

describe("the committed report", () => {
  const folder = packagePath("docs/evaluation");
  const plans = packagePath("models");

  // Tens of thousands of results, and every interval from 2,000 resamples.
  it("is what its results give", { timeout: 180_000 }, async () => {
    const files = await reportOf(folder, plans);
    expect(files.size).toBeGreaterThan(3);
    for (const [path, text] of files) {
      expect(existsSync(join(folder, path)), path).toBe(true);
      expect(readFileSync(join(folder, path), "utf8") === text, `${path} is current`).toBe(true);
    }
    for (const name of readdirSync(join(folder, "images"))) {
      expect(files.has(`images/${name}`), `${name} belongs to a result`).toBe(true);
    }
  });

  describe("elsewhere", () => {
    let copy: string;
    beforeAll(async () => {
      copy = await mkdtemp(join(tmpdir(), "leanedge-report-"));
      const [name = ""] = readdirSync(join(folder, "results")).filter((one) =>
        /-needles/.test(one),
      );
      await cp(join(folder, "results", name), join(copy, "results", name));
    });
    afterAll(() => rm(copy, { recursive: true, force: true }));

    it("needs results only, and has fewer charts then", { timeout: 60_000 }, async () => {
      const written = await writeReport(copy);
      expect(written).toContain("results.md");
      expect(written.some((path) => path.endsWith("-bytes.svg"))).toBe(true);
      expect(written.some((path) => path.endsWith("-factors.svg"))).toBe(false);
      await writeFile(join(copy, "results", "bad.jsonl"), '{"method":"full"}\n');
      await expect(reportOf(copy)).rejects.toThrow(/bad\.jsonl:1: model is missing/);
    });
  });

  const shared = "../shared/plans";
  const missing = !existsSync(shared) && process.env["LEANEDGE_CI"] !== "1";
  it.skipIf(missing)(
    "has the rates of the published masks (skipped without ../shared/plans)",
    () => {
      const text = readFileSync(join(folder, "masks", "published.json"), "utf8");
      const published = JSON.parse(text) as (PublishedRates & { readonly file: string })[];
      expect(published).toHaveLength(2);
      for (const { file, keptByBand: rates } of published) {
        const plan = parsePlan(readFileSync(join(shared, file), "utf8"), basename(file, ".json"));
        expect(rates).toEqual(keptByBand(plan).map((rate) => Math.round(1e4 * rate) / 1e4));
      }
    },
  );
});
