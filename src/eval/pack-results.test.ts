import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packResults, resultText } from "./pack-results.js";
import { readResults, resultLine, type MethodLine, type ResultLine } from "./samples-file.js";

function method(name: string, series = "a"): MethodLine {
  return {
    method: name,
    model: "seed",
    modelFingerprint: "ab",
    planFingerprint: name,
    backend: "cuda",
    bytesPerToken: 1_000,
    denseBytesPerToken: 8_192,
    keptFraction: 0.5,
    sink: 16,
    recent: 112,
    pagesPerStep: 0,
    origin: "learned",
    series,
    windowTokens: 4_096,
  };
}

function result(name: string, seed: number): ResultLine {
  return { method: name, task: "t", length: 1_024, seed, score: 0.5, text: "words", sample: "0f" };
}

describe("packed results", () => {
  let folder: string;
  let files: string[];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "leanedge-pack-"));
    files = [join(folder, "a.jsonl"), join(folder, "b.jsonl")];
    const write = (path: string, lines: readonly (MethodLine | ResultLine)[]): Promise<void> =>
      writeFile(path, lines.map(resultLine).join(""));
    await write(files[0] ?? "", [method("full"), result("full", 10), result("full", 9)]);
    await write(files[1] ?? "", [method("full"), method("k4"), method("sink"), result("sink", 9)]);
    await write(join(folder, "other.jsonl"), [method("sink", "b")]);
  });

  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("have all scores sample by sample, each method once, and no words", async () => {
    const out = join(folder, "packed.jsonl.gz");
    expect(await packResults(files, out)).toBe(3);
    const { methods, results } = readResults(await resultText(out), out);
    expect(methods).toEqual([method("full"), method("sink")]);
    expect(results).toEqual(
      [result("full", 9), result("sink", 9), result("full", 10)].map((line) => ({
        ...line,
        text: "",
      })),
    );
    await packResults(files, out, "named");
    const renamed = readResults(await resultText(out), out);
    expect(renamed.methods.map(({ model }) => model)).toEqual(["named", "named"]);
    await packResults(files, out);
    // A packed file is one to go on from.
    expect(await packResults([out], join(folder, "again.jsonl.gz"))).toBe(3);
    const sizes = await Promise.all([stat(out), stat(join(folder, "again.jsonl.gz"))]);
    expect(sizes[0].size).toBe(sizes[1].size);
  });

  it("refuse the same result twice, and a method of another series", async () => {
    const out = join(folder, "never.jsonl.gz");
    const [first = "", second = ""] = files;
    await expect(packResults([first, first], out)).rejects.toThrow(
      /a\.jsonl: t\/000001024\/000000010\/full is in another file, too/,
    );
    await expect(packResults([second, join(folder, "other.jsonl")], out)).rejects.toThrow(
      /other\.jsonl: sink has series "b", another file "a"/,
    );
  });
});
