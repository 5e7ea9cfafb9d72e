/** 64 sessions on a worker against the engine alone. See README.md beside this file. */
import { longStory } from "../../test/support/conversation.js";
import { alternate } from "../support/child.js";
import { modelPath } from "../support/models.js";
import type { BenchOptions, Section } from "../support/section.js";
import { digits, mebibytes, median, percent, rounds } from "../support/stats.js";
import { startTurns } from "../support/turns.js";
import type { AmongOthersRun, BareRun, LoadRun, LoadTurn, Workload } from "./workload.js";

/** Of the bare engine's tokens a second. */
const shareMin = 0.9;
const gapStepsMax = 3;
const firstTokenStepsMax = 4;
const cancelStepsMax = 2;

/** Rounds of what does not depend on the machine's speed. */
const roundsAmongOthers = 3;

type Variant = { name: "engine" | "worker"; rounds: number };

/** Runs both in turn, a few seconds each, after a round that warms them up. */
export async function runWorker(options: BenchOptions): Promise<Section> {
  const { rounds: count, tiny, log } = options;
  const workload: Workload = {
    modelPath: modelPath("embedded"),
    prompt: longStory,
    ...(tiny
      ? { sessions: 4, generate: 12, longPrompt: 400, memoryMib: 256 }
      : { sessions: 64, generate: 60, longPrompt: 3_900, memoryMib: 1_024 }),
  };
  const engine = await startTurns<BareRun>(new URL("./run-bare.ts", import.meta.url), workload);
  const clients = await startTurns<LoadRun & AmongOthersRun>(
    new URL("./run-load.ts", import.meta.url),
    workload,
  );
  const bare: BareRun[] = [];
  const load: LoadRun[] = [];
  const among: AmongOthersRun[] = [];
  try {
    const variants: readonly Variant[] = [
      { name: "engine", rounds: count },
      { name: "worker", rounds: count },
    ];
    const throughput = "throughput" satisfies LoadTurn;
    await engine.turn(throughput);
    await clients.turn(throughput);
    await alternate(
      variants,
      async ({ name }) => {
        if (name === "engine") bare.push(await engine.turn(throughput));
        else load.push(await clients.turn(throughput));
        const speed = (name === "engine" ? bare : load).at(-1)?.tokensPerSecond ?? 0;
        log(`worker, ${name}: ${digits(speed)} tok/s`);
      },
      options.deadlineMs,
    );
    for (let round = 0; round < (tiny ? 1 : roundsAmongOthers); round++) {
      among.push(await clients.turn("among-others" satisfies LoadTurn));
    }
  } finally {
    await Promise.all([engine.stop(), clients.stop()]);
  }
  const of = (runs: readonly { tokensPerSecond: number }[]): number[] =>
    runs.map(({ tokensPerSecond }) => tokensPerSecond);
  const mid = (what: (run: LoadRun) => number): number => median(load.map(what));
  const midAmong = (what: (run: AmongOthersRun) => number): number => median(among.map(what));
  const { sessions } = workload;
  // Each round by itself: its two halves had the same machine.
  const shares = load.map((run, i) => run.tokensPerSecond / (bare[i]?.tokensPerSecond ?? NaN));
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
        `time. Of the engine's speed, each round: ${shares.map((share) => `${percent(share)} %`).join(", ")}. A short prompt among four ` +
        `long ones waits ${digits(midAmong(({ firstTokenMs }) => firstTokenMs))} ms for its first token. The worker ` +
        `process holds ${mebibytes(midAmong(({ residentBytes }) => residentBytes))} MiB at its end.`,
    ].join("\n\n"),
    figures: [
      {
        name: `${sessions} sessions over Connect, tokens a second of those of the engine alone`,
        measured: median(shares),
        ...{ bound: shareMin, sense: "at least", unit: "share" },
      },
      {
        name: "p99 gap between tokens, in steps of the batch",
        measured: mid(({ gapMs, stepMs }) => gapMs / stepMs),
        ...{ bound: gapStepsMax, sense: "at most", unit: "x" },
      },
      {
        name: "first token of a short prompt among four long ones, in steps",
        measured: midAmong(({ firstTokenSteps }) => firstTokenSteps),
        ...{ bound: firstTokenStepsMax, sense: "at most", unit: "x" },
      },
      {
        name: "steps for a client that has left, the one under way included",
        measured: midAmong(({ cancelSteps }) => cancelSteps),
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
