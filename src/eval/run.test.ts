import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readPlan } from "../cli/plan-files.js";
import { packagePath } from "../cli/repository.js";
import { choiceDefault, reportOf, runEvaluation, writeSamples, type RunRequest } from "./index.js";
import { readResults, readSamples } from "./samples-file.js";

const modelPath = packagePath("models/leanedge-seed-29m-q4_0.gguf");
const choice = {
  ...choiceDefault,
  tasks: ["single-1", "frequent-words", "session"],
  lengths: [256],
  distances: [2],
  count: 1,
};

let folder: string;
let request: RunRequest;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-eval-"));
  const { plan } = await readPlan(packagePath("models/leanedge-seed-29m.leank-70-int4.json"));
  request = {
    modelPath,
    plans: [plan],
    choice,
    samplesPath: undefined,
    out: join(folder, "results.jsonl"),
    memoryBytesMax: 128 * 1024 * 1024,
  };
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

describe("an evaluation of the embedded model", () => {
  it("answers every sample under every plan, and goes on where it was stopped", async () => {
    const stop = new AbortController();
    const stopped = runEvaluation({
      ...request,
      signal: stop.signal,
      onProgress: (done) => {
        if (done === 2) stop.abort(new Error("stopped by the test"));
      },
    });
    await expect(stopped).rejects.toThrow("stopped by the test");
    // As a process leaves it that was killed while it wrote.
    await appendFile(request.out, '{"method":"full","ta');
    const progress: string[] = [];
    const made = await runEvaluation({
      ...request,
      onProgress: (done, total) => progress.push(`${done}/${total}`),
    });
    expect(made).toBe(4);
    expect(progress).toEqual(["0/6", "1/6", "2/6", "3/6", "4/6", "5/6", "6/6"]);
    const { methods, results } = readResults(await readFile(request.out, "utf8"), request.out);
    expect(methods.map(({ method }) => method)).toEqual(["full", "leank-70-int4"]);
    expect(methods.map(({ bytesPerToken }) => bytesPerToken)).toEqual([8_192, 1_340]);
    expect(methods[1]?.keptFraction).toBeCloseTo(0.3, 1);
    expect(results.map(({ method, task }) => `${method} ${task}`)).toEqual(
      choice.tasks.flatMap((task) => [`full ${task}`, `leank-70-int4 ${task}`]),
    );
    for (const result of results) expect(result.sample).toMatch(/^[0-9a-f]{16}$/);
    // A model that reads its prompt finds one number in 256 tokens.
    expect(results[0]?.score).toBe(1);
    expect(await runEvaluation(request)).toBe(0);
    const report = await reportOf([request.out]);
    expect(report).toMatch(/^\| leank-70-int4 \| 1340 \| 6\.1 \| 30 % \| /m);
    expect(report).toContain("A first look: 3 pairs");
  });

  it("gives the same replies to the samples of a file", async () => {
    const samplesPath = join(folder, "samples.jsonl");
    const small = { ...choice, tasks: ["single-1"] };
    expect(await writeSamples(modelPath, small, samplesPath)).toBe(1);
    expect(readSamples(await readFile(samplesPath, "utf8"), "f")).toHaveLength(1);
    const out = join(folder, "from-file.jsonl");
    expect(await runEvaluation({ ...request, samplesPath, out })).toBe(2);
    const texts = async (path: string): Promise<string[]> =>
      readResults(await readFile(path, "utf8"), path)
        .results.filter(({ task }) => task === "single-1")
        .map(({ text }) => text);
    expect(await texts(out)).toEqual(await texts(request.out));
  });

  it("refuses to go on with another series, and a sample beyond the context", async () => {
    const other = { ...request, choice: { ...choice, series: "other" } };
    await expect(runEvaluation(other)).rejects.toThrow(
      /full has series "leanedge" there, and "other" now: name another file/,
    );
    const long = {
      ...request,
      out: join(folder, "long.jsonl"),
      choice: { ...choice, tasks: ["single-1"], lengths: [32_768] },
    };
    await expect(runEvaluation(long)).rejects.toThrow(
      /^single-1\/32768\/0 takes 32\d{3} tokens, the model's context is \d+$/,
    );
  });

  it("refuses results of other samples of the same names", async () => {
    const out = join(folder, "changed.jsonl");
    const text = await readFile(request.out, "utf8");
    await writeFile(out, text.replace(/"sample":"[0-9a-f]{16}"/, '"sample":"0000000000000000"'));
    await expect(runEvaluation({ ...request, out })).rejects.toThrow(
      /^full\/single-1\/256\/0 was made from sample 0{16}, this one is /,
    );
  });
});
