/** Lines over time as SVG; for all else `bench/support/plot.ts` does. */

/** One line. */
export interface Line {
  readonly name: string;
  /** By time, all lines at the same times. */
  readonly points: readonly { readonly x: number; readonly y: number }[];
}

/** A chart. */
export interface LineChart {
  readonly title: string;
  readonly xLabel: string;
  readonly yMin: number;
  readonly yMax: number;
  /** Marks of the axes. */
  readonly xTicks: readonly number[];
  readonly yTicks: readonly number[];
  /** A dashed line across, and what it says. */
  readonly target: { readonly y: number; readonly label: string };
  readonly lines: readonly Line[];
}

const colours = ["#1b5e9b", "#d98324", "#4b7d3b", "#b04a6a", "#8a8a8a", "#6aaede"];
const left = 50;
const top = 60;
const plotWidth = 640;
const plotHeight = 280;
const width = left + plotWidth + 20;
const height = top + plotHeight + 50;

/** Draws a chart. Values above its top are drawn at its top. */
export function lineChart(chart: LineChart): string {
  const { lines, target, title, xLabel, xTicks, yMax, yMin, yTicks } = chart;
  const xMax = Math.max(...xTicks);
  const xAt = (x: number) => (left + (x / xMax) * plotWidth).toFixed(1);
  const yAt = (y: number) =>
    (top + plotHeight * (1 - (Math.min(y, yMax) - yMin) / (yMax - yMin))).toFixed(1);
  const right = left + plotWidth;
  const names = lines.map(({ name }, at) => ({
    name,
    x: left + (at % 3) * 200,
    y: 32 + 14 * Math.floor(at / 3),
  }));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="12" fill="#222">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    `<text x="${left}" y="20" font-size="14" font-weight="bold">${title}</text>`,
    ...names.flatMap(({ name, x, y }, at) => [
      `<rect x="${x}" y="${y}" width="10" height="10" fill="${colourOf(at)}"/>`,
      `<text x="${x + 16}" y="${y + 9}">${name}</text>`,
    ]),
    ...yTicks.flatMap((y) => [
      `<path d="M${left} ${yAt(y)}H${right}" stroke="#ddd"/>`,
      `<text x="${left - 8}" y="${Number(yAt(y)) + 4}" text-anchor="end">${y}</text>`,
    ]),
    ...xTicks.map(
      (x) => `<text x="${xAt(x)}" y="${top + plotHeight + 18}" text-anchor="middle">${x}</text>`,
    ),
    `<text x="${left + plotWidth / 2}" y="${height - 12}" text-anchor="middle">${xLabel}</text>`,
    ...lines.map(({ points }, at) => {
      const path = points.map(({ x, y }) => `${xAt(x)},${yAt(y)}`).join(" ");
      return `<polyline points="${path}" fill="none" stroke="${colourOf(at)}" stroke-width="1.3"/>`;
    }),
    `<path d="M${left} ${yAt(target.y)}H${right}" stroke="#222" stroke-dasharray="5 4"/>`,
    `<text x="${right}" y="${Number(yAt(target.y)) - 4}" text-anchor="end">${target.label}</text>`,
    "</svg>",
    "",
  ].join("\n");
}

function colourOf(at: number): string {
  return colours[at % colours.length] ?? "#222";
}
