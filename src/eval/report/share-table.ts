/** What pruning costs by the share of K that goes. */
import { pairedBootstrap } from "../bootstrap.js";
import { fullMethod } from "../methods.js";
import { sessionTask } from "../sample.js";
import type { MethodLine } from "../samples-file.js";
import { unique, valuesOf, type NamedResult } from "./sections.js";
import { signedInterval, table } from "./tables.js";

/** The first and the last of rising numbers. */
function rangeOf(rising: readonly number[]): string {
  return unique([rising[0], rising.at(-1)]).join(" to ");
}

/** A family of methods, and the per cent of K that one of them cuts: leank-70, magnitude-even-50. */
const shareName = /^(leank|leank-even|duo|heads|magnitude|magnitude-even|think|low|random)-(\d+)$/;

/**
 * What pruning costs by the share of K that goes, a line a family of methods: differences to the full cache on the same
 * samples, prompts only. Nothing where no family has two shares.
 */
export function shareTable(
  methods: readonly MethodLine[],
  replies: readonly NamedResult[],
): string[] {
  const asked = replies.filter(({ task }) => task !== sessionTask);
  const full = valuesOf(asked, fullMethod);
  const found = methods.flatMap(({ method, bytesPerToken }) => {
    const [, family, share] = shareName.exec(method) ?? [];
    const own = valuesOf(asked, method);
    if (family === undefined || ![...own.keys()].some((sample) => full.has(sample))) return [];
    const difference = pairedBootstrap(full, own);
    return [{ family, share: Number(share), bytes: bytesPerToken.toFixed(0), difference }];
  });
  const families = unique(found.map(({ family }) => family));
  const shares = unique(found.map(({ share }) => share)).sort((a, b) => a - b);
  if (found.length === families.length) return [];
  const pairs = unique(found.map(({ difference }) => difference.count)).sort((a, b) => a - b);
  return [
    "### By the share of K that goes",
    `Points against the full cache on the same prompts (${rangeOf(pairs)} pairs), sessions left out; behind a semicolon archive bytes a token. ` +
      "Widths are multiples of 16 channels: " +
      "methods with the same width in every head cut what comes closest to their name, and bytes say how much that is.",
    table(
      ["method", ...shares.map((share) => `${share} %`)],
      families.map((family) => [
        family,
        ...shares.map((share) => {
          const cell = found.find((one) => one.family === family && one.share === share);
          return cell === undefined ? "" : `${signedInterval(cell.difference)}; ${cell.bytes}`;
        }),
      ]),
    ),
  ];
}
