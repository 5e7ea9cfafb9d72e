/** The benchmark in its tiny mode: every variant answers, answers right, and is timed. */
import { describe, expect, it } from "vitest";
import { needsChromium } from "../../test/support/requirement.js";
import { llamaCpp } from "../../test/peers/llama-cpp.js";
import { missing, titled } from "../../test/peers/peers.js";
import { Judge } from "../support/judge.js";
import { modelPath } from "../support/models.js";
import { casesOf } from "./cases.js";
import type { VariantName } from "./cases.js";
import { runDecode } from "./index.js";

const timeoutMs = 240_000;
const browser = { present: !needsChromium.missing, remedy: "needs Chromium" };

async function expectSection(variants: readonly VariantName[], rounds = 1): Promise<void> {
  const lines: string[] = [];
  const options = {
    rounds,
    full: false,
    tiny: true,
    variants,
    log: (line: string) => void lines.push(line),
  };
  const section = await runDecode(options);
  expect(lines).toHaveLength(rounds * variants.length);
  for (const name of variants) expect(section.markdown).toMatch(new RegExp(`\\| ${name} \\| \\d`));
  for (const { measured } of section.figures) expect(measured).toBeGreaterThan(0);
  expect(section.images.get("bench-decode.svg")).toContain("</svg>");
}

describe("the decode benchmark", () => {
  it("runs in Node", () => expectSection(["node"], 2), timeoutMs);

  it("runs in workerd", () => expectSection(["workerd"]), timeoutMs);

  it.skipIf(missing(llamaCpp))(
    titled("runs in native llama.cpp", llamaCpp),
    () => expectSection(["llama.cpp"]),
    timeoutMs,
  );

  it.skipIf(missing(llamaCpp, browser))(
    titled("runs in wllama, next to Node", llamaCpp, browser),
    () => expectSection(["node", "wllama"]),
    timeoutMs,
  );

  it("refuses an answer that the model does not give", () => {
    const judge = new Judge(modelPath("tiny-f16"));
    expect(() => judge.check("made up", [1, 300], [7, 8, 9, 10])).toThrow(
      /^made up answers wrongly: token \d gives up a lead of/,
    );
  });

  it("covers every row of its table: models, prompts, peers", () => {
    const cases = casesOf({ rounds: 5, full: false, tiny: false, log: () => undefined });
    expect(cases.map(({ model, prompts }) => [model, prompts])).toEqual([
      ["embedded", [127]],
      ["26m-q8_0", [127, 1000]],
      ["26m-q4_0", [127]],
      ["222m-q8_0", [127, 1000]],
      ["222m-q4_0", [127]],
    ]);
    for (const { variants } of cases) {
      const names = variants.map(({ name }) => name);
      expect(names).toEqual(expect.arrayContaining(["node", "wllama", "llama.cpp"]));
      const [ours] = variants;
      expect(ours).toMatchObject({ name: "node", rounds: 5 });
      expect(ours?.tasks[0]).toEqual({ prompt: 127, generate: 64 });
    }
  });

  it("lets wllama do everything with large models only when all is wanted", () => {
    const quick = { rounds: 5, full: false, tiny: false, log: () => undefined };
    const plansOf = (full: boolean) => casesOf({ ...quick, full, models: ["222m-q8_0"] });
    const slowOf = (full: boolean) =>
      plansOf(full)[0]?.variants.find(({ name }) => name === "wllama");
    expect(slowOf(false)).toMatchObject({ rounds: 3, tasks: [{ prompt: 127 }, undefined] });
    const [ours, wllama] = [0, 2].map(
      (at) => casesOf({ ...quick, models: ["26m-q8_0"] })[0]?.variants[at]?.tasks[1],
    );
    expect([ours?.roundsMax, wllama?.roundsMax]).toEqual([undefined, 3]);
    expect(slowOf(true)).toMatchObject({ rounds: 5, tasks: [{ prompt: 127 }, { prompt: 1000 }] });
  });

  it("runs only what is named", () => {
    const options = { rounds: 1, full: false, tiny: false, log: () => undefined };
    expect(casesOf({ ...options, models: ["embedded"], variants: ["workerd"] })).toMatchObject([
      { model: "embedded", variants: [{ name: "workerd" }] },
    ]);
    expect(() => casesOf({ ...options, variants: ["abacus"] })).toThrow(
      "no variant abacus: node, workerd, wllama, llama.cpp",
    );
  });
});
