import { describe, expect, it } from "vitest";
import { planOf } from "../page/testing/golden.js";
import { canonicalPlan, planFingerprint } from "./fingerprint.js";
import { planFromJson } from "./parse.js";
import { identityPlan } from "./plan.js";

const plan = planOf(4, [[4, 0]], {});

describe("canonicalPlan", () => {
  it("writes the fields that matter in alphabetical order", () => {
    expect(canonicalPlan(plan)).toBe(
      '{"evicting":false,"head_dim":4,"kept":[[[0,1,2,3],[]]],"kv_heads":2,"layers":1,' +
        '"page_selection":"off","recent":8,"sink":4,"storage":{"k":"f16","v":"f16"},"version":1}',
    );
    const pageSelection = { pagesPerStep: 2, pagesFloor: 3 };
    expect(canonicalPlan({ ...plan, pageSelection })).toContain(
      '"page_selection":{"pages_floor":3,"pages_per_step":2}',
    );
  });

  it("does not depend on names, sources, the model rule or the context range", () => {
    const other = {
      ...plan,
      name: "x",
      model: "y",
      source: "z",
      context: { minTokens: 1, maxTokens: 2 },
    };
    expect(canonicalPlan(other)).toBe(canonicalPlan(plan));
  });

  it.each([
    { sink: 5 },
    { recent: 9 },
    { evicting: true },
    { storage: { k: "int8", v: "f16" } as const },
    { storage: { k: "f16", v: "int8" } as const },
    { pageSelection: { pagesPerStep: 1, pagesFloor: 1 } },
    {
      kept: [
        [
          [0, 1, 2, 3],
          [0, 1, 2, 3],
        ],
      ],
    },
  ])("differs with %j", (change) => {
    expect(canonicalPlan({ ...plan, ...change })).not.toBe(canonicalPlan(plan));
  });
});

describe("planFingerprint", () => {
  it("is the SHA-256 of the canonical form", async () => {
    // printf '%s' '{"evicting":false,...}' | sha256sum
    expect(await planFingerprint(plan)).toBe(
      "3700bcbce8f97d0f7de2f946cff451fbc690099f8c6093a893fb60dd4a076d94",
    );
  });

  it("is the same for the identity plan and for a file with full lists", async () => {
    const kept = [
      [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
      ],
    ];
    const file = planFromJson({ model: "m", layers: 1, kv_heads: 2, head_dim: 4, kept });
    const identity = identityPlan({ layers: 1, kvHeads: 2, headDim: 4 });
    expect(await planFingerprint(file)).toBe(await planFingerprint(identity));
  });
});
