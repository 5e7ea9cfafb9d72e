import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embeddedPlan } from "../../test/support/embedded-facts.js";
import { planCost } from "../engine/plan/cost.js";
import { embedded, embeddedFile, embeddedPlanFile } from "../embedded-model.js";
import { readPlan } from "../cli/plan-files.js";
import { packagePath } from "../cli/repository.js";
import { openFileSource } from "../engine/gguf/file-source.js";
import { planFingerprint } from "../engine/plan/fingerprint.js";
import { loadEngine } from "../engine/load-engine.js";
import { readEngineModule } from "../engine/wasm/node-module.js";
import { choiceDefault, runEvaluation, writeSamples, type RunRequest } from "./index.js";
import { parseMethod } from "./methods.js";
import { negativeLogLikelihood } from "./reading.js";
import { readResults, readSamples } from "./samples-file.js";

const modelPath = packagePath(embeddedFile);
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
  const { plan } = await readPlan(packagePath(embeddedPlanFile()));
  request = {
    modelPath,
    methods: [plan.name, "think-70"],
    plans: new Map([[plan.name, plan]]),
    choice,
    samplesPath: undefined,
    out: join(folder, "results.jsonl"),
    memoryBytesMax: 128 * 1024 * 1024,
  };
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** Mean loss of the last ids: each is predicted behind a prompt of all ids before it. */
async function denseLoss(ids: readonly number[], targets: number): Promise<number> {
  const source = await openFileSource(modelPath);
  const module = await readEngineModule();
  const { engine } = await loadEngine({ source, module, sequencesMax: 1 });
  await source.close();
  let sum = 0;
  for (let at = ids.length - targets; at < ids.length; at++) {
    const sequence = engine.createSequence();
    engine.append(sequence, "prompt", ids.slice(0, at));
    engine.stepSync?.([{ sequence, workMax: 1 << 20, sample: true }]);
    sum += negativeLogLikelihood(engine.logits(sequence), ids[at] ?? NaN);
    engine.freeSequence(sequence);
  }
  engine.close();
  return sum / targets;
}

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
    expect(made).toBe(7);
    expect(progress).toEqual(Array.from({ length: 8 }, (_, at) => `${at + 2}/9`));
    const { methods, results } = readResults(await readFile(request.out, "utf8"), request.out);
    expect(methods.map(({ method }) => method)).toEqual(["full", embedded.plan, "think-70"]);
    expect(methods.map(({ bytesPerToken }) => bytesPerToken)).toEqual([
      8_192,
      planCost(embeddedPlan()).archiveBytesPerToken,
      5_120,
    ]);
    expect(methods[1]?.keptFraction).toBeCloseTo(0.3, 1);
    expect(results.map(({ method, task }) => `${method} ${task}`)).toEqual(
      choice.tasks.flatMap((task) => methods.map(({ method }) => `${method} ${task}`)),
    );
    for (const result of results) expect(result.sample).toMatch(/^[0-9a-f]{16}$/);
    // A model that reads its prompt finds one number in 256 tokens.
    expect(results[0]?.score).toBe(1);
    expect(await runEvaluation(request)).toBe(0);
  });

  it("gives the same replies to the samples of a file", async () => {
    const samplesPath = join(folder, "samples.jsonl");
    const small = { ...choice, tasks: ["single-1"] };
    expect(await writeSamples(modelPath, small, samplesPath)).toBe(1);
    expect(readSamples(await readFile(samplesPath, "utf8"), "f")).toHaveLength(1);
    const out = join(folder, "from-file.jsonl");
    expect(await runEvaluation({ ...request, samplesPath, out })).toBe(3);
    const texts = async (path: string): Promise<string[]> =>
      readResults(await readFile(path, "utf8"), path)
        .results.filter(({ task }) => task === "single-1")
        .map(({ text }) => text);
    expect(await texts(out)).toEqual(await texts(request.out));
  });

  it("measures how likely a text is, as its own logits say", async () => {
    const samplesPath = join(folder, "text.jsonl");
    const ids = Array.from({ length: 240 }, (_, at) => 300 + ((at * 37) % 60));
    const line = { task: "perplexity", length: 240, ids, answers: [], score: "loss", seed: 0 };
    await writeFile(samplesPath, JSON.stringify({ ...line, max_tokens: 4 }));
    const out = join(folder, "losses.jsonl");
    await runEvaluation({ ...request, methods: ["sink"], samplesPath, out });
    const { results } = readResults(await readFile(out, "utf8"), out);
    const [full, sink] = results;
    expect(full?.score).toBeCloseTo(Math.exp(-(full?.loss ?? NaN)), 12);
    expect(sink?.loss).not.toBeCloseTo(full?.loss ?? NaN, 3);
    expect(full?.loss).toBeCloseTo(await denseLoss(ids, 4), 2);
  });

  it("takes more methods than an engine has plans, each under its own plan", async () => {
    const out = join(folder, "many.jsonl");
    const methods = ["k8", "k4", "k2", "v8", "v4", "v2", "sink", "low-50", "low-70", "k8"];
    const one = { ...choice, tasks: ["single-1"] };
    expect(await runEvaluation({ ...request, methods, choice: one, out })).toBe(10);
    const { methods: lines } = readResults(await readFile(out, "utf8"), out);
    expect(lines.map(({ method }) => method)).toEqual(["full", ...methods.slice(0, -1)]);
    const model = { layers: 8, kvHeads: 4, headDim: 64 };
    for (const { method, planFingerprint: hash } of lines) {
      expect(hash).toBe(await planFingerprint(parseMethod(method, model, new Map()).plan));
    }
    const many = Array.from({ length: 50 }, (_, at) => `quest-${at + 1}`);
    await expect(runEvaluation({ ...request, methods: many, out })).rejects.toThrow(
      "50 methods, at most 49 at once",
    );
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
