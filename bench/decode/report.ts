/** Turns measurements into the section of docs/benchmarks.md, and puts it there. */
import type { Measurement } from "./workload.js";

/** One variant's rounds, in the order in which they ran. */
export type VariantRounds = { name: string; rounds: readonly Measurement[] };

/** What was measured, where and when. */
export type Run = {
  command: string;
  /** ISO date. */
  date: string;
  device: string;
  /** Load average of the last minute before the first round: what else the machine was doing. */
  loadAverage: number;
  model: string;
  promptTokens: number;
  generate: number;
  /** Bytes of weights in the file that one decoded token reads. */
  fileBytesPerToken: number;
  variants: readonly VariantRounds[];
};

/**
 * From this load average on, other programs took time from those that were measured, and not from each
 * alike: the report then says so.
 */
export const quietLoadMax = 1;

const busyNote =
  "**The machine was busy with other work: figures are too low, and those of variants with several " +
  "processes or threads (wllama, workerd) suffer most.**";

/** The middle value; the mean of the two middle ones of an even count. Throws on none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.ceil(sorted.length / 2) - 1];
  if (upper === undefined || lower === undefined) throw new Error("the median of no values");
  return (upper + lower) / 2;
}

/** Prompt tokens a second. */
export function prefillSpeed(run: Run, measurement: Measurement): number {
  return (1000 * run.promptTokens) / measurement.prefillMs;
}

/** Generated tokens a second, the first one left out: it belongs to the prompt. */
export function decodeSpeed(run: Run, measurement: Measurement): number {
  return (1000 * (run.generate - 1)) / measurement.decodeMs;
}

const gigabyte = 1e9;

function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

function percent(share: number): string {
  return (100 * share).toFixed(share < 0.1 ? 1 : 0);
}

function row(run: Run, { name, rounds }: VariantRounds, ceiling: number | undefined): string {
  const prefill = rounds.map((round) => prefillSpeed(run, round));
  const decode = rounds.map((round) => decodeSpeed(run, round));
  const reads = rounds.flatMap((round) => round.readBytesPerSecond ?? []);
  const bytesPerRow = rounds[0]?.weightBytesPerRow ?? run.fileBytesPerToken;
  const moved = bytesPerRow * median(decode);
  const limit = reads.length > 0 ? median(reads) : ceiling;
  const cells = [
    name,
    digits(median(prefill)),
    digits(median(decode)),
    (moved / gigabyte).toFixed(2),
    limit === undefined ? "-" : `${percent(moved / limit)} % of ${digits(limit / gigabyte)}`,
    prefill.map(digits).join(" "),
    decode.map(digits).join(" "),
  ];
  return `| ${cells.join(" | ")} |`;
}

/** The section as Markdown, without its markers. */
export function reportMarkdown(run: Run): string {
  const reads = run.variants
    .filter(({ name }) => name === "node")
    .flatMap(({ rounds }) => rounds.flatMap((round) => round.readBytesPerSecond ?? []));
  const ceiling = reads.length > 0 ? median(reads) : undefined;
  const versions = run.variants.map(({ name, rounds }) => `${name}: ${rounds[0]?.version ?? ""}`);
  return [
    `Command: \`${run.command}\`  `,
    `Date: ${run.date}. Device: ${run.device}; load average ${run.loadAverage.toFixed(1)} before the first round.  `,
    `Model: ${run.model}, ${(run.fileBytesPerToken / 1e6).toFixed(1)} MB of weights a token; ` +
      `prompt of ${run.promptTokens} tokens, ${run.generate} generated greedily, one thread.  `,
    `Versions: ${versions.join("; ")}.`,
    ...(run.loadAverage > quietLoadMax ? ["", busyNote] : []),
    "",
    "| variant | prefill tok/s | decode tok/s | weights GB/s | of pure read GB/s | prefill, each round | decode, each round |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    ...run.variants.map((variant) => row(run, variant, ceiling)),
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
