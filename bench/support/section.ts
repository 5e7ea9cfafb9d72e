/** What a benchmark hands back, and what it is told. */
import { cpus, loadavg } from "node:os";
import type { Figure } from "./figures.js";

/** How a benchmark is to run. */
export type BenchOptions = {
  /** Rounds of every variant, each in a fresh process. */
  rounds: number;
  /** Also what takes minutes: slow peers in all rounds. */
  full: boolean;
  /** A model and lengths so small that it runs within the tests; its figures mean nothing. */
  tiny: boolean;
  /** Models and variants to run, where a benchmark has several; undefined: all. */
  models?: readonly string[];
  variants?: readonly string[];
  /** When the benchmark should have ended, by performance.now(); undefined: whenever it does. */
  deadlineMs?: number;
  /** Told of every round as it ends. */
  log: (line: string) => void;
};

/**
 * Deadlines of parts that follow each other from `startMs` to `endMs`, each with the time that its
 * weight gives it; what one part leaves is the next one's.
 */
export function deadlines(
  startMs: number,
  endMs: number,
  weights: readonly number[],
): readonly number[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let sum = 0;
  return weights.map((weight) => {
    sum += weight;
    return startMs + ((endMs - startMs) * sum) / total;
  });
}

/** What of a benchmark's models or variants is wanted. Throws for a name that it does not have. */
export function wanted<T extends string>(
  what: string,
  known: readonly T[],
  names: readonly string[] | undefined,
): readonly T[] {
  if (names === undefined) return known;
  const unknown = names.find((name) => !(known as readonly string[]).includes(name));
  if (unknown !== undefined) throw new Error(`no ${what} ${unknown}: ${known.join(", ")}`);
  return known.filter((name) => names.includes(name));
}

/** A benchmark's part of docs/benchmarks.md. */
export type Section = {
  /** Name of its markers, and of its folder. */
  name: string;
  /** Tables and notes; the caller puts command, date and device before them. */
  markdown: string;
  /** What has a target. */
  figures: readonly Figure[];
  /** Pictures by file name, as SVG; they go to docs/images/. */
  images: ReadonlyMap<string, string>;
};

/** A benchmark. */
export type Benchmark = {
  name: string;
  /** Its part of the time of a run, in about seconds of 5 rounds on a quiet machine. */
  weight: number;
  run: (options: BenchOptions) => Promise<Section>;
};

/**
 * From this load average on, other programs took time from those that were measured, and not from each
 * alike: the report then says so.
 */
export const quietLoadMax = 1;

const busyNote =
  "**The machine was busy with other work: figures are too low, and those of variants with several " +
  "processes or threads suffer most.**";

/** Load average of the last minute. */
export function load(): number {
  return loadavg()[0] ?? 0;
}

/** The lines before every section: command, date, device, what else the machine was doing. */
export function heading(command: string, loadAverage: number): string {
  const device = `${cpus()[0]?.model.trim() ?? "unknown processor"}, ${cpus().length} cores`;
  const date = new Date().toISOString().slice(0, 10);
  return [
    `Command: \`${command}\`  `,
    `Date: ${date}. Device: ${device}; load average ${loadAverage.toFixed(1)} before the first round.`,
    ...(loadAverage > quietLoadMax ? ["", busyNote] : []),
  ].join("\n");
}

/** Replaces what stands between a section's markers. Throws when the markers are not there once. */
export function replaceSection(document: string, section: string, content: string): string {
  const start = `<!-- ${section}:start -->`;
  const end = `<!-- ${section}:end -->`;
  const [before, rest, ...more] = document.split(start);
  const [, after, ...twice] = rest?.split(end) ?? [];
  if (before === undefined || after === undefined || more.length > 0 || twice.length > 0) {
    throw new Error(`the document must hold ${start} and ${end} once each, in this order`);
  }
  return `${before}${start}\n\n${content}\n\n${end}${after}`;
}
