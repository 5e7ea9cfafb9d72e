import { describe, expect, it } from "vitest";
import type { MethodLine, ResultLine, Results } from "../samples-file.js";
import { renderCheck, splitSections } from "./cross-check.js";
import { sectionsOf } from "./sections.js";
import { method, results } from "./testing/results.js";

/** Results of a backend, each with the hash and the words of its seed. */
function of(backend: string, lines: readonly ResultLine[], change?: Partial<MethodLine>): Results {
  const names = [...new Set(lines.map((line) => line.method))];
  return {
    methods: names.map((name) => ({ ...method(name, 500), backend, ...change })),
    results: lines.map((line) => ({ sample: `hash ${line.seed}`, ...line, text: "words" })),
  };
}

const many = of("cuda", [
  ...results("full", "t", 1_024, [1, 1, 1]),
  ...results("half", "t", 1_024, [1, 0, 1]),
]);
const few = [...results("full", "t", 1_024, [1, 1]), ...results("half", "t", 1_024, [1, 1])];

describe("evaluators beside each other", () => {
  it("are compared where one has all of the other's replies, whatever the series are named", () => {
    const { sections, checks } = splitSections(
      sectionsOf([many, of("wasm", few, { series: "other" })]),
    );
    expect(sections.map(({ backend }) => backend)).toEqual(["cuda"]);
    expect(checks).toHaveLength(1);
    const [check] = checks;
    if (check === undefined) throw new Error("a check expected");
    const text = renderCheck(check).join("\n\n");
    expect(text).toContain("## seed: engine wasm beside engine cuda");
    expect(text).toMatch(/^\| full \| 2 \| 2 \| 2 \| 0\.0 \(0\.0 to 0\.0\) \|$/m);
    expect(text).toMatch(/^\| half \| 2 \| 1 \| 2 \| \+50\.0 \(.*\) \|$/m);
    expect(text).toMatch(/^\| all \| 4 \| 3 \| 4 \| \+25\.0 \(.*\) \|$/m);
  });

  it("count no words where results are packed without them", () => {
    const packed = { ...many, results: many.results.map((line) => ({ ...line, text: "" })) };
    const [check] = splitSections(sectionsOf([packed, of("wasm", few)])).checks;
    if (check === undefined) throw new Error("a check expected");
    expect(renderCheck(check).join("\n\n")).not.toContain("same words");
  });

  it.each([
    ["another reply", of("wasm", [...few, ...results("half", "t", 2_048, [1])])],
    ["another plan", of("wasm", few, { planFingerprint: "other" })],
    ["another model", of("wasm", few, { modelFingerprint: "cd" })],
    ["no hash", { ...of("wasm", few), results: few }],
  ])("stand apart where there is %s", (_, other) => {
    const { sections, checks } = splitSections(sectionsOf([many, other]));
    expect(sections.map(({ backend }) => backend)).toEqual(["cuda", "wasm"]);
    expect(checks).toEqual([]);
  });
});
