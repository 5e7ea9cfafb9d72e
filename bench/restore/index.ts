/** A saved cache restored, against its prompt computed anew. See README.md beside this file. */
import { alternate, runChild } from "../support/child.js";
import type { Figure } from "../support/figures.js";
import { modelPath } from "../support/models.js";
import { dense, prunedChoices } from "../support/plans.js";
import type { BenchOptions, Section } from "../support/section.js";
import { digits, median, rounds } from "../support/stats.js";
import type { RestoreMeasurement, RestoreWorkload } from "./run-restore.js";

/** How many times as fast as the replay. */
const ratioMin = 50;
const restores = 5;
const script = new URL("run-restore.ts", import.meta.url);

/** Runs the dense plan, whose snapshots are the largest, and the smallest that is meant for use. */
export async function runRestore({ rounds: count, tiny, log }: BenchOptions): Promise<Section> {
  const size = tiny
    ? { modelPath: modelPath("tiny-f16"), tokens: 600 }
    : { modelPath: modelPath("long-29m-q4_0"), tokens: 4096 };
  const rows = [dense, ...prunedChoices.filter(({ storage }) => storage === "int4")].map(
    (choice) => ({ choice, rounds: count, measured: [] as RestoreMeasurement[] }),
  );
  await alternate(rows, async ({ choice, measured }) => {
    const workload: RestoreWorkload = { ...size, tiny, choice, restores };
    const one = await runChild<RestoreMeasurement>(script, workload);
    measured.push(one);
    log(
      `restore, ${choice.name}: ${digits(one.restoreMs)} ms, ` +
        `replay ${digits(one.replayMs)} ms, ${one.bytes} bytes`,
    );
  });
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
            `${digits(median(restore))} | ${rounds(replay)} | ${rounds(restore)} |`,
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
