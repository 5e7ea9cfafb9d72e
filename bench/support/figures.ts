/** A figure that a benchmark must show: what was measured, what is wanted, and whether it is there. */
import { digits } from "./stats.js";

/** One measured figure and its bound. */
export type Figure = {
  /** What it is, with the model where that matters. */
  name: string;
  measured: number;
  bound: number;
  /** Which side of the bound is the good one. */
  sense: "at least" | "at most" | "exactly";
  /** `x`: a ratio of two speeds or sizes; `share`: of a whole, shown in percent; else a unit. */
  unit: "x" | "share" | "bytes" | "MiB" | "KB" | "ms";
};

/** Does the figure keep its bound? */
export function isMet({ measured, bound, sense }: Figure): boolean {
  if (sense === "exactly") return measured === bound;
  return sense === "at least" ? measured >= bound : measured <= bound;
}

function shown(value: number, unit: Figure["unit"]): string {
  if (unit === "share") return `${(100 * value).toFixed(1)} %`;
  if (unit === "bytes") return `${value} bytes`;
  return `${digits(value)} ${unit}`;
}

/** Rows of the table that `figureTable` begins. */
function figureRow(figure: Figure): string {
  const { name, measured, bound, sense, unit } = figure;
  const verdict = isMet(figure) ? "met" : "**missed**";
  return `| ${name} | ${shown(measured, unit)} | ${sense} ${shown(bound, unit)} | ${verdict} |`;
}

/** Figures as a Markdown table. */
export function figureTable(figures: readonly Figure[]): string {
  return [
    "| figure | measured | target | verdict |",
    "| --- | --- | --- | --- |",
    ...figures.map(figureRow),
  ].join("\n");
}
