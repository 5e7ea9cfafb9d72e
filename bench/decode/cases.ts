/** What the decode benchmark runs: models, prompts, and who takes part. */
import type { ModelName } from "../support/models.js";
import { wanted } from "../support/section.js";
import type { BenchOptions } from "../support/section.js";

/** Who can take part, in the order of even rounds. */
export const variantNames = ["node", "workerd", "wllama", "llama.cpp"] as const;
/** Name of a variant. */
export type VariantName = (typeof variantNames)[number];

/** Lengths of a prompt and its answer, in tokens. */
export type Lengths = { prompt: number; generate: number };

/** One variant's part of a case. */
export type VariantPlan = {
  name: VariantName;
  rounds: number;
  /** As many as the case has columns; undefined: this variant does not do that one. */
  tasks: readonly (Lengths | undefined)[];
};

/** One model, run by several variants. */
export type Case = {
  model: ModelName;
  /** The prompt and answer that the oracle judges; they warm up as well. */
  check: Lengths;
  /** Prompt lengths, one for each column; the first has the answer that times decoding. */
  prompts: readonly number[];
  variants: readonly VariantPlan[];
};

const short: Lengths = { prompt: 127, generate: 64 };
const long: Lengths = { prompt: 1000, generate: 1 };

/** wllama decodes a large model at 10 tokens a second: fewer tokens give the same speed. */
const slowShort: Lengths = { prompt: 127, generate: 16 };
/** And its rounds, unless all is wanted. */
const slowRoundsMax = 3;

/** The oracle takes half a minute for 190 tokens of a large model: it judges a shorter text. */
const largeCheck: Lengths = { prompt: 24, generate: 8 };

function small(
  model: ModelName,
  rounds: number,
  tasks: readonly Lengths[],
  names: readonly VariantName[] = variantNames,
): Case {
  return {
    model,
    check: short,
    prompts: tasks.map(({ prompt }) => prompt),
    variants: names.map((name) => ({ name, rounds, tasks })),
  };
}

/** 222M do not fit a Worker, so workerd does not take part. */
function large(model: ModelName, { rounds, full }: BenchOptions, tasks: readonly Lengths[]): Case {
  const slow = [slowShort, ...(tasks.includes(long) ? [full ? long : undefined] : [])];
  return {
    model,
    check: largeCheck,
    prompts: tasks.map(({ prompt }) => prompt),
    variants: [
      { name: "node", rounds, tasks },
      { name: "wllama", rounds: full ? rounds : Math.min(rounds, slowRoundsMax), tasks: slow },
      { name: "llama.cpp", rounds, tasks },
    ],
  };
}

function allCases(options: BenchOptions): readonly Case[] {
  const { rounds, tiny } = options;
  if (tiny) {
    const lengths = { prompt: 20, generate: 4 };
    const tasks = [lengths, { prompt: 40, generate: 1 }];
    return [{ ...small("tiny-f16", rounds, tasks), check: lengths }];
  }
  return [
    small("embedded", rounds, [short]),
    small("26m-q8_0", rounds, [short, long]),
    small("26m-q4_0", rounds, [short], ["node", "wllama", "llama.cpp"]),
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
