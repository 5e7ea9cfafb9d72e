import { describe, expect, it } from "vitest";
import { stopStringCharsMax, stopStringsMax } from "./limits.js";
import { createStopMatcher } from "./stop-matcher.js";

/** Pushes parts; what came out of each, and whether it stopped. */
function run(
  stops: readonly string[],
  parts: readonly string[],
): { out: string[]; stopped: boolean } {
  const matcher = createStopMatcher(stops);
  let stopped = false;
  const out = parts.map((part) => {
    const output = matcher.push(part);
    stopped = output.stopped;
    return output.text;
  });
  out.push(matcher.flush());
  return { out, stopped };
}

describe("a stop matcher", () => {
  it("lets text pass at once that can become no stop string", () => {
    expect(run(["END"], ["ab", "cd"])).toEqual({ out: ["ab", "cd", ""], stopped: false });
    expect(run([], ["ab"])).toEqual({ out: ["ab", ""], stopped: false });
  });

  it("finds a stop string across parts and swallows the rest", () => {
    expect(run(["END"], ["abE", "N", "Dcd", "END"])).toEqual({
      out: ["ab", "", "", "", ""],
      stopped: true,
    });
  });

  it("holds back only what may still become one, and lets it go when it does not", () => {
    expect(run(["END"], ["abEN", "x"])).toEqual({ out: ["ab", "ENx", ""], stopped: false });
    expect(run(["END"], ["abE", "EN", "EEND"]).out).toEqual(["ab", "E", "ENE", ""]);
    expect(run(["END"], ["abEN"])).toEqual({ out: ["ab", "EN"], stopped: false });
  });

  it("stops at the first of several", () => {
    expect(run(["cd", "bc", "b"], ["abcd"])).toEqual({ out: ["a", ""], stopped: true });
    expect(run(["abc", "b"], ["ab"])).toEqual({ out: ["a", ""], stopped: true });
  });

  it("gives what comes before the stop string, however the text is cut", () => {
    const text = "one two </stop two <stop> three";
    const stops = ["<stop>", "</stop>"];
    for (let seed = 1; seed < 200; seed++) {
      const parts: string[] = [];
      for (let at = 0, size = seed; at < text.length; size = (size * 7 + seed) % 11) {
        parts.push(text.slice(at, at + (size % 5) + 1));
        at += (size % 5) + 1;
      }
      const { out, stopped } = run(stops, parts);
      expect(stopped).toBe(true);
      expect(out.join("")).toBe("one two </stop two ");
    }
  });

  it("has bounds", () => {
    const many = Array.from({ length: stopStringsMax + 1 }, () => "x");
    expect(() => createStopMatcher(many)).toThrow(/17 stop strings, at most 16/);
    expect(() => createStopMatcher([""])).toThrow(/a stop string has 0 characters, 1 to 256/);
    expect(() => createStopMatcher(["x".repeat(stopStringCharsMax + 1)])).toThrow(/has 257/);
    const longest = "x".repeat(stopStringCharsMax);
    const matcher = createStopMatcher([longest]);
    const text = "x".repeat(stopStringCharsMax - 1) + "y";
    expect(matcher.push(text).text).toBe(text);
  });
});
