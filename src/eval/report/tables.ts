/** Tables of a report, and how they write numbers. */
import { archivePages, pageSlots } from "../../engine/plan/plan.js";
import type { Interval } from "../bootstrap.js";
import type { MethodLine } from "../samples-file.js";
import type { Section } from "./sections.js";

/** Pairs from which on a difference is settled; below, the report says that it is a first look. */
export const pairsWanted = 2_000;

/** Points of a hundred, one digit behind the point. */
export function points(share: number): string {
  // No minus before a zero.
  return (Math.round(1_000 * share) / 10 + 0).toFixed(1);
}

/** Points with their sign. */
export function signed(share: number): string {
  const text = points(share);
  return share > 0 && text !== "0.0" ? `+${text}` : text;
}

/** Points of a hundred with their interval. */
export function withInterval({ mean, low, high }: Interval): string {
  return `${points(mean)} (${points(low)} to ${points(high)})`;
}

/** A difference in points of a hundred with its interval. */
export function signedInterval({ mean, low, high }: Interval): string {
  return `${signed(mean)} (${signed(low)} to ${signed(high)})`;
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}

/** A table in Markdown. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [row(head), row(head.map(() => "---")), ...rows.map(row)].join("\n");
}

/** Who answered. */
export function evaluatorOf({ backend }: Pick<Section, "backend">): string {
  return backend === "reference" ? "reference evaluator" : `engine ${backend}`;
}

/** How many times smaller the cache of `tokens` tokens is, zones included. */
export function wholeCacheRatio(
  method: Pick<MethodLine, "bytesPerToken" | "denseBytesPerToken" | "sink" | "recent">,
  tokens: number,
): number {
  const { bytesPerToken, denseBytesPerToken, sink, recent } = method;
  const archived = pageSlots * archivePages(tokens, sink, recent);
  return (
    (denseBytesPerToken * tokens) /
    (denseBytesPerToken * (tokens - archived) + bytesPerToken * archived)
  );
}
