/** What the decode benchmark runs: models, prompts, and who takes part. */
import type { ModelName } from "../support/models.js";
import { wanted } from "../support/section.js";
import type { BenchOptions } from "../support/section.js";

/** Who can take part, in the order of even rounds. */
export const variantNames = ["node", "workerd", "wllama", "llama.cpp"] as const;
/** Name of a variant. */
export type VariantName = (typeof variantNames)[number];

/** Lengths of a prompt and its answer, in tokens. */
export type Lengths = {
  prompt: number;
  generate: number;
  /** In as many rounds, the first ones; undefined: in all. */
  roundsMax?: number;
};

/** One variant's part of a case. */
export type VariantPlan = {
  name: VariantName;
  rounds: number;
  /** The prompt and answer that the oracle judges; they warm up as well. */
  check: Lengths;
  /**
   * As many as the case has columns; undefined: this variant does not do that one. The first is what
   * decoding is timed with. A prompt of another length than the column's times decoding only.
   */
  tasks: readonly (Lengths | undefined)[];
};

/** One model, run by several variants. */
export type Case = {
  model: ModelName;
  /** Its part of the benchmark's time. */
  weight: number;
  /** Prompt lengths, one for each column; the first has the answer that times decoding. */
  prompts: readonly number[];
  variants: readonly VariantPlan[];
};

const short: Lengths = { prompt: 127, generate: 64 };
const long: Lengths = { prompt: 1000, generate: 1 };

/**
 * What is judged where time is short: the oracle takes half a minute for 190 tokens of a large model,
 * and wllama as long as for the timed answer.
 */
const brief: Lengths = { prompt: 24, generate: 8 };

/** Rounds of what takes long, unless all is wanted: wllama with large models, and long prompts in it. */
const slowRoundsMax = 3;

/** A long prompt, in fewer rounds. */
function shortened(task: Lengths): Lengths {
  return task === long ? { ...long, roundsMax: slowRoundsMax } : task;
}

function small(
  model: ModelName,
  { rounds, full }: BenchOptions,
  tasks: readonly Lengths[],
  names: readonly VariantName[] = variantNames,
  check = short,
): Case {
  return {
    model,
    weight: tasks.length,
    prompts: tasks.map(({ prompt }) => prompt),
    variants: names.map((name) => {
      const slow = name === "wllama" && !full;
      return {
        ...{ name, rounds },
        check: slow && check === short ? brief : check,
        tasks: slow ? tasks.map(shortened) : tasks,
      };
    }),
  };
}

/**
 * wllama reads and writes 222M at 3 to 10 tokens a second. Fewer tokens give the same speed of
 * decoding, and no target asks how it reads a prompt in Q4_0. 222M do not fit a Worker, so workerd does
 * not take part.
 */
function large(model: ModelName, { rounds, full }: BenchOptions, tasks: readonly Lengths[]): Case {
  const hasLong = tasks.includes(long);
  const slow = hasLong
    ? [{ ...short, generate: 16 }, full ? long : undefined]
    : [{ ...(full ? short : brief), generate: 16 }];
  const slowRounds = full ? rounds : Math.min(rounds, slowRoundsMax);
  return {
    model,
    weight: 2,
    prompts: tasks.map(({ prompt }) => prompt),
    variants: [
      { name: "node", rounds, check: brief, tasks: full ? tasks : tasks.map(shortened) },
      { name: "wllama", rounds: slowRounds, check: brief, tasks: slow },
      { name: "llama.cpp", rounds, check: brief, tasks },
    ],
  };
}

function allCases(options: BenchOptions): readonly Case[] {
  if (options.tiny) {
    const lengths = { prompt: 20, generate: 4 };
    const tasks = [lengths, { prompt: 40, generate: 1 }];
    return [small("tiny-f16", options, tasks, variantNames, lengths)];
  }
  return [
    small("embedded", options, [short]),
    small("26m-q8_0", options, [short, long]),
    small("26m-q4_0", options, [short], ["node", "wllama", "llama.cpp"]),
    large("222m-q8_0", options, [short, long]),
    large("222m-q4_0", options, [short]),
  ];
}

/** The cases of a run. */
export function casesOf(options: BenchOptions): readonly Case[] {
  const cases = allCases(options);
  const models = wanted(
    "model",
    cases.map(({ model }) => model),
    options.models,
  );
  const names = wanted("variant", variantNames, options.variants);
  return cases
    .filter(({ model }) => models.includes(model))
    .map((one) => ({ ...one, variants: one.variants.filter(({ name }) => names.includes(name)) }));
}
