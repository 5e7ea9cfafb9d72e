/** Charts of a report, as SVG by Vega-Lite: what is drawn stands here, how is the library's. */
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import type { CachePlan } from "../../engine/plan/plan.js";
import {
  bandCount,
  correlation,
  highFrequencyRatio,
  keptByBand,
  keptOfPairs,
  rankCorrelation,
  type MaskScores,
  type PublishedRates,
  type Scores,
} from "./masks.js";

/** A plan with its name. */
export interface NamedPlan {
  readonly name: string;
  readonly plan: CachePlan;
}

/** Draws a chart. */
export async function svgOf(spec: TopLevelSpec): Promise<string> {
  const view = new View(parse(compile(spec).spec), { renderer: "none" });
  const svg = await view.toSVG();
  view.finalize();
  return `${svg}\n`;
}

/** What all charts have in common. */
export const look = {
  $schema: "https://vega.github.io/schema/vega-lite/v6.json",
  background: "white",
  config: {
    // A label of each mark would be most of the file.
    aria: false,
    font: "sans-serif",
    range: { category: { scheme: "tableau20" } },
    legend: { labelLimit: 0 },
  },
} as const;

/** Neighbouring pairs of a head of which as many channels stay: a cell of the chart of masks. */
interface MaskRun {
  readonly row: string;
  readonly first: number;
  end: number;
  readonly kept: string;
}

/** Runs of pairs of which something stays. */
function runsOf(row: string, channels: readonly number[], headDim: number): MaskRun[] {
  const runs: MaskRun[] = [];
  for (const [pair, kept] of keptOfPairs(channels, headDim).entries()) {
    const last = runs.at(-1);
    if (last?.end === pair && last.kept === String(kept)) last.end++;
    else if (kept > 0) runs.push({ row, first: pair, end: pair + 1, kept: String(kept) });
  }
  return runs;
}

/** A mask by layer, head and RoPE pair: how many of the two channels of a pair stay. */
export function maskChart({ name, plan }: NamedPlan): TopLevelSpec {
  const rows = plan.kept.flatMap((heads, layer) =>
    heads.map((channels, head) => ({ row: `${layer}.${head}`, channels })),
  );
  const isLong = rows.length > 64;
  return {
    ...look,
    title: `${name}: channels kept of each RoPE pair`,
    width: 480,
    height: { step: isLong ? 9 : 12 },
    data: { values: rows.flatMap(({ row, channels }) => runsOf(row, channels, plan.headDim)) },
    mark: { type: "bar", height: { band: 0.85 } },
    encoding: {
      x: {
        field: "first",
        type: "quantitative",
        title: "RoPE pair, fast to slow",
        scale: { domain: [0, plan.headDim / 2] },
      },
      x2: { field: "end" },
      y: {
        field: "row",
        type: "ordinal",
        title: "layer.head",
        axis: { labelFontSize: isLong ? 8 : 10 },
        scale: { domain: rows.map(({ row }) => row) },
      },
      color: {
        field: "kept",
        type: "ordinal",
        title: "channels of a pair",
        scale: { domain: ["1", "2"], range: ["#8fb8de", "#1b5e9b"] },
      },
    },
  };
}

/** Share of K that stays by band of RoPE frequency, ours beside the published masks. */
export function bandsChart(
  plans: readonly NamedPlan[],
  published: readonly PublishedRates[],
): TopLevelSpec {
  const lines = [
    ...plans.map(({ name, plan }) => ({ name, rates: keptByBand(plan), of: "ours" })),
    ...published.map(({ name, keptByBand: rates }) => ({ name, rates, of: "published" })),
  ];
  return {
    ...look,
    title: "Share of K channels kept, by RoPE frequency",
    width: 420,
    height: 280,
    data: {
      values: lines.flatMap(({ name, rates, of }) =>
        rates.map((rate, band) => ({ name, of, band: band + 1, percent: 100 * rate })),
      ),
    },
    mark: { type: "line", point: true },
    encoding: {
      x: {
        field: "band",
        type: "ordinal",
        title: `RoPE pairs in ${bandCount} bands, fast to slow`,
        axis: { labelAngle: 0 },
      },
      y: { field: "percent", type: "quantitative", title: "kept, per cent" },
      color: { field: "name", type: "nominal", title: null, sort: null },
      strokeDash: {
        field: "of",
        type: "nominal",
        legend: null,
        scale: {
          domain: ["ours", "published"],
          range: [
            [1, 0],
            [5, 4],
          ],
        },
      },
    },
  };
}

/** Width of each head against its high-frequency ratio. */
export function widthChart({ name, plan }: NamedPlan, magnitude: Scores): TopLevelSpec {
  const values = plan.kept.flatMap((heads, layer) =>
    heads.map((channels, head) => ({
      layer,
      width: channels.length,
      ratio: highFrequencyRatio(magnitude[layer]?.[head] ?? []),
    })),
  );
  const rho = rankCorrelation(
    values.map(({ ratio }) => ratio),
    values.map(({ width }) => width),
  );
  return {
    ...look,
    title: `${name}: width of each head, Spearman ${rho.toFixed(2)}`,
    width: 380,
    height: 280,
    data: { values },
    mark: { type: "point", filled: true, size: 60, opacity: 0.8 },
    encoding: {
      x: { field: "ratio", type: "quantitative", title: "high-frequency ratio" },
      y: { field: "width", type: "quantitative", title: "K channels kept" },
      color: {
        field: "layer",
        type: "ordinal",
        title: "layer",
        scale: { scheme: "viridis" },
      },
    },
  };
}

/** Cells of a side of the factors' chart. */
const cells = 20;

/** Factors that were learned from two kinds of data: how many channels have which two. */
export function factorsChart({ factorsByTask }: MaskScores): TopLevelSpec | undefined {
  const [a, b] = [...factorsByTask];
  if (a === undefined || b === undefined) return undefined;
  const [x, y] = [a[1].flat(2), b[1].flat(2)];
  const cellOf = (value: number): number => Math.min(cells - 1, Math.floor(value * cells)) / cells;
  const counts = new Map<string, { x: number; y: number; count: number }>();
  for (const [index, value] of x.entries()) {
    const at = { x: cellOf(value), y: cellOf(y[index] ?? 0) };
    const key = `${at.x}/${at.y}`;
    counts.set(key, { ...at, count: (counts.get(key)?.count ?? 0) + 1 });
  }
  const [pearson, spearman] = [correlation(x, y), rankCorrelation(x, y)];
  const side = { type: "quantitative", bin: { binned: true, step: 1 / cells } } as const;
  return {
    ...look,
    title: `Factors of ${x.length} channels: Pearson ${pearson.toFixed(3)}, Spearman ${spearman.toFixed(3)}`,
    width: 320,
    height: 320,
    data: {
      values: [...counts.values()].map((cell) => ({
        ...cell,
        xEnd: cell.x + 1 / cells,
        yEnd: cell.y + 1 / cells,
      })),
    },
    mark: "rect",
    encoding: {
      x: { field: "x", ...side, title: `learned from ${a[0]}` },
      x2: { field: "xEnd" },
      y: { field: "y", ...side, title: `learned from ${b[0]}` },
      y2: { field: "yEnd" },
      color: {
        field: "count",
        type: "quantitative",
        title: "channels",
        scale: { type: "log", scheme: "blues" },
      },
    },
  };
}
