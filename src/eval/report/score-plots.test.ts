import { describe, expect, it } from "vitest";
import { bytesChart, familyOf, lengthChart } from "./score-plots.js";
import { sectionsOf, type Section } from "./sections.js";
import { svgOf } from "./plots.js";
import { method, results } from "./testing/results.js";

const bytes = { full: 1_000, "leank-50": 600, "leank-90": 200, "k4+v4": 250, sink: 0 };
const scores = { full: 0.9, "leank-50": 0.9, "leank-90": 0.5, "k4+v4": 0.85, sink: 0.1 };

function sectionOf(names: readonly (keyof typeof bytes)[]): Section {
  const [section] = sectionsOf([
    {
      methods: names.map((name) => method(name, bytes[name])),
      results: names.flatMap((name) =>
        [1_024, 2_048].flatMap((length) => results(name, "single-1", length, [scores[name]])),
      ),
    },
  ]);
  if (section === undefined) throw new Error("one section expected");
  return section;
}

describe("charts of scores", () => {
  it("name a line by its methods without their numbers, storage a part of its own", () => {
    const names = ["full", "leank-70+k4+v4", "leank-80", "k4+v2", "leank-70+quest-8", "sink"];
    expect(names.map(familyOf)).toEqual([
      "full",
      "leank + KIVI",
      "leank",
      "KIVI",
      "leank + quest",
      "sink",
    ]);
    expect(familyOf("leank-even-50")).toBe("leank-even");
    expect(familyOf("leank-70-recent-240")).toBe("leank-recent");
    expect(familyOf("bytes-820")).toBe("leank, byte target");
  });

  it("draw a family's shares as one line, ours first, and once more near the full cache", async () => {
    const chart = bytesChart(sectionOf(["full", "leank-50", "leank-90", "k4+v4", "sink"]));
    if (chart === undefined) throw new Error("a chart expected");
    const text = JSON.stringify(chart);
    expect(text).toContain('"domain":["leank","KIVI"]');
    expect(text).toContain('{"method":"leank-90","family":"leank","bytes":200,"points":50}');
    expect(text).toContain('"domain":[0,100]');
    expect(text).toContain('"domain":[84,91]');
    const svg = await svgOf(chart);
    expect(svg).toContain("Score against archive bytes, 2 samples");
    // What has no bytes has no place on the axis of bytes: it is a level, in the panel that reaches so low.
    expect(svg.match(/>sink</g)).toHaveLength(1);
    expect(svg.match(/>full</g)).toHaveLength(2);
  });

  it("are left out where there is nothing beside the full cache", () => {
    expect(bytesChart(sectionOf(["full"]))).toBeUndefined();
    expect(lengthChart(sectionOf(["full"]))).toBeUndefined();
  });

  it("have a panel a family for lengths, with the full cache in each", async () => {
    const chart = lengthChart(sectionOf(["full", "leank-50", "leank-90", "k4+v4"]));
    if (chart === undefined) throw new Error("a chart expected");
    const svg = await svgOf(chart);
    expect(svg.match(/>leank</g)).toHaveLength(1);
    expect(svg.match(/>KIVI</g)).toHaveLength(1);
    expect(svg.match(/stroke-dasharray="4,3"/g)).toHaveLength(2);
  });
});
