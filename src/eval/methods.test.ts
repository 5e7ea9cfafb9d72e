import { describe, expect, it } from "vitest";
import { planFingerprint } from "../engine/plan/fingerprint.js";
import { identityPlan, type CachePlan } from "../engine/plan/plan.js";
import { evenWidth, parseMethod } from "./methods.js";

const geometry = { layers: 2, kvHeads: 2, headDim: 64 };
const all = Array.from({ length: 64 }, (_, channel) => channel);
const some = [...all.slice(8, 16), ...all.slice(40, 48)];

const identity = identityPlan(geometry);
const learned: CachePlan = {
  ...identity,
  name: "leank-50",
  source: "learned",
  recent: 200,
  kept: [
    [some, all],
    [all, []],
  ],
};
const heads: CachePlan = {
  ...identity,
  name: "duo-50",
  source: "gates",
  kept: [
    [all, []],
    [[], all],
  ],
};
const plans = new Map([learned, heads].map((plan) => [plan.name, plan]));

describe("methods", () => {
  it("keep everything, nothing, or the slowest pairs", () => {
    expect(parseMethod("full", geometry, plans).plan.kept).toEqual(identity.kept);
    expect(parseMethod("sink", geometry, plans).plan.kept.flat(2)).toEqual([]);
    const { kept } = parseMethod("low-70", geometry, plans).plan;
    expect(kept[1]?.[1]).toEqual([...all.slice(24, 32), ...all.slice(56)]);
  });

  it("take plan files by name, zones included, and change their storage and pages", () => {
    const { name, origin, plan } = parseMethod("leank-50+k4+v2+quest-8", geometry, plans);
    expect([name, origin, plan.name]).toEqual([
      "leank-50+k4+v2+quest-8",
      "learned",
      "leank-50_k4_v2_quest-8",
    ]);
    expect(plan.kept).toEqual(learned.kept);
    expect(plan.recent).toBe(200);
    expect(plan.storage).toEqual({ k: "int4", v: "int2" });
    expect(plan.pageSelection).toEqual({ pagesPerStep: 8, pagesFloor: 8 });
    expect(parseMethod("k8", geometry, plans).plan.storage).toEqual({ k: "int8", v: "f16" });
  });

  it("keep what all of their parts keep", () => {
    const { origin, plan } = parseMethod("leank-50+duo-50", geometry, plans);
    expect(plan.kept).toEqual([
      [some, []],
      [[], []],
    ]);
    expect(origin).toBe("learned; gates");
  });

  it("choose channels by the prompt, under a plan of the same bytes", () => {
    const { plan, promptWidth } = parseMethod("think-70+k4+v4", geometry, plans);
    expect(promptWidth).toBe(16);
    expect(plan.kept.flat().map(({ length }) => length)).toEqual([16, 16, 16, 16]);
    expect(plan.storage).toEqual({ k: "int4", v: "int4" });
    expect([0, 0.3, 0.5, 0.8, 0.95].map((pruned) => evenWidth(64, pruned))).toEqual([
      64, 48, 32, 16, 16,
    ]);
    for (const name of ["think-70+leank-50", "leank-50+think-70"]) {
      expect(() => parseMethod(name, geometry, plans)).toThrow(/go with no other choice/);
    }
  });

  it("have the fingerprints that the training package computes", async () => {
    const model = { layers: 8, kvHeads: 4, headDim: 64 };
    const found = ["full", "low-70", "sink+k4+v4", "low-50+quest-16"].map(async (name) =>
      (await planFingerprint(parseMethod(name, model, plans).plan)).slice(0, 8),
    );
    // train/tests/test_methods.py has the same four.
    expect(await Promise.all(found)).toEqual(["621bc162", "6456b2b1", "c0d9993c", "6a8d78bc"]);
  });

  it.each(["leank-60", "low-101", "quest-0", "k3", "", "full+"])("refuse %j", (name) => {
    expect(() => parseMethod(name, geometry, plans)).toThrow(
      /^no method ".*": full, .* a plan: leank-50, duo-50 /,
    );
  });
});
