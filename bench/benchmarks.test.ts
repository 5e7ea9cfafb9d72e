/** All benchmarks but decode (decode/decode.test.ts) in their tiny mode, and the command line. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { benchmarks } from "./benchmarks.js";
import { readRequest } from "./main.js";
import { isMet } from "./support/figures.js";
import type { Section } from "./support/section.js";

const timeoutMs = 240_000;
const document = new URL("../docs/benchmarks.md", import.meta.url);

function run(name: string): Promise<Section> {
  const benchmark = benchmarks.find((one) => one.name === name);
  if (benchmark === undefined) throw new Error(`no benchmark ${name}`);
  return benchmark.run({ rounds: 1, full: false, tiny: true, log: () => undefined });
}

describe("benchmarks in their tiny mode", () => {
  it(
    "threads: two threads answer as one does",
    async () => {
      const { markdown, figures } = await run("threads");
      expect(markdown).toMatch(/^\| tiny-f16 \| 2 \| \d/m);
      expect(figures[0]?.measured).toBeGreaterThan(0);
    },
    timeoutMs,
  );

  it(
    "long-context: every plan decodes behind the same cache, as the reference does",
    async () => {
      const { markdown, figures, images } = await run("long-context");
      expect(markdown.match(/^\| (dense|70 %)/gm)).toHaveLength(6);
      expect(figures).toHaveLength(1);
      expect(figures[0]?.measured).toBeGreaterThan(0);
      expect(images.get("bench-long-context.svg")).toContain("int4, 64 pages a step");
    },
    timeoutMs,
  );

  it(
    "archive: an engine takes exactly what plans say",
    async () => {
      const { figures } = await run("archive");
      const exact = figures.filter(({ sense }) => sense === "exactly");
      expect(exact).toHaveLength(5);
      expect(exact.every(isMet)).toBe(true);
      expect(exact.map(({ measured }) => measured)).toEqual([512, 320, 180, 100, 60]);
      expect(figures.filter(({ sense }) => sense === "at most")).toHaveLength(2);
    },
    timeoutMs,
  );

  it(
    "memory: a prompt's peak is known, and is no less than what it leaves",
    async () => {
      const { figures } = await run("memory");
      expect(figures).toHaveLength(2);
      for (const { measured } of figures) expect(measured).toBeGreaterThan(0);
      expect(figures.every(isMet)).toBe(true);
    },
    timeoutMs,
  );

  it(
    "restore: what is restored goes on as before, and sooner than a replay",
    async () => {
      const { figures } = await run("restore");
      expect(figures).toHaveLength(2);
      for (const { measured } of figures) expect(measured).toBeGreaterThan(1);
    },
    timeoutMs,
  );

  it("modules: all are there and under their ceiling", async () => {
    const { figures } = await run("modules");
    expect(figures.length).toBeGreaterThanOrEqual(2);
    expect(figures.every(isMet)).toBe(true);
  });
});

describe("the command line", () => {
  it("takes all benchmarks, or those that are named", () => {
    expect(readRequest([])).toEqual({
      names: benchmarks.map(({ name }) => name),
      ...{ rounds: 5, full: false, tiny: false, write: false, minutes: Infinity },
    });
    const some = ["--only", "decode,modules", "--rounds", "2", "--models", "embedded", "--write"];
    expect(readRequest(some)).toMatchObject({
      names: ["decode", "modules"],
      ...{ rounds: 2, models: ["embedded"], write: true },
    });
  });

  it("refuses what is not there", () => {
    expect(() => readRequest(["--only", "abacus"])).toThrow("no benchmark abacus: decode");
    expect(() => readRequest(["--rounds", "0"])).toThrow("0 rounds, at least 1");
    expect(() => readRequest(["--minutes", "0"])).toThrow("0 minutes, must be above 0");
    expect(() => readRequest(["--tiny", "--write"])).toThrow("are not written down");
  });

  it("has a place in the document for every benchmark", () => {
    const text = readFileSync(document, "utf8");
    for (const name of ["targets", ...benchmarks.map((one) => one.name)]) {
      expect(text.split(`<!-- ${name}:start -->`)).toHaveLength(2);
      expect(text.split(`<!-- ${name}:end -->`)).toHaveLength(2);
    }
  });
});
