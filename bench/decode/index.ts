/** Tokens a second on one thread, next to wllama and native llama.cpp. See README.md beside this file. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { barChart } from "../support/plot.js";
import { deadlines } from "../support/section.js";
import type { BenchOptions, Section } from "../support/section.js";
import { median } from "../support/stats.js";
import { bundleBenchWorker } from "./bundle.js";
import { casesOf, variantNames } from "./cases.js";
import type { Case } from "./cases.js";
import { caseFigures, caseTable } from "./report.js";
import { decodeSpeed, readBytesOf, runCase } from "./run.js";
import type { CaseResult } from "./run.js";

function chart(results: readonly CaseResult[]): string {
  return barChart({
    title: "Decode on one thread, tokens a second, each model to its own scale",
    series: variantNames,
    scale: "each",
    groups: results.map(({ case: { model }, variants }) => ({
      label: model,
      values: variantNames.map((name) => {
        const variant = variants.find(({ plan }) => plan.name === name);
        if (variant === undefined) return undefined;
        return median(variant.rounds.map((round) => decodeSpeed(variant.plan, round)));
      }),
    })),
  });
}

/** Runs the cases that are named, or all. */
export async function runDecode(
  options: BenchOptions,
  cases: readonly Case[] = casesOf(options),
): Promise<Section> {
  const folder = mkdtempSync(join(tmpdir(), "leanedge-bench-worker-"));
  try {
    const inWorkerd = cases.filter(({ variants }) => variants.some((v) => v.name === "workerd"));
    if (inWorkerd.length > 0) {
      await bundleBenchWorker(folder, Math.max(...inWorkerd.map(readBytesOf)));
    }
    const results: CaseResult[] = [];
    const ends = deadlines(
      performance.now(),
      options.deadlineMs ?? Infinity,
      cases.map(({ weight }) => weight),
    );
    for (const [i, benchCase] of cases.entries()) {
      results.push(await runCase(benchCase, folder, options.log, ends[i]));
    }
    const versions = new Map(
      results.flatMap(({ variants }) =>
        variants.map(({ plan, rounds }) => [plan.name, rounds[0]?.version ?? ""] as const),
      ),
    );
    return {
      name: "decode",
      markdown: [
        `Versions: ${[...versions].map(([name, version]) => `${name}: ${version}`).join("; ")}.`,
        "![Decode on one thread, tokens a second](images/bench-decode.svg)",
        ...results.map(caseTable),
      ].join("\n\n"),
      figures: results.flatMap(caseFigures),
      images: new Map([["bench-decode.svg", chart(results)]]),
    };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
