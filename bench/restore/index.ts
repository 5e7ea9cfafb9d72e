/** A saved cache restored, against its prompt computed anew. See README.md beside this file. */
import { alternate, runChild } from "../support/child.js";
import type { Figure } from "../support/figures.js";
import { modelPath } from "../support/models.js";
import { dense, prunedChoices } from "../support/plans.js";
import type { BenchOptions, Section } from "../support/section.js";
import { digits, median, rounds as each } from "../support/stats.js";
import type { RestoreMeasurement, RestoreWorkload } from "./run-restore.js";

/** How many times as fast as the replay. */
const ratioMin = 50;
const restores = 5;
/** A replay takes a quarter of a minute: rounds of the dense plan, and of the other, unless all is wanted. */
const roundsMax = { dense: 3, other: 1 };
const script = new URL("run-restore.ts", import.meta.url);

/** Runs the dense plan, whose snapshots are the largest, and the smallest that is meant for use. */
export async function runRestore(options: BenchOptions): Promise<Section> {
  const { tiny, full, log } = options;
  const size = tiny
    ? { modelPath: modelPath("tiny-f16"), tokens: 600 }
    : { modelPath: modelPath("long-29m-q4_0"), tokens: 4096 };
  const rows = [dense, ...prunedChoices.filter(({ storage }) => storage === "int4")].map(
    (choice) => {
      const most = full ? Infinity : choice === dense ? roundsMax.dense : roundsMax.other;
      const rounds = Math.min(options.rounds, most);
      return { choice, rounds, measured: [] as RestoreMeasurement[] };
    },
  );
  await alternate(
    rows,
    async ({ choice, measured }) => {
      const workload: RestoreWorkload = { ...size, tiny, choice, restores };
      const one = await runChild<RestoreMeasurement>(script, workload);
      measured.push(one);
      log(
        `restore, ${choice.name}: ${digits(one.restoreMs)} ms, ` +
          `replay ${digits(one.replayMs)} ms, ${one.bytes} bytes`,
      );
    },
    options.deadlineMs,
  );
  const summaries = rows.map(({ choice, measured }) => ({
    choice,
    bytes: measured[0]?.bytes ?? 0,
    replay: measured.map(({ replayMs }) => replayMs),
    restore: measured.map(({ restoreMs }) => restoreMs),
  }));
  return {
    name: "restore",
    markdown: [
      `A prompt of ${size.tokens} tokens, one thread, in Node.`,
      [
        "| plan | snapshot, MB | replay, ms | restore, ms | replay, each round | restore, each round |",
        "| --- | --- | --- | --- | --- | --- |",
        ...summaries.map(
          ({ choice, bytes, replay, restore }) =>
            `| ${choice.name} | ${(bytes / 1e6).toFixed(1)} | ${digits(median(replay))} | ` +
            `${digits(median(restore))} | ${each(replay)} | ${each(restore)} |`,
        ),
      ].join("\n"),
    ].join("\n\n"),
    figures: summaries.map(({ choice, replay, restore }): Figure => ({
      name: `restore of ${size.tokens} tokens, ${choice.name}, against replay`,
      measured: median(replay) / median(restore),
      ...{ bound: ratioMin, sense: "at least", unit: "x" },
    })),
    images: new Map(),
  };
}
