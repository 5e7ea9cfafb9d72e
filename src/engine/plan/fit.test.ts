import { describe, expect, it } from "vitest";
import { checkPlanFits, matchesModel, planForContext } from "./fit.js";
import { identityPlan } from "./plan.js";

const model = {
  names: ["tiny-q8_0", "Tiny Model"],
  fingerprint: "ab".repeat(32),
  layers: 2,
  kvHeads: 3,
  headDim: 16,
};
const plan = { ...identityPlan(model), model: "tiny*" };

describe("checkPlanFits", () => {
  it("accepts a name, a pattern and a fingerprint", () => {
    for (const rule of ["tiny-q8_0", "org/tiny_model", "tiny*", `sha256:${"ab".repeat(32)}`]) {
      expect(() => {
        checkPlanFits({ ...plan, model: rule }, model);
      }).not.toThrow();
    }
  });

  it("refuses another model, by name and by fingerprint", () => {
    expect(() => {
      checkPlanFits({ ...plan, model: "other" }, model);
    }).toThrow('plan: model is "other", which none of the model\'s names matches: tiny-q8_0, Tiny');
    expect(() => {
      checkPlanFits({ ...plan, model: `sha256:${"cd".repeat(32)}` }, model);
    }).toThrow(/plan: model is sha256:cdcd.*, the file's fingerprint is abab/);
  });

  it.each([
    ["layers", { layers: 3 }, "plan: layers is 2, the model (tiny-q8_0, Tiny Model) has 3"],
    ["kvHeads", { kvHeads: 1 }, "plan: kv_heads is 3, the model (tiny-q8_0, Tiny Model) has 1"],
    ["headDim", { headDim: 32 }, "plan: head_dim is 16, the model (tiny-q8_0, Tiny Model) has 32"],
  ])("refuses other %s", (_, change, message) => {
    expect(() => {
      checkPlanFits(plan, { ...model, ...change });
    }).toThrow(message);
  });
});

describe("matchesModel", () => {
  it.each([
    ["*", "anything", true],
    ["a*", "abc", true],
    ["*c", "abc", true],
    ["a*c", "abc", true],
    ["a*b*c", "axxbyyc", true],
    ["a*a", "a", false],
    ["ab*ba", "aba", false],
    ["a*b*b", "ab", false],
    ["a*b*b", "abb", true],
    ["a*x*c", "abc", false],
    ["abc", "abcd", false],
    ["Meta/Llama 3_1", "llama-3-1", true],
    ["a.c", "abc", false],
  ])("%s against %s is %s", (rule, name, matches) => {
    expect(matchesModel(rule, name)).toBe(matches);
  });
});

describe("planForContext", () => {
  const short = { ...plan, context: { minTokens: 0, maxTokens: 4096 } };
  const long = { ...plan, context: { minTokens: 4000, maxTokens: 32768 } };

  it("takes the first plan whose range holds the context, borders included", () => {
    expect(planForContext([short, long], 4096)).toBe(short);
    expect(planForContext([long, short], 4000)).toBe(long);
    expect(planForContext([short, long], 4097)).toBe(long);
    expect(planForContext([short, long], 32769)).toBeUndefined();
  });
});
