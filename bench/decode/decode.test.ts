/** The benchmark in its tiny mode: every variant answers, answers right, and is timed. */
import { execFileSync } from "node:child_process";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { model26m, writeRandomModel } from "../../test/oracle/random-model.js";
import { Oracle } from "../../test/oracle/oracle.js";
import { llamaCpp } from "../../test/peers/llama-cpp.js";
import { missing, stories260k, temporaryFolder, titled } from "../../test/peers/peers.js";
import { checkAnswer } from "./check-answer.js";
import { chromiumInstalled } from "./chromium.js";
import { runBenchmark } from "./main.js";
import type { VariantName } from "./main.js";
import { reportMarkdown } from "./report.js";

const folder = temporaryFolder("bench-decode");
const modelPath = folder.path("tiny.gguf");
const timeoutMs = 240_000;

const browser = { present: chromiumInstalled, remedy: "needs Chromium" };

beforeAll(() => {
  writeRandomModel(modelPath, {
    // Exact enough that no token of so short an answer is a near tie.
    ...model26m("F16"),
    layers: 2,
    dim: 128,
    heads: 4,
    kvHeads: 2,
    headDim: 32,
    ffDim: 256,
    vocabulary: 512,
    context: 256,
  });
});
afterAll(() => folder.remove());

async function expectReport(
  variants: readonly VariantName[],
  rounds = 1,
  model = modelPath,
): Promise<void> {
  const run = await runBenchmark({
    modelPath: model,
    prompt: "Once upon a time",
    generate: 8,
    rounds,
    warmups: 1,
    variants,
    command: "tiny",
    log: () => undefined,
  });
  expect(run.variants.map((variant) => [variant.name, variant.rounds.length])).toEqual(
    variants.map((name) => [name, rounds]),
  );
  for (const variant of run.variants) {
    for (const { prefillMs, decodeMs } of variant.rounds) {
      expect(prefillMs).toBeGreaterThan(0);
      expect(decodeMs).toBeGreaterThan(0);
    }
  }
  for (const name of variants) expect(reportMarkdown(run)).toContain(`| ${name} | `);
}

describe("the decode benchmark", () => {
  it("runs in Node", () => expectReport(["node"], 2), timeoutMs);

  it("runs in workerd", () => expectReport(["workerd"]), timeoutMs);

  it.skipIf(missing(llamaCpp))(
    titled("runs in native llama.cpp", llamaCpp),
    () => expectReport(["llama.cpp"]),
    timeoutMs,
  );

  // wllama fails on text that is not UTF-8, which random weights give: it needs a real model.
  it.skipIf(missing(llamaCpp, browser, stories260k))(
    titled("runs in wllama", llamaCpp, browser, stories260k),
    () => expectReport(["node", "wllama"], 1, stories260k.path),
    timeoutMs,
  );

  it("refuses an answer that the model does not give", () => {
    const oracle = new Oracle(modelPath);
    expect(() => checkAnswer("made up", oracle, [1, 2], [7, 8, 9, 10])).toThrow(
      /^made up answers wrongly: token \d gives up a lead of/,
    );
  });

  it("stops on a variant that fails", async () => {
    const options = { modelPath, generate: 2, rounds: 1, warmups: 0, command: "", log: () => {} };
    // The prompt of the full benchmark is longer than this model's window.
    await expect(runBenchmark({ ...options, variants: ["node"] })).rejects.toThrow(
      "variant node ended with 1",
    );
  });

  it("has a command line that names its variants", () => {
    const main = new URL("main.ts", import.meta.url).pathname;
    expect(() =>
      execFileSync(process.execPath, ["--import", "tsx", main, "--variants", "abacus"], {
        stdio: "pipe",
      }),
    ).toThrow("no variant abacus: node, workerd, wllama, llama.cpp");
  });
});
