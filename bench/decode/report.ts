/** Tables and figures of the decode benchmark. */
import type { Figure } from "../support/figures.js";
import { digits, gigabyte, median, percent, rounds } from "../support/stats.js";
import type { VariantName } from "./cases.js";
import { decodeSpeed, prefillSpeed } from "./run.js";
import type { CaseResult, VariantRounds } from "./run.js";

/** Medians of one variant of a case. */
type Summary = {
  /** Tokens a second, one for each prompt length. */
  prefill: readonly (number | undefined)[];
  decode: number;
  /** Bytes of weights a second at decode. */
  moved: number;
  /** Bytes a second of the pure read loop in the same process. */
  ceiling: number | undefined;
};

function prefillRounds(
  { case: { prompts } }: CaseResult,
  { plan, rounds: measured }: VariantRounds,
  column: number,
): number[] {
  return measured.flatMap((round) => prefillSpeed(prompts, plan, round, column) ?? []);
}

function summaryOf(result: CaseResult, variant: VariantRounds): Summary {
  const measured = variant.rounds;
  const decode = median(measured.map((round) => decodeSpeed(variant.plan, round)));
  const reads = measured.flatMap((round) => round.readBytesPerSecond ?? []);
  return {
    prefill: result.case.prompts.map((_, column) => {
      const speeds = prefillRounds(result, variant, column);
      return speeds.length === 0 ? undefined : median(speeds);
    }),
    decode,
    moved: decode * (measured[0]?.weightBytesPerRow ?? result.fileBytesPerToken),
    ceiling: reads.length === 0 ? undefined : median(reads),
  };
}

function find(result: CaseResult, name: VariantName): Summary | undefined {
  const variant = result.variants.find(({ plan }) => plan.name === name);
  return variant === undefined ? undefined : summaryOf(result, variant);
}

/** The table of one case, medians first and every round after them. */
export function caseTable(result: CaseResult): string {
  const { prompts, model } = result.case;
  const ceilingInNode = find(result, "node")?.ceiling;
  const prefills = prompts.map((tokens) => `prefill ${tokens}`);
  const header = [
    ...["variant", ...prefills.map((name) => `${name}, tok/s`), "decode, tok/s"],
    ...["weights, GB/s", "of pure read, GB/s"],
    ...[...prefills, "decode"].map((name) => `${name}, each round`),
  ];
  const rows = result.variants.map((variant) => {
    const { prefill, decode, moved, ceiling = ceilingInNode } = summaryOf(result, variant);
    return [
      variant.plan.name,
      ...prefill.map((speed) => (speed === undefined ? "-" : digits(speed))),
      ...[digits(decode), (moved / gigabyte).toFixed(2)],
      ceiling === undefined
        ? "-"
        : `${percent(moved / ceiling)} % of ${digits(ceiling / gigabyte)}`,
      ...prompts.map((_, column) => rounds(prefillRounds(result, variant, column))),
      rounds(variant.rounds.map((round) => decodeSpeed(variant.plan, round))),
    ];
  });
  return [
    `**${model}**, ${(result.fileBytesPerToken / 1e6).toFixed(1)} MB of weights a token`,
    "",
    `| ${header.join(" | ")} |`,
    `| ${header.map(() => "---").join(" | ")} |`,
    ...rows.map((row) => `| ${row.join(" | ")} |`),
  ].join("\n");
}

/** What decoding must reach against each peer, by weight type and size. */
function decodeBounds(model: string): { wllama: number; native: number } {
  const q8 = model.endsWith("q8_0");
  const native = q8 && !model.startsWith("222m") ? 1.2 : 0.9;
  return { wllama: q8 ? 6 : 8, native };
}

const prefillBounds = { wllama: 7, native: 0.5 };
const shareInNode = 0.6;
const shareInWorkerd = 0.9;

function ratio(
  name: string,
  ours: number | undefined,
  theirs: number | undefined,
  bound: number,
): Figure[] {
  if (ours === undefined || theirs === undefined) return [];
  return [{ name, measured: ours / theirs, bound, sense: "at least", unit: "x" }];
}

function prefillFigures(result: CaseResult): Figure[] {
  const { model, prompts } = result.case;
  const node = find(result, "node");
  const wllama = find(result, "wllama");
  const native = find(result, "llama.cpp");
  // The table asks this of Q8_0 only.
  if (!model.endsWith("q8_0")) return [];
  return prompts.flatMap((tokens, column) => {
    const ours = node?.prefill[column];
    // Where wllama would take minutes, its speed with a short prompt stands in, which flatters it.
    const measured = wllama?.prefill[column];
    const standIn = measured === undefined && column > 0 ? " at 127" : "";
    return [
      ...ratio(
        `prefill of ${tokens}, ${model}, against wllama${standIn}`,
        ours,
        measured ?? wllama?.prefill[0],
        prefillBounds.wllama,
      ),
      ...ratio(
        `prefill of ${tokens}, ${model}, against native`,
        ours,
        native?.prefill[column],
        prefillBounds.native,
      ),
    ];
  });
}

function shareFigures(result: CaseResult): Figure[] {
  const { model } = result.case;
  const shareOf = (summary: Summary | undefined): number | undefined =>
    summary?.ceiling === undefined ? undefined : summary.moved / summary.ceiling;
  const node = shareOf(find(result, "node"));
  const workerd = shareOf(find(result, "workerd"));
  return [
    ...(node === undefined
      ? []
      : [
          {
            name: `weight bytes read at decode, ${model}, of the pure read loop`,
            measured: node,
            bound: shareInNode,
            sense: "at least",
            unit: "share",
          } satisfies Figure,
        ]),
    ...ratio(`the same in workerd, ${model}, of the share in Node`, workerd, node, shareInWorkerd),
  ];
}

/** Everything of a case that has a target. */
export function caseFigures(result: CaseResult): Figure[] {
  const { model } = result.case;
  const node = find(result, "node")?.decode;
  const bounds = decodeBounds(model);
  return [
    ...ratio(
      `decode, ${model}, against wllama`,
      node,
      find(result, "wllama")?.decode,
      bounds.wllama,
    ),
    ...ratio(
      `decode, ${model}, against native llama.cpp`,
      node,
      find(result, "llama.cpp")?.decode,
      bounds.native,
    ),
    ...prefillFigures(result),
    ...shareFigures(result),
  ];
}
