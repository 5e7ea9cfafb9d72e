/** A grouped bar chart as SVG, drawn here because it is all that the benchmarks need of a plotting library. */
import { digits } from "./stats.js";

/** One chart. */
export type BarChart = {
  title: string;
  /** One bar of each group, in order; also the legend, which a single series does not need. */
  series: readonly string[];
  /** Whether groups share one scale, or each has its own, where values differ tenfold between them. */
  scale: "shared" | "each";
  groups: readonly {
    label: string;
    /** One value a series, not negative; undefined: no bar. */
    values: readonly (number | undefined)[];
  }[];
};

// Distinct in hue and in lightness, so that they can be told apart in grey too.
const colours = ["#1b5e9b", "#6aaede", "#d98324", "#8a8a8a", "#4b7d3b", "#b04a6a"];
const barHeight = 16;
const groupGap = 14;
const characterWidth = 6.6;
const plotWidth = 520;
const valueWidth = 70;

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

function text(x: number, y: number, content: string, more = ""): string {
  return `<text x="${x}" y="${y}" ${more}>${escaped(content)}</text>`;
}

/** Draws a chart with horizontal bars. */
export function barChart({ title, series, scale, groups }: BarChart): string {
  const parts: string[] = [];
  const labels = groups.map(({ label }) => label.length);
  const labelWidth = Math.ceil(24 + characterWidth * Math.max(...labels));
  const largest = Math.max(...groups.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const hasLegend = series.length > 1;
  let y = hasLegend ? 56 : 36;
  for (const { label, values } of groups) {
    const shown = values.flatMap((value, i) => (value === undefined ? [] : [{ value, i }]));
    const own = Math.max(...shown.map(({ value }) => value), Number.MIN_VALUE);
    const max = scale === "each" ? own : largest;
    const middle = y + (shown.length * barHeight) / 2 + 4;
    parts.push(text(labelWidth - 10, middle, label, 'text-anchor="end"'));
    for (const { value, i } of shown) {
      const width = ((plotWidth * value) / max).toFixed(1);
      const fill = colours[i % colours.length] ?? "";
      parts.push(
        `<rect x="${labelWidth}" y="${y}" width="${width}" height="${barHeight - 3}" fill="${fill}"/>`,
        text(labelWidth + Number(width) + 6, y + barHeight - 6, digits(value), 'font-size="11"'),
      );
      y += barHeight;
    }
    y += groupGap;
  }
  let x = labelWidth;
  for (const [i, name] of hasLegend ? series.entries() : []) {
    const fill = colours[i % colours.length] ?? "";
    parts.push(`<rect x="${x}" y="32" width="11" height="11" fill="${fill}"/>`);
    parts.push(text(x + 16, 42, name));
    x += 34 + 7.5 * name.length;
  }
  const width = labelWidth + plotWidth + valueWidth;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" width="${width}" height="${y}" font-family="sans-serif" font-size="12" fill="#222">`,
    `<rect width="${width}" height="${y}" fill="#fff"/>`,
    text(labelWidth, 20, title, 'font-size="14" font-weight="bold"'),
    ...parts,
    "</svg>",
    "",
  ].join("\n");
}
