/** What tests against peers share: skipping by name, temporary models, the margin rule. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { topTwo } from "../oracle/compare.js";
import { logitsAt } from "../oracle/oracle.js";
import type { Logits } from "../oracle/oracle.js";

/** What a test needs that may be missing on a machine, and how to get it. */
export type Need = { present: boolean; remedy: string };

const inCi = process.env["LEANEDGE_CI"] === "1";

/** True where tests with these needs are to be skipped; never in CI, where they fail instead. */
export function missing(...needs: readonly Need[]): boolean {
  return !inCi && needs.some((need) => !need.present);
}

/** A test's title, with the reason where it is going to be skipped. */
export function titled(title: string, ...needs: readonly Need[]): string {
  if (!missing(...needs)) return title;
  const remedies = needs.filter((need) => !need.present).map((need) => need.remedy);
  return `${title} [skipped: ${remedies.join(", ")}]`;
}

function fileNeed(path: string, remedy: string): Need & { path: string } {
  const absolute = fileURLToPath(new URL(path, import.meta.url));
  return { path: absolute, present: existsSync(absolute), remedy };
}

/** Karpathy's stories260K, which lies beside the checkout. */
export const stories260k = fileNeed(
  "../../../shared/models/stories260K.gguf",
  "needs ../shared/models/stories260K.gguf",
);

/** SmolLM2-135M-Instruct, as `leanedge pull` fetches it. */
export const smolLm2 = fileNeed(
  "../../models/cache/smollm2-135m-instruct.gguf",
  "needs `npm run fetch:smollm2`",
);

/** A folder for models of one test file; `remove` deletes it with all that is in it. */
export function temporaryFolder(name: string): {
  path: (file: string) => string;
  remove: () => void;
} {
  const folder = mkdtempSync(join(tmpdir(), `leanedge-${name}-`));
  return {
    path: (file) => join(folder, file),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** The bound: an engine may err this many times as much as llama.cpp does. */
export const errorRatioMax = 1.5;

/**
 * The same for the single largest error. It is one sample of 30,000: one activation that is rounded
 * the other way moves one row, and whether llama.cpp has such a row depends on the processor's kernels.
 * Measured: 0.9 to 1.2 in 130 comparisons and 1.6 in one, where the RMS errors were 1.02 apart.
 */
export const largestErrorRatioMax = 2;

/** Greedy choices against the oracle's; they may differ where its lead is within the error. */
export type GreedyComparison = {
  /** Positions at which the oracle's lead exceeds the error, so that tokens must agree. */
  decided: number;
  /** Decided positions at which they do not. */
  faults: { position: number; expected: number; actual: number; margin: number }[];
};

/**
 * Compares the best token of every row with the oracle's. `leadMin` is the spread of llama.cpp's
 * error (see LogitError): not our own, which would excuse itself.
 */
export function compareGreedy(actual: Logits, oracle: Logits, leadMin: number): GreedyComparison {
  const comparison: GreedyComparison = { decided: 0, faults: [] };
  for (let position = 0; position < oracle.positions; position++) {
    const { token: expected, margin } = topTwo(logitsAt(oracle, position));
    if (margin <= leadMin) continue;
    comparison.decided += 1;
    const { token } = topTwo(logitsAt(actual, position));
    if (token !== expected) comparison.faults.push({ position, expected, actual: token, margin });
  }
  return comparison;
}
