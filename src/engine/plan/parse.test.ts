import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import schema from "../../../schema/plan.schema.json" with { type: "json" };
import { PlanError } from "./errors.js";
import { canonicalPlan } from "./fingerprint.js";
import { checkPlan, parsePlan, planFromJson } from "./parse.js";
import { identityPlan, planLimits } from "./plan.js";

/** A small legal file, to be broken one field at a time. */
function smallFile(): Record<string, unknown> {
  return {
    model: "tiny",
    layers: 1,
    kv_heads: 2,
    head_dim: 32,
    kept: [[Array.from({ length: 16 }, (_, i) => i * 2), []]],
  };
}

/** The error that a file is refused with. */
function refusal(file: unknown): PlanError {
  try {
    planFromJson(file);
  } catch (error) {
    if (error instanceof PlanError) return error;
    throw error;
  }
  throw new Error("the plan was accepted");
}

describe("a plan file", () => {
  it("gets the documented defaults", () => {
    const plan = planFromJson(smallFile(), "tiny.leank-70");
    expect(plan).toMatchObject({
      name: "tiny.leank-70",
      source: undefined,
      sink: 16,
      recent: 112,
      storage: { k: "f16", v: "f16" },
      pageSelection: undefined,
      context: { minTokens: 0, maxTokens: 1_048_576 },
      evicting: false,
    });
  });

  it("carries every field", () => {
    const plan = planFromJson({
      ...smallFile(),
      version: 1,
      name: "mine",
      source: "here",
      notes: { seed: 1 },
      channel_order: "half-rotation (channel i pairs with i + head_dim/2)",
      kept_fraction: 0.25,
      sink: 4,
      recent: 1,
      storage: { k: "int4", v: "int2" },
      page_selection: { pages_per_step: 64 },
      context: { min_tokens: 8192, max_tokens: 32768 },
      evicting: true,
    });
    expect(plan).toMatchObject({
      name: "mine",
      source: "here",
      sink: 4,
      recent: 1,
      storage: { k: "int4", v: "int2" },
      pageSelection: { pagesPerStep: 64, pagesFloor: 64 },
      context: { minTokens: 8192, maxTokens: 32768 },
      evicting: true,
    });
  });

  const broken: readonly [string, Record<string, unknown>, string][] = [
    ["no model", { model: undefined }, "plan: model is absent"],
    ["an unknown field", { storge: {} }, "plan: storge is an object, but plans have no such field"],
    ["a later version", { version: 2 }, "plan: version is 2, must be 1"],
    ["a fractional layer count", { layers: 1.5 }, "plan: layers is 1.5, must be of type integer"],
    ["too many layers", { layers: 257 }, "plan: layers is 257, at most 256"],
    ["an odd head_dim", { head_dim: 33 }, "plan: head_dim is 33, must be a multiple of 2"],
    ["interleaved order", { channel_order: "interleaved" }, 'channel_order is "interleaved"'],
    ["a hyphenated order", { channel_order: "half-rotation-x" }, "channel_order"],
    ["recent 0", { recent: 0 }, "plan: recent is 0, at least 1"],
    ["sink beyond its bound", { sink: 32769 }, "plan: sink is 32769, at most 32768"],
    [
      "an unknown storage",
      { storage: { k: "int3" } },
      'plan: storage.k is "int3", must be one of f16, int8, int4, int2',
    ],
    [
      "selection of no page",
      { page_selection: { pages_per_step: 0 } },
      "plan: page_selection.pages_per_step is 0, at least 1",
    ],
    [
      "a floor below the pages of a step",
      { page_selection: { pages_per_step: 8, pages_floor: 7 } },
      "plan: page_selection.pages_floor is 7, must be at least pages_per_step, 8",
    ],
    [
      "a context range upside down",
      { context: { min_tokens: 10, max_tokens: 9 } },
      "plan: context.max_tokens is 9, must be at least context.min_tokens, 10",
    ],
    [
      "selection by a word",
      { page_selection: "on" },
      'plan: page_selection is "on", must match "^off$"',
    ],
    [
      "selection without a number",
      { page_selection: {} },
      "plan: page_selection.pages_per_step is absent",
    ],
    ["text as evicting", { evicting: "no" }, 'plan: evicting is "no"'],
    ["a missing head", { kept: [[[]]] }, "plan: kept[0] has 1 entries, kv_heads is 2"],
    [
      "a layer too many",
      {
        kept: [
          [[], []],
          [[], []],
        ],
      },
      "plan: kept has 2 entries, layers is 1",
    ],
    [
      "width 17",
      { kept: [[[], Array.from({ length: 17 }, (_, i) => i)]] },
      "plan: kept[0][1] keeps 17 channels, must be 0, a multiple of 16 or head_dim, 32",
    ],
    [
      "a channel twice",
      { kept: [[[], [0, 1, 2, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]]] },
      "plan: kept[0][1][3] is 2, must be above the channel before it, 2",
    ],
    [
      "a channel beyond head_dim",
      { kept: [[[], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 32]]] },
      "plan: kept[0][1][15] is 32, must be below head_dim, 32",
    ],
    ["a negative channel", { kept: [[[], [-1]]] }, "plan: kept[0][1][0] is -1"],
    [
      "a kept_fraction of something else",
      { kept_fraction: 0.3 },
      "plan: kept_fraction is 0.3, but kept names 0.2500 of all channels",
    ],
    [
      "V in 2 bits for a head_dim that is no multiple of 8",
      { head_dim: 4, kept: [[[], []]], storage: { v: "int2" } },
      "plan: head_dim is 4, must be a multiple of 8 with V in int2",
    ],
  ];
  it.each(broken)("is refused with %s", (_, change, message) => {
    const file = JSON.parse(JSON.stringify({ ...smallFile(), ...change })) as unknown;
    expect(refusal(file).message).toContain(message);
    expect(refusal(file).status).toBe("invalidPlan");
  });

  it("is refused with the value and the bound as numbers", () => {
    const error = refusal({ ...smallFile(), kept: [[[]]] });
    expect([error.path, error.value, error.bound]).toEqual(["kept[0]", 1, 2]);
  });

  it("is refused if a page would have more than 2 GiB", () => {
    // 256 layers x 256 heads x (32 x 256 x 2 x 2 bytes) = 2^31.
    const plan = identityPlan({ layers: 256, kvHeads: 256, headDim: 256 });
    expect(() => {
      checkPlan(plan);
    }).toThrow("plan has pages of 2147483648 bytes, at most 2147483647");
  });

  it("is refused if it is not JSON, or too long", () => {
    expect(() => parsePlan("{")).toThrow(/plan is not JSON/);
    expect(() => parsePlan(" ".repeat(planLimits.textMax + 1))).toThrow(
      "plan has 16777217 characters, at most 16777216",
    );
  });

  it.each([
    "null",
    "[]",
    "3",
    '"x"',
    "{}",
    '{"\\ud800":1}',
    '{"__proto__":1}',
    '{"kept":[[[[]]]]}',
  ])("is refused as %s", (text) => {
    expect(() => parsePlan(text)).toThrow(PlanError);
  });
});

describe("the schema", () => {
  it("has the bounds that the engine has", () => {
    const { properties } = schema;
    expect([
      properties.layers.maximum,
      properties.kv_heads.maximum,
      properties.head_dim.maximum,
      properties.sink.maximum,
      properties.recent.maximum,
      properties.context.properties.max_tokens.maximum,
    ]).toEqual([
      planLimits.layersMax,
      planLimits.kvHeadsMax,
      planLimits.headDimMax,
      planLimits.sinkMax,
      planLimits.recentMax,
      planLimits.contextTokensMax,
    ]);
    const header = ["plan.h", "model.h"]
      .map((name) => readFileSync(`engine/include/leanedge/${name}`, "utf8"))
      .join("\n");
    for (const [constant, bound] of [
      ["kLayersMax", planLimits.layersMax],
      ["kKvHeadsMax", planLimits.kvHeadsMax],
      ["kHeadDimMax", planLimits.headDimMax],
      ["kSinkMax", planLimits.sinkMax],
      ["kRecentMax", planLimits.recentMax],
      ["kPagesPerStepMax", planLimits.pagesPerStepMax],
    ] as const) {
      expect(header).toContain(`inline constexpr int32_t ${constant} = ${bound};`);
    }
    expect(header).toContain("inline constexpr int32_t kContextMax = 1 << 20;");
    expect(header).toContain("inline constexpr uint32_t kPageBytesMax = 0x7fffffff;");
  });
});

describe("broken text", () => {
  const text = JSON.stringify({
    ...smallFile(),
    name: "fuzz",
    storage: { k: "int4", v: "int8" },
    page_selection: { pages_per_step: 8 },
    context: { max_tokens: 4096 },
    sink: 4,
  });

  /** Parses; anything thrown must be a PlanError. Returns whether the plan was accepted. */
  function survives(candidate: string): boolean {
    try {
      canonicalPlan(parsePlan(candidate));
      return true;
    } catch (error) {
      expect(error).toBeInstanceOf(PlanError);
      return false;
    }
  }

  it("is refused when it is cut anywhere", () => {
    for (let length = 0; length < text.length; length++) {
      expect(survives(text.slice(0, length))).toBe(false);
    }
    expect(survives(text)).toBe(true);
  });

  it("never gives anything but a legal plan or a PlanError (20,000 mutations)", () => {
    const source = new SeededRandom(20_261_122);
    const random = (): number => source.bits();
    const alphabet = '0123456789.,-e[]{}":truefalsnk_\\u "';
    let accepted = 0;
    for (let round = 0; round < 20_000; round++) {
      let candidate = text;
      for (let change = random() % 3; change >= 0; change--) {
        const at = random() % candidate.length;
        const piece = alphabet[random() % alphabet.length] ?? "";
        const skip = random() % 3;
        candidate = candidate.slice(0, at) + piece + candidate.slice(at + skip);
      }
      if (survives(candidate)) accepted++;
    }
    // Both outcomes must occur, or the test shows nothing.
    expect(accepted).toBeGreaterThan(100);
    expect(accepted).toBeLessThan(19_000);
  });
});
