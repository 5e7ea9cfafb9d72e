/** Decoding behind a long context, under cache plans. See README.md beside this file. */
import { alternate, runChild } from "../support/child.js";
import type { Figure } from "../support/figures.js";
import { modelPath } from "../support/models.js";
import { barChart } from "../support/plot.js";
import { dense, prunedChoices } from "../support/plans.js";
import type { PlanChoice } from "../support/plans.js";
import type { BenchOptions, Section } from "../support/section.js";
import { digits, gigabyte, median, percent, rounds } from "../support/stats.js";
import type { PlanMeasurement, PlanWorkload } from "./run-plan.js";

/** Against our own dense f16 cache. */
const ratioMin = 2.5;
const figurePlan = "70 % pruned, int4";

/**
 * RMS difference of log-probabilities that the rounding of activations to 8 bits explains in a Q4_0
 * model whose logits deviate by 3; the bound that the conformance suite has for logits.
 */
export const errorMax = 0.25;

const selected: PlanChoice = {
  ...{ name: "70 % pruned, int4, 64 pages a step", pruned: true, storage: "int4" },
  selection: { pagesPerStep: 64, pagesFloor: 64 },
};

/** Rounds of plans without a target, unless all is wanted. */
const otherRoundsMax = 2;

const choices: readonly PlanChoice[] = [dense, ...prunedChoices, selected];

type Size = Omit<PlanWorkload, "choice">;

function sizeOf(tiny: boolean): Size {
  if (tiny) {
    const path = modelPath("tiny-f16");
    return { modelPath: path, tiny, tokens: 3000, warmSteps: 2, steps: 4, checkTokens: 400 };
  }
  const path = modelPath("long-29m-q4_0");
  return { modelPath: path, tiny, tokens: 16_384, warmSteps: 4, steps: 24, checkTokens: 1024 };
}

type Row = { choice: PlanChoice; measured: PlanMeasurement[] };

const script = new URL("run-plan.ts", import.meta.url);

async function runRows(options: BenchOptions, size: Size): Promise<Row[]> {
  const rows = choices.map((choice) => {
    const inFigure = options.full || choice === dense || choice.name === figurePlan;
    const rounds = inFigure ? options.rounds : Math.min(options.rounds, otherRoundsMax);
    return { choice, rounds, measured: [] as PlanMeasurement[] };
  });
  await alternate(
    rows,
    async ({ choice, measured }, round) => {
      // Correct before fast: the first round compares with the reference.
      const checkTokens = round === 0 ? size.checkTokens : 0;
      const workload: PlanWorkload = { ...size, choice, checkTokens };
      const one = await runChild<PlanMeasurement>(script, workload);
      if (!(one.error <= errorMax)) {
        throw new Error(
          `${choice.name}: log-probabilities differ from the reference by ${one.error.toFixed(3)} ` +
            `RMS, at most ${errorMax}`,
        );
      }
      measured.push(one);
      options.log(
        `long-context, ${choice.name}: ${digits((1000 * size.steps) / one.ms)} tok/s` +
          (checkTokens > 0 ? `, differs from the reference by ${one.error.toExponential(1)}` : ""),
      );
    },
    options.deadlineMs,
  );
  return rows;
}

/** Runs all plans. */
export async function runLongContext(options: BenchOptions): Promise<Section> {
  const size = sizeOf(options.tiny);
  const rows = await runRows(options, size);
  const speeds = ({ measured }: Row): number[] =>
    measured.map(({ ms }) => (1000 * size.steps) / ms);
  const [denseRow] = rows;
  if (denseRow === undefined) throw new Error("nothing was measured");
  const denseSpeed = median(speeds(denseRow));
  const table = rows.map((row) => {
    const speed = median(speeds(row));
    const [first] = row.measured;
    if (first === undefined) throw new Error(`${row.choice.name} was not measured`);
    const bytes = first.cacheBytes + first.weightBytesPerRow;
    const ceiling = median(row.measured.map((one) => one.readBytesPerSecond));
    // A step with page selection does not read all of its cache.
    const moved = row.choice.selection === undefined ? bytes * speed : undefined;
    return [
      row.choice.name,
      digits(speed),
      `${digits(speed / denseSpeed)} x`,
      (first.cacheBytes / 1e6).toFixed(1),
      ...(moved === undefined
        ? ["-", "-"]
        : [
            (moved / gigabyte).toFixed(2),
            `${percent(moved / ceiling)} % of ${digits(ceiling / gigabyte)}`,
          ]),
      first.error.toExponential(1),
      rounds(speeds(row)),
    ];
  });
  const header = [
    ...["plan", "decode, tok/s", "against dense", "cache, MB", "cache and weights, GB/s"],
    ...["of pure read, GB/s", "error against reference", "each round"],
  ];
  const target = rows.find(({ choice }) => choice.name === figurePlan);
  if (target === undefined) throw new Error(`no plan ${figurePlan}`);
  const figure: Figure = {
    name: `decode at ${size.tokens} tokens, ${figurePlan}, against dense f16`,
    measured: median(speeds(target)) / denseSpeed,
    ...{ bound: ratioMin, sense: "at least", unit: "x" },
  };
  return {
    name: "long-context",
    markdown: [
      `A cache of ${size.tokens} tokens, ${size.steps} steps, one thread, in Node.`,
      "![Decode behind a long context, tokens a second](images/bench-long-context.svg)",
      [
        `| ${header.join(" | ")} |`,
        `| ${header.map(() => "---").join(" | ")} |`,
        ...table.map((cells) => `| ${cells.join(" | ")} |`),
      ].join("\n"),
    ].join("\n\n"),
    figures: [figure],
    images: new Map([
      [
        "bench-long-context.svg",
        barChart({
          title: `Decode behind ${size.tokens} tokens, tokens a second`,
          series: ["tok/s"],
          scale: "shared",
          groups: rows.map((row) => ({ label: row.choice.name, values: [median(speeds(row))] })),
        }),
      ],
    ]),
  };
}
