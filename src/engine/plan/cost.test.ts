import { describe, expect, it } from "vitest";
import { goldenCases, planOf } from "../page/testing/golden.js";
import { planBlock, planBlockBytes } from "./binary.js";
import { cacheBytes, contextForBudget, pagesForBudget, planCost } from "./cost.js";
import { archivePages, identityPlan, pageSlots } from "./plan.js";

describe("planCost", () => {
  it("gives dense f16 bytes for the identity plan", () => {
    const cost = planCost(identityPlan({ layers: 8, kvHeads: 4, headDim: 64 }));
    expect(cost).toMatchObject({
      denseBytesPerToken: 8192,
      archiveBytesPerToken: 8192,
      pageBytes: 262_144,
      zoneBytes: 8192 * (16 + 112 + 32),
      keptFraction: 1,
    });
  });

  it("counts scales and minima: width 16 of 64 in int4 and int2 takes 34 bytes a token", () => {
    const cost = planCost(planOf(64, [[16]], { storage: { k: "int4", v: "int2" } }));
    expect(cost.archiveBytesPerToken).toBe(34);
    expect(cost.layerPageBytes).toEqual([1088]);
  });

  it("gives nothing for heads of width 0", () => {
    expect(planCost(planOf(64, [[0, 0]], {})).pageBytes).toBe(0);
  });
});

describe("context and pages", () => {
  const plan = planOf(64, [[16, 48]], { storage: { k: "int8", v: "int4" } });
  const { pageBytes, zoneBytes } = planCost(plan);

  it("have no page until recent would hold recent + 32 slots", () => {
    const border = plan.sink + plan.recent + pageSlots;
    expect(
      [border - 1, border, border + 31, border + 32].map((tokens) =>
        archivePages(tokens, plan.sink, plan.recent),
      ),
    ).toEqual([0, 1, 1, 2]);
  });

  it("of a budget are the most that fit, exactly", () => {
    expect(pagesForBudget(plan, zoneBytes - 1)).toBeUndefined();
    expect(contextForBudget(plan, zoneBytes - 1)).toBe(0);
    for (const pages of [0, 1, 7, 100]) {
      const bytes = zoneBytes + pages * pageBytes;
      const tokens = contextForBudget(plan, bytes);
      expect(pagesForBudget(plan, bytes)).toBe(pages);
      expect(cacheBytes(plan, tokens)).toBe(bytes);
      expect(cacheBytes(plan, tokens + 1)).toBe(bytes + pageBytes);
      expect(contextForBudget(plan, bytes + pageBytes - 1)).toBe(tokens);
    }
  });

  it("end at the model's and the plan's window", () => {
    expect(contextForBudget(plan, 2 ** 40, 4096)).toBe(4096);
    const narrow = { ...plan, context: { minTokens: 0, maxTokens: 1000 } };
    expect(contextForBudget(narrow, 2 ** 40, 4096)).toBe(1000);
  });

  it("of a plan without archive are bounded by the window alone", () => {
    const streaming = planOf(64, [[0]], {});
    expect(pagesForBudget(streaming, planCost(streaming).zoneBytes)).toBe(Infinity);
    expect(contextForBudget(streaming, planCost(streaming).zoneBytes, 4096)).toBe(4096);
  });
});

describe("planBlock", () => {
  it("has the size that is computed, and the header's fields at their offsets", () => {
    for (const { plan } of goldenCases()) {
      const block = planBlock(plan);
      const view = new DataView(block.buffer);
      expect(block.length).toBe(planBlockBytes(plan));
      expect(new TextDecoder().decode(block.subarray(0, 4))).toBe("LEKP");
      expect(view.getUint32(8, true)).toBe(block.length);
      expect(view.getUint32(20, true)).toBe(plan.headDim);
      expect(view.getUint32(60, true)).toBe(plan.kept.flat(2).length);
      expect(view.getUint32(64, true)).toBe(planCost(plan).pageBytes);
    }
  });
});
