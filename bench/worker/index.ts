/** 64 sessions on a worker against the engine alone. See README.md beside this file. */
import { longStory } from "../../test/support/conversation.js";
import { alternate, runChild } from "../support/child.js";
import { modelPath } from "../support/models.js";
import type { BenchOptions, Section } from "../support/section.js";
import { digits, mebibytes, median, percent, rounds } from "../support/stats.js";
import type { BareRun, LoadRun, Workload } from "./workload.js";

/** Of the bare engine's tokens a second. */
const shareMin = 0.9;
const gapStepsMax = 3;
const firstTokenStepsMax = 4;
const cancelStepsMax = 2;

type Variant = { name: "engine" | "worker"; rounds: number };

/** Runs both in turn. */
export async function runWorker(options: BenchOptions): Promise<Section> {
  const { rounds: count, tiny, log } = options;
  const workload: Workload = {
    modelPath: modelPath("embedded"),
    prompt: longStory,
    ...(tiny
      ? { sessions: 4, generate: 12, longPrompt: 400, memoryMib: 256 }
      : { sessions: 64, generate: 60, longPrompt: 3_900, memoryMib: 1_024 }),
  };
  const bare: BareRun[] = [];
  const load: LoadRun[] = [];
  const variants: readonly Variant[] = [
    { name: "engine", rounds: count },
    { name: "worker", rounds: count },
  ];
  await alternate(
    variants,
    async ({ name }) => {
      const script = new URL(
        name === "engine" ? "./run-bare.ts" : "./run-load.ts",
        import.meta.url,
      );
      if (name === "engine") bare.push(await runChild<BareRun>(script, workload));
      else load.push(await runChild<LoadRun>(script, workload));
      const speed = (name === "engine" ? bare : load).at(-1)?.tokensPerSecond ?? 0;
      log(`worker, ${name}: ${digits(speed)} tok/s`);
    },
    options.deadlineMs,
  );
  const of = (runs: readonly { tokensPerSecond: number }[]): number[] =>
    runs.map(({ tokensPerSecond }) => tokensPerSecond);
  const mid = (what: (run: LoadRun) => number): number => median(load.map(what));
  const { sessions } = workload;
  return {
    name: "worker",
    markdown: [
      [
        `| ${sessions} sessions | tok/s in all | ms a step | tok/s, each round |`,
        "| --- | --- | --- | --- |",
        `| engine alone | ${digits(median(of(bare)))} | ${digits(median(bare.map(({ stepMs }) => stepMs)))} | ${rounds(of(bare))} |`,
        `| worker, over Connect | ${digits(median(of(load)))} | ${digits(mid(({ stepMs }) => stepMs))} | ${rounds(of(load))} |`,
      ].join("\n"),
      `While all sessions answer, the worker's engine computes ${percent(mid(({ engineShare }) => engineShare))} % of the ` +
        `time. A short prompt among four long ones waits ${digits(mid(({ firstTokenMs }) => firstTokenMs))} ms for its first ` +
        `token. The worker process holds ${mebibytes(mid(({ residentBytes }) => residentBytes))} MiB at its end.`,
    ].join("\n\n"),
    figures: [
      {
        name: `${sessions} sessions over Connect, tokens a second of those of the engine alone`,
        measured: median(of(load)) / median(of(bare)),
        ...{ bound: shareMin, sense: "at least", unit: "share" },
      },
      {
        name: "p99 gap between tokens, in steps of the batch",
        measured: mid(({ gapMs, stepMs }) => gapMs / stepMs),
        ...{ bound: gapStepsMax, sense: "at most", unit: "x" },
      },
      {
        name: "first token of a short prompt among four long ones, in steps",
        measured: mid(({ firstTokenSteps }) => firstTokenSteps),
        ...{ bound: firstTokenStepsMax, sense: "at most", unit: "x" },
      },
      {
        name: "steps for a client that has left, the one under way included",
        measured: mid(({ cancelSteps }) => cancelSteps),
        ...{ bound: cancelStepsMax, sense: "at most", unit: "x" },
      },
      {
        name: "second turns, earlier tokens in the cache",
        measured: Math.min(...load.map(({ cachedShare }) => cachedShare)),
        ...{ bound: 1, sense: "exactly", unit: "share" },
      },
    ],
    images: new Map(),
  };
}
