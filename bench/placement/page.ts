/** What came of the simulated days as a table and pictures for docs/placement.md. */
import { barChart } from "../support/plot.js";
import { lineChart } from "./line-chart.js";
import type { Outcome, Sample } from "./simulate.js";
import type { Workload } from "./workload.js";

/** Largest over mean that the placement is to stay under. */
export const imbalanceGoal = 1.15;

/** Median, 99th percentile and largest of a day. */
export interface Spread {
  readonly median: number;
  readonly p99: number;
  readonly max: number;
}

/** The spread of a figure over a day's samples. Throws on none. */
export function spread(samples: readonly Sample[], figure: (sample: Sample) => number): Spread {
  const sorted = samples.map(figure).sort((a, b) => a - b);
  const at = (share: number): number => {
    const value = sorted[Math.ceil(share * sorted.length) - 1];
    if (value === undefined) throw new Error("the spread of no samples");
    return value;
  };
  return { median: at(0.5), p99: at(0.99), max: at(1) };
}

/** The table and the lines before it. */
export function renderTable(outcomes: readonly Outcome[], workload: Workload): string {
  const hours = workload.dayMs / 3_600_000;
  const [first] = outcomes;
  if (first === undefined) throw new Error("no outcomes");
  const held = Math.max(...first.samples.map(({ sequencesTotal }) => sequencesTotal));
  return [
    "Command: `npm run bench:placement -- --write`",
    "",
    `Seed ${workload.seed}, ${workload.workers} workers, ${hours} hours; ${first.sessions} sessions opened, ` +
      `${first.turns} turns, at most ${held} caches held at once, each worker's memory at most ` +
      `${percent(Math.max(...first.samples.map(({ usedShare }) => usedShare)))} % used on average.`,
    "",
    "| | pages: median | p99 | max | sequences: median | p99 | running: median | prefix hits | tokens from cache | moved, GB |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...outcomes.map((outcome) => {
      const { continuing, hits, logTokens, movedBytes, name, recomputedTokens, samples } = outcome;
      const pages = spread(samples, (sample) => sample.pages);
      const sequences = spread(samples, (sample) => sample.sequences);
      const running = spread(samples, (sample) => sample.running);
      const cells = [
        name,
        fixed(pages.median),
        fixed(pages.p99),
        fixed(pages.max),
        fixed(sequences.median),
        fixed(sequences.p99),
        fixed(running.median),
        `${percent(hits / continuing)} %`,
        `${percent(1 - recomputedTokens / logTokens)} %`,
        (movedBytes / 1e9).toFixed(0),
      ];
      return `| ${cells.join(" | ")} |`;
    }),
    "",
    "Turns refused for want of room: " +
      `${outcomes.map(({ name, refused }) => `${name} ${refused}`).join("; ")}. ` +
      `Cut off by a stop: ${outcomes.map(({ name, cut }) => `${name} ${cut}`).join("; ")}.`,
  ].join("\n");
}

/** Pictures by file name. */
export function renderImages(
  outcomes: readonly Outcome[],
  workload: Workload,
): ReadonlyMap<string, string> {
  const hours = workload.dayMs / 3_600_000;
  return new Map([
    [
      "placement-day.svg",
      lineChart({
        title: "Used pages of the fullest worker over the mean",
        xLabel: "hours",
        yMin: 1,
        yMax: 2.2,
        xTicks: Array.from({ length: Math.floor(hours) + 1 }, (_, hour) => hour),
        yTicks: [1, 1.2, 1.4, 1.6, 1.8, 2, 2.2],
        target: { y: imbalanceGoal, label: `goal ${imbalanceGoal}` },
        lines: outcomes.map(({ name, samples }) => ({
          name,
          points: samples.map(({ atMs, pages }) => ({ x: atMs / 3_600_000, y: pages })),
        })),
      }),
    ],
    [
      "placement-hits.svg",
      barChart({
        title: "Turns that found their whole log cached, %",
        series: ["prefix hits"],
        scale: "shared",
        groups: outcomes.map(({ continuing, hits, name }) => ({
          label: name,
          values: [(100 * hits) / continuing],
        })),
      }),
    ],
    [
      "placement-imbalance.svg",
      barChart({
        title: "Fullest worker over the mean, used pages",
        series: ["median", "p99"],
        scale: "shared",
        groups: outcomes.map(({ name, samples }) => {
          const { median, p99 } = spread(samples, ({ pages }) => pages);
          return { label: name, values: [median, p99] };
        }),
      }),
    ],
  ]);
}

function fixed(value: number): string {
  return value.toFixed(2);
}

/** Two digits after the point, because 99.9 and 100 are not the same. */
function percent(share: number): string {
  return (100 * share).toFixed(2);
}
