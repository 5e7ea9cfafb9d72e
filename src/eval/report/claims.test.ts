import { describe, expect, it } from "vitest";
import type { MethodLine, ResultLine, Results } from "../samples-file.js";
import { verdictOf, type Claim } from "./claim.js";
import { embeddedClaims, pretrainedClaims, renderClaims } from "./claims.js";
import { sectionsOf } from "./sections.js";

function line(method: string, bytesPerToken: number, model = "m-q4_0", series = "a"): MethodLine {
  return {
    ...{ method, model, series, bytesPerToken, modelFingerprint: model, planFingerprint: method },
    ...{ backend: "wasm", denseBytesPerToken: 1_000, keptFraction: 0.3, sink: 16, recent: 112 },
    ...{ pagesPerStep: 0, origin: "learned" },
  };
}

/** Replies to as many samples as there are scores, each with a hash of its own. */
function replies(method: string, task: string, length: number, scores: number[]): ResultLine[] {
  return scores.map((score, seed) => ({
    ...{ method, task, length, seed, score, text: "", sample: `${task}/${length}/${seed}` },
  }));
}

function repeated(count: number, score: number): number[] {
  return new Array<number>(count).fill(score);
}

const needles = ["single-1", "single-2", "single-3", "multi-key-1", "multi-key-2", "multi-key-3"];
const lengths = [1_024, 2_048, 4_096];

function claimOf(claims: readonly Claim[], words: string): Claim | undefined {
  return claims.find(({ figure }) => figure.includes(words));
}

function embeddedOf(...files: readonly Results[]): Claim[] {
  return embeddedClaims(sectionsOf(files), [], "m");
}

describe("verdicts", () => {
  it("need the whole interval of a cost on one side of its bound", () => {
    expect(verdictOf({ low: -3, high: 0.4 }, 0.5)).toBe("met");
    expect(verdictOf({ low: 0.3, high: 0.6 }, 0.5)).toBe("not settled");
    expect(verdictOf({ low: 0.6, high: 0.9 }, 0.5)).toBe("not met");
  });
});

describe("claims of the embedded model", () => {
  it("are not measured without results, every one of them", () => {
    const claims = embeddedClaims([], [], "m");
    expect(new Set(claims.map(({ verdict }) => verdict))).toEqual(new Set(["not measured"]));
  });

  it("hold the lowest task and length against a level, and miss it where one was not asked", () => {
    const asked = [...needles, "multi-query"].flatMap((task) =>
      lengths.flatMap((length) => replies("full", task, length, [1, 1, 1, 1])),
    );
    const methods = [line("full", 1_000)];
    const words = "each needle and key-value task";
    expect(claimOf(embeddedOf({ methods, results: asked }), words)?.verdict).toBe("met");
    const some = asked.filter(({ length }) => length < 4_096);
    const partly = claimOf(embeddedOf({ methods, results: some }), words);
    expect(partly?.verdict).toBe("not settled");
    expect(partly?.found).toContain("14 of 21 asked");
    const low = [...asked.slice(1), ...replies("full", "single-2", 2_048, [0]).map(renumbered)];
    const missed = claimOf(embeddedOf({ methods, results: low }), words);
    expect(missed?.verdict).toBe("not met");
    expect(missed?.found).toMatch(/^lowest single-2 at 2048: 80\.0 \(/);
  });

  it("hold differences against a bound from 2,000 pairs on", () => {
    const methods = [line("full", 1_000), line("leank-70", 500)];
    const alike = (count: number): ResultLine[] => [
      ...replies("full", "single-1", 1_024, repeated(count, 1)),
      ...replies("leank-70", "single-1", 1_024, repeated(count, 1)),
    ];
    const found = (results: ResultLine[]): Claim | undefined =>
      claimOf(embeddedOf({ methods, results }), "leank-70");
    expect(found(alike(1_999))).toMatchObject({ verdict: "not settled", count: 1_999 });
    expect(found(alike(2_000))).toMatchObject({ verdict: "met", found: "0.0 (0.0 to 0.0)" });
    const worse = [
      ...replies("full", "single-1", 1_024, repeated(40, 1)),
      ...replies("leank-70", "single-1", 1_024, repeated(40, 0.5)),
    ];
    expect(found(worse)).toMatchObject({ verdict: "not met", found: "-50.0 (-50.0 to -50.0)" });
  });

  it("compare F16 and Q4_0 on the same samples whatever their series are called", () => {
    const exact = {
      methods: [line("full", 1_000, "m-f16", "tasks")],
      results: replies("full", "single-1", 1_024, repeated(2_000, 1)),
    };
    const rounded = {
      methods: [line("full", 1_000, "m-q4_0", "leanedge")],
      results: replies("full", "single-1", 1_024, [0, ...repeated(1_999, 1)]),
    };
    expect(claimOf(embeddedOf(exact, rounded), "F16")).toMatchObject({
      verdict: "met",
      count: 2_000,
    });
    const others = rounded.results.map((reply) => ({ ...reply, sample: "another" }));
    const apart = embeddedOf(exact, { methods: rounded.methods, results: others });
    expect(claimOf(apart, "F16")?.verdict).toBe("not measured");
  });

  it("take the largest learned archive that is ten times smaller, with the whole cache's ratios", () => {
    const methods = [line("full", 1_000), line("leank-80+k4+v4", 110), line("leank-80+k4+v2", 90)];
    const results = methods.flatMap(({ method }) => replies(method, "single-1", 1_024, [1, 1]));
    const claim = claimOf(embeddedOf({ methods, results }), "an archive");
    expect(claim?.figure).toMatch(
      /^an archive 11\.1 times smaller, `leank-80\+k4\+v2` \(the whole cache: \d\.\d times at 4K, \d+\.\d times at 16K\)$/,
    );
    expect(claim?.verdict).toBe("not settled");
  });

  it("tell what other methods cost at about the bytes of the archive that is ten times smaller", () => {
    const methods = [
      line("full", 1_000),
      line("bytes-90", 90),
      line("duo-90", 110),
      line("magnitude-95", 70),
      line("k2+v2", 150),
    ];
    const results = methods.flatMap(({ method }) =>
      replies(method, "single-1", 1_024, [1, method === "duo-90" ? 0 : 1]),
    );
    const claims = embeddedOf({ methods, results });
    expect(claimOf(claims, "at about its bytes")).toMatchObject({
      figure: "other methods at about its bytes, 69 to 117 a token",
      found: "`magnitude-95` (70) 0.0 (0.0 to 0.0); `duo-90` (110) -50.0 (-100.0 to 0.0)",
      count: 2,
      verdict: "reported",
    });
    const alone = embeddedOf({ methods: methods.slice(0, 2), results: results.slice(0, 4) });
    expect(claimOf(alone, "at about its bytes")?.verdict).toBe("not measured");
  });
});

describe("claims of a pretrained model", () => {
  it("count needles and texts of 2K tokens and more, and tell of other methods without a verdict", () => {
    const methods = ["full", "leank-70", "think-70"].map((name) => line(name, 500, "Smol-x"));
    const texts = methods.flatMap(({ method }, at) =>
      replies(method, "perplexity", 2_048, [1, 1]).map((one) => ({ ...one, loss: 2 + at / 10 })),
    );
    const results = methods.flatMap(({ method }) => [
      ...replies(method, "single", 400, [0, 0]),
      ...replies(method, "single", 2_048, [1, method === "think-70" ? 0 : 1]),
    ]);
    const sections = sectionsOf([{ methods, results: [...results, ...texts] }]);
    const claims = pretrainedClaims(sections, "smol");
    const found = claims.filter(({ verdict }) => verdict !== "not measured");
    expect(found.map(({ figure, verdict, count }) => [figure, verdict, count])).toEqual([
      ["needles of 2K to 8K tokens, `leank-70`", "not settled", 2],
      ["perplexity of windows of 2K to 8K tokens, `leank-70`", "not met", 2],
      ["needles of 2K to 8K tokens, `think-70`", "reported", 2],
      ["perplexity of windows of 2K to 8K tokens, `think-70`", "reported", 2],
    ]);
    expect(found[1]?.found).toBe("+10.5 % (+10.5 % to +10.5 %)");
    expect(renderClaims("smol", found).join("\n")).toContain("| reported |");
  });
});

/** The same sample under another number. */
function renumbered(reply: ResultLine): ResultLine {
  return { ...reply, seed: 100, sample: "another" };
}
