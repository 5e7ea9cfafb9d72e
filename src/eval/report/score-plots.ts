/** Charts of what methods score: against archive bytes, and by length. */
import type { TopLevelSpec } from "vega-lite";
import { fullMethod } from "../methods.js";
import { look } from "./plots.js";
import { alikeLengths, common, lengthsOf, mean, unique, type Section } from "./sections.js";

/** Families that the methods of storage alone, and those of a byte target, are shown as. */
const [storageFamily, targetFamily] = ["KIVI", "leank, byte target"];

/** What a line of charts is named after: leank for leank-70, leank + KIVI for leank-70+k4+v4, KIVI for k4+v4. */
export function familyOf(method: string): string {
  if (method === fullMethod) return fullMethod;
  const parts = method.split("+").filter((part) => part !== fullMethod);
  const named = parts
    .filter((part) => !/^[kv][248]$/.test(part))
    .map((part) => (part.startsWith("bytes-") ? targetFamily : part.replace(/-\d+/g, "")));
  const hasStorage = named.length < parts.length;
  return unique(hasStorage ? [...named, storageFamily] : named).join(" + ");
}

/** Families of methods in the order of charts: what is ours first. */
function sortedFamilies(values: readonly { readonly family: string }[]): string[] {
  const names = unique(values.map(({ family }) => family)).sort();
  const isOurs = (name: string): boolean => name.startsWith("leank");
  return [...names.filter(isOurs), ...names.filter((name) => !isOurs(name))];
}

/** How far below the full cache the lower panel of the chart of bytes goes, in points. */
const nearPoints = 6;

/** Width of the panels of the chart of bytes, in pixels. */
const bytesWidth = 600;

/** Shapes of points, for families one after the other. */
const shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];

/** What a method scores, and what its archive takes. */
interface BytesPoint {
  readonly method: string;
  readonly family: string;
  readonly bytes: number;
  readonly points: number;
}

type Panel = Extract<TopLevelSpec, { vconcat: unknown }>["vconcat"][number];

/**
 * Accuracy against archive bytes, a line a family of methods, on the samples that all of them answered; below it once
 * more what is near the full cache. Methods without an archive, and the full cache, are dashed. Undefined where there is
 * nothing beside these.
 */
export function bytesChart({ methods, replies }: Section): TopLevelSpec | undefined {
  const asked = new Set(replies.map(({ method }) => method));
  const shared = common(replies, [...asked]);
  const all: BytesPoint[] = methods.flatMap(({ method, bytesPerToken }) => {
    const scores = shared.filter((one) => one.method === method).map(({ score }) => score);
    return scores.length === 0
      ? []
      : [{ method, family: familyOf(method), bytes: bytesPerToken, points: 100 * mean(scores) }];
  });
  const isLevel = ({ method, bytes }: BytesPoint): boolean => method === fullMethod || bytes === 0;
  const [values, levels] = [all.filter((one) => !isLevel(one)), all.filter(isLevel)];
  if (values.length === 0) return undefined;
  const samples = unique(shared.map(({ sampleKey }) => sampleKey)).length;
  const top = Math.max(...all.map(({ points }) => points));
  const full = levels.find(({ method }) => method === fullMethod)?.points ?? top;
  const near = [Math.max(0, full - nearPoints), Math.min(100, top + 1)];
  return {
    ...look,
    title: `Score against archive bytes, ${samples} samples`,
    vconcat: [
      bytesPanel(values, levels, 300, [0, 100], "score, points of 100"),
      bytesPanel(values, levels, 220, near, "the same, near the full cache"),
    ],
    resolve: { scale: { color: "shared", shape: "shared" } },
  };
}

/**
 * A panel of the chart of bytes.
 *
 * @param values what lines are drawn through
 * @param levels what is dashed from side to side
 * @param domain lowest and highest points
 */
function bytesPanel(
  values: readonly BytesPoint[],
  levels: readonly BytesPoint[],
  height: number,
  domain: number[],
  title: string,
): Panel {
  const families = sortedFamilies(values);
  const range = families.map((_, at) => shapes[at % shapes.length] ?? "circle");
  const scale = { domain, nice: false, zero: false };
  const y = { field: "points", type: "quantitative", title, scale } as const;
  const family = { field: "family", type: "nominal", title: null } as const;
  return {
    width: bytesWidth,
    height,
    layer: [
      {
        data: { values: levels.filter(({ points }) => points >= (domain[0] ?? 0)) },
        encoding: { y },
        layer: [
          { mark: { type: "rule", strokeDash: [5, 4], color: "#777" } },
          {
            mark: { type: "text", align: "left", dx: 5, color: "#555" },
            encoding: { text: { field: "method" }, x: { value: bytesWidth } },
          },
        ],
      },
      {
        data: { values: [...values] },
        layer: [
          { mark: { type: "line", clip: true } },
          { mark: { type: "point", filled: true, size: 70, opacity: 0.9, clip: true } },
        ],
        encoding: {
          x: {
            field: "bytes",
            type: "quantitative",
            title: "archive bytes a token, scales counted",
            scale: { type: "log", base: 2, nice: false, padding: 12 },
            axis: { tickCount: 6, format: "," },
          },
          y,
          color: {
            ...family,
            scale: { domain: families },
            legend: { offset: 12, symbolLimit: 0 },
          },
          shape: { ...family, scale: { domain: families, range } },
          order: { field: "bytes" },
        },
      },
    ],
  };
}

/** Panels of a row of the chart of lengths. */
const panelsARow = 4;

/**
 * Accuracy by length, a panel a family and a line a method in it, of those that were asked the same tasks at two lengths or
 * more; the full cache is in each panel. Undefined where no method beside it was.
 */
export function lengthChart({ methods, replies }: Section): TopLevelSpec | undefined {
  const all = replies.filter(({ task }) => task !== "session");
  const lengths = alikeLengths(all);
  const asked = all.filter(({ length }) => lengths.includes(length));
  const lines = methods.filter(
    ({ method }) => lengthsOf(asked.filter((one) => one.method === method)).length >= 2,
  );
  const values = lines.flatMap(({ method, bytesPerToken }) =>
    lengthsOf(asked).flatMap((length) => {
      const own = asked.filter((one) => one.method === method && one.length === length);
      const points = 100 * mean(own.map(({ score }) => score));
      return own.length === 0
        ? []
        : [{ method, family: familyOf(method), bytes: bytesPerToken, length, points }];
    }),
  );
  const isFull = ({ method }: { readonly method: string }): boolean => method === fullMethod;
  const others = values.filter((one) => !isFull(one));
  if (others.length === 0) return undefined;
  const full = values.filter(isFull).map(({ length, points }) => ({ length, points }));
  const axes = {
    x: {
      field: "length",
      type: "quantitative",
      title: "tokens",
      scale: { type: "log", base: 2, padding: 6, nice: false },
      axis: { values: lengthsOf(asked), labelExpr: "datum.value / 1024 + 'K'" },
    },
    y: {
      field: "points",
      type: "quantitative",
      title: "score, points of 100",
      scale: { domain: [0, 100] as number[] },
    },
  } as const;
  return {
    ...look,
    title: "Score by length, the full cache dashed",
    data: { values: others },
    facet: {
      field: "family",
      type: "nominal",
      title: null,
      sort: sortedFamilies(others),
      header: { labelFontSize: 11, labelFontWeight: "bold" },
    },
    columns: panelsARow,
    spacing: 14,
    spec: {
      width: 150,
      height: 110,
      layer: [
        {
          data: { values: full },
          mark: { type: "line", strokeDash: [4, 3], color: "#777" },
          encoding: axes,
        },
        {
          mark: { type: "line", point: { size: 22 } },
          encoding: {
            ...axes,
            detail: { field: "method" },
            color: {
              field: "bytes",
              type: "quantitative",
              title: ["archive bytes", "a token"],
              scale: { type: "sqrt", scheme: "viridis", reverse: true },
            },
          },
        },
      ],
    },
  };
}
