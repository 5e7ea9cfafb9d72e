/** What a model and its plans are held against: a line a figure, with what was measured and whether that is enough. */
import { bootstrapMean, pairedBootstrap, type Interval } from "../bootstrap.js";
import { fullMethod } from "../methods.js";
import { sessionTask } from "../sample.js";
import type { MethodLine } from "../samples-file.js";
import { correlation, rankCorrelation, type MaskScores } from "./masks.js";
import { evaluatorOf, pairsWanted, points, signed, table, wholeCacheRatio } from "./tables.js";
import {
  contentKey,
  lengthsOf,
  mean,
  perplexityTask,
  unique,
  valuesOf,
  type NamedResult,
  type Section,
} from "./sections.js";

/** What stands in the column of verdicts. */
export type Verdict = "met" | "not met" | "not settled" | "not measured" | "reported";

/** A line of the table. */
export interface Claim {
  readonly figure: string;
  /** What it must be; empty where it is only told. */
  readonly wanted: string;
  readonly found: string;
  /** Samples or pairs; 0: none. */
  readonly count: number;
  /** Who measured. */
  readonly by: string;
  readonly verdict: Verdict;
}

/** Lengths at which the embedded model must answer, in tokens. */
const levelLengths: readonly number[] = [1_024, 2_048, 4_096];
const needleTasks: readonly string[] = [
  ...["single-1", "single-2", "single-3"],
  ...["multi-key-1", "multi-key-2", "multi-key-3", "multi-query"],
];
/** From this factor on an archive counts as ten times smaller. */
const smallArchive = 10;
/** Shortest prompts of a pretrained model that count, in tokens. */
const longPromptTokens = 1_900;

const unmeasured = { found: "", count: 0, by: "", verdict: "not measured" } as const;

/** Whether the whole of an interval of costs, larger being worse, lies below a bound. */
export function verdictOf({ low, high }: Pick<Interval, "low" | "high">, bound: number): Verdict {
  if (high <= bound) return "met";
  return low > bound ? "not met" : "not settled";
}

/** The same of differences of scores, which are settled from 2,000 pairs on. */
function scoreVerdict({ low, high, count }: Interval, bound: number): Verdict {
  const found = verdictOf({ low: -high, high: -low }, bound);
  return found === "met" && count < pairsWanted ? "not settled" : found;
}

function told({ mean: middle, low, high }: Interval, show: (share: number) => string): string {
  return `${show(middle)} (${show(low)} to ${show(high)})`;
}

/** Of several evaluators of a model the one with the most to say. */
function most<T extends { readonly count: number }>(found: readonly T[]): T | undefined {
  return found.reduce<T | undefined>(
    (best, one) => (best === undefined || one.count > best.count ? one : best),
    undefined,
  );
}

/** The lowest mean score of some tasks at each length, under the full cache. */
export function levelClaim(
  sections: readonly Section[],
  figure: string,
  tasks: readonly string[],
  bound: number,
): Claim {
  const wanted = `${points(bound)} at least`;
  const found = sections.map((section) => {
    const replies = section.replies.filter(
      ({ method, task }) => method === fullMethod && tasks.includes(task),
    );
    return { section, replies, count: replies.length };
  });
  const best = most(found);
  if (best === undefined || best.count === 0) return { figure, wanted, ...unmeasured };
  const cells = tasks.flatMap((task) =>
    levelLengths.map((length) => ({
      name: `${task} at ${length}`,
      scores: best.replies
        .filter((one) => one.task === task && one.length === length)
        .map(({ score }) => score),
    })),
  );
  const asked = cells.filter(({ scores }) => scores.length > 0);
  const [lowest] = asked.sort((a, b) => mean(a.scores) - mean(b.scores));
  if (lowest === undefined) return { figure, wanted, ...unmeasured };
  const whole = asked.length === cells.length ? "" : `, ${asked.length} of ${cells.length} asked`;
  const enough = mean(lowest.scores) >= bound;
  return {
    figure,
    wanted,
    found: `lowest ${lowest.name}: ${told(bootstrapMean(lowest.scores), points)}${whole}`,
    count: lowest.scores.length,
    by: evaluatorOf(best.section),
    verdict: !enough ? "not met" : whole === "" ? "met" : "not settled",
  };
}

/** The mean score of sessions under the full cache. */
function sessionClaim(sections: readonly Section[]): Claim {
  const figure =
    "facts recalled in a session, asked 1 to 60 turns after they were told, full cache";
  const bound = 0.95;
  const wanted = `${points(bound)} at least`;
  const best = most(
    sections.map((section) => {
      const replies = section.replies.filter(
        ({ method, task }) => method === fullMethod && task === sessionTask,
      );
      return { section, replies, count: replies.length };
    }),
  );
  if (best === undefined || best.count === 0) return { figure, wanted, ...unmeasured };
  const far = Math.max(...lengthsOf(best.replies));
  const farthest = best.replies.filter(({ length }) => length === far);
  const scores = (replies: readonly NamedResult[]): number[] => replies.map(({ score }) => score);
  const all = bootstrapMean(scores(best.replies));
  return {
    figure,
    wanted,
    found: `${told(all, points)}; ${far} turns later ${points(mean(scores(farthest)))}`,
    count: all.count,
    by: evaluatorOf(best.section),
    verdict: all.mean >= bound ? "met" : "not met",
  };
}

/** Perplexity of held-out texts under the full cache. */
function perplexityClaim(sections: readonly Section[], bound: number): Claim {
  const figure = "perplexity of held-out books, last tokens of each window, full cache";
  const wanted = `${bound} at most`;
  const best = most(
    sections.map((section) => {
      const texts = section.texts.filter(({ method }) => method === fullMethod);
      return { section, texts, count: texts.length };
    }),
  );
  if (best === undefined || best.count === 0) return { figure, wanted, ...unmeasured };
  const losses = best.texts.map(({ loss }) => loss ?? NaN);
  const all = bootstrapMean(losses);
  const show = (loss: number): string => Math.exp(loss).toFixed(1);
  const lengths = lengthsOf(best.texts).map((length) => {
    const own = best.texts.filter((one) => one.length === length).map(({ loss }) => loss ?? NaN);
    return `${show(mean(own))} at ${length}`;
  });
  return {
    figure,
    wanted,
    found: `${told(all, show)}; ${lengths.join(", ")}`,
    count: all.count,
    by: evaluatorOf(best.section),
    verdict: Math.exp(all.mean) <= bound ? "met" : "not met",
  };
}

/** What a method costs in points, on all samples that some replies have in common with the full cache. */
export function costClaim(
  sections: readonly Section[],
  figure: string,
  method: string,
  bound: number | undefined,
  counts: (reply: NamedResult) => boolean = () => true,
): Claim {
  const wanted = bound === undefined ? "" : `at most ${points(bound)} points worse`;
  const best = most(
    sections.flatMap((section) => {
      const replies = section.replies.filter(counts);
      const [full, own] = [valuesOf(replies, fullMethod), valuesOf(replies, method)];
      if (![...own.keys()].some((key) => full.has(key))) return [];
      const difference = pairedBootstrap(full, own);
      return [{ section, difference, count: difference.count }];
    }),
  );
  if (best === undefined) return { figure, wanted, ...unmeasured };
  return {
    figure,
    wanted,
    found: told(best.difference, signed),
    count: best.count,
    by: evaluatorOf(best.section),
    verdict: bound === undefined ? "reported" : scoreVerdict(best.difference, bound),
  };
}

/** How much larger a method makes the perplexity of texts. */
export function textClaim(
  sections: readonly Section[],
  figure: string,
  method: string,
  bound: number | undefined,
): Claim {
  const wanted = bound === undefined ? "" : `at most ${points(bound)} % more`;
  const loss = (result: NamedResult): number => result.loss ?? NaN;
  const best = most(
    sections.flatMap((section) => {
      const texts = section.texts.filter(({ length }) => length >= longPromptTokens);
      const [full, own] = [valuesOf(texts, fullMethod, loss), valuesOf(texts, method, loss)];
      if (![...own.keys()].some((key) => full.has(key))) return [];
      const difference = pairedBootstrap(full, own);
      return [{ section, difference, count: difference.count }];
    }),
  );
  if (best === undefined) return { figure, wanted, ...unmeasured };
  const percent = (difference: number): string => `${signed(Math.expm1(difference))} %`;
  return {
    figure,
    wanted,
    found: told(best.difference, percent),
    count: best.count,
    by: evaluatorOf(best.section),
    verdict: bound === undefined ? "reported" : verdictOf(best.difference, Math.log1p(bound)),
  };
}

/**
 * Weights of two storages on the same samples, whichever series name them: pairs are made by task, length, seed and the
 * hash of a sample's ids and answers.
 */
export function storageClaim(sections: readonly Section[], model: string): Claim {
  const figure = "Q4_0 weights against F16 ones, all tasks, full cache";
  const bound = 0.005;
  const wanted = `at most ${points(bound)} points worse`;
  const best = most(
    sections
      .filter((section) => section.model === `${model}-f16`)
      .flatMap((exact) =>
        sections
          .filter((section) => section.model === `${model}-q4_0`)
          .flatMap((rounded) => {
            const [before, after] = [sharedValues(exact), sharedValues(rounded)];
            if (![...after.keys()].some((key) => before.has(key))) return [];
            const difference = pairedBootstrap(before, after);
            return [{ exact, rounded, difference, count: difference.count }];
          }),
      ),
  );
  if (best === undefined) return { figure, wanted, ...unmeasured };
  return {
    figure,
    wanted,
    found: told(best.difference, signed),
    count: best.count,
    by: unique([evaluatorOf(best.exact), evaluatorOf(best.rounded)]).join(" and "),
    verdict: scoreVerdict(best.difference, bound),
  };
}

/** Scores under the full cache of the samples that have a hash, by what they are in every series. */
function sharedValues({ replies }: Section): Map<string, number> {
  return new Map(
    replies
      .filter(({ method, sample }) => method === fullMethod && sample !== undefined)
      .map((reply) => [contentKey(reply), reply.score]),
  );
}

/** An archive ten times smaller: of the learned plans of that size the largest. */
function archiveClaim(sections: readonly Section[]): Claim {
  const times = ({ denseBytesPerToken, bytesPerToken }: MethodLine): number =>
    denseBytesPerToken / bytesPerToken;
  const methods = unique(sections.flatMap((section) => section.methods))
    .filter((line) => /^(leank|bytes)-/.test(line.method) && line.bytesPerToken > 0)
    .filter((line) => times(line) >= smallArchive)
    .sort((a, b) => times(a) - times(b));
  const claims = methods.map((line) => {
    const ratios = [4_096, 16_384].map(
      (tokens) => `${wholeCacheRatio(line, tokens).toFixed(1)} times at ${tokens / 1_024}K`,
    );
    const figure = `an archive ${times(line).toFixed(1)} times smaller, \`${line.method}\` (the whole cache: ${ratios.join(", ")})`;
    return costClaim(sections, figure, line.method, 0.015);
  });
  const figure = "an archive 10 times smaller";
  return most(claims) ?? { figure, wanted: "at most 1.5 points worse", ...unmeasured };
}

/** How alike factors are that were learned from two kinds of data. */
function factorsClaim(masks: MaskScores | undefined): Claim {
  const figure = "factors learned from two kinds of data";
  const [a, b] = [...(masks?.factorsByTask.values() ?? [])];
  if (a === undefined || b === undefined) return { figure, wanted: "", ...unmeasured };
  const [x, y] = [a.flat(2), b.flat(2)];
  return {
    figure,
    wanted: "",
    found: `Pearson ${correlation(x, y).toFixed(3)}, Spearman ${rankCorrelation(x, y).toFixed(3)} (published: over 0.98)`,
    count: x.length,
    by: "the training package",
    verdict: "reported",
  };
}

/** What else was compared. */
function othersClaim(sections: readonly Section[]): Claim {
  const methods = unique(
    sections.flatMap((section) =>
      section.replies.filter(({ method }) => method !== fullMethod).map(({ method }) => method),
    ),
  );
  const figure = "every other method";
  if (methods.length === 0) return { figure, wanted: "", ...unmeasured };
  return {
    figure,
    wanted: "",
    found: `${methods.length} methods in the tables below`,
    count: Math.max(...sections.map(({ replies }) => replies.length)),
    by: unique(sections.map(evaluatorOf)).join(", "),
    verdict: "reported",
  };
}

/** The lines of the embedded model. */
export function embeddedClaims(
  sections: readonly Section[],
  masks: readonly MaskScores[],
  model: string,
): Claim[] {
  const own = sections.filter((section) => section.model === `${model}-q4_0`);
  const scores = masks.find((one) =>
    own.some(({ modelFingerprint }) => modelFingerprint === one.modelFingerprint),
  );
  return [
    levelClaim(
      own,
      "each needle and key-value task at 1K, 2K and 4K, full cache",
      needleTasks,
      0.97,
    ),
    levelClaim(own, "multi-value needles at 1K, 2K and 4K, full cache", ["multi-value"], 0.85),
    levelClaim(own, "variable tracking at 1K, 2K and 4K, full cache", ["tracking"], 0.85),
    sessionClaim(own),
    perplexityClaim(own, 28),
    storageClaim(sections, model),
    costClaim(own, "LeanK at 70 % of K, `leank-70`", "leank-70", 0.005),
    costClaim(own, "LeanK at 80 % of K, `leank-80`", "leank-80", 0.015),
    archiveClaim(own),
    othersClaim(own),
    factorsClaim(scores),
  ];
}

/** The lines of a pretrained model: needles and texts of 2K tokens and more, LeanK beside ThinK and magnitude. */
export function pretrainedClaims(sections: readonly Section[], model: string): Claim[] {
  const own = sections.filter((section) => section.model.toLowerCase().startsWith(model));
  const isNeedle = ({ task, length }: NamedResult): boolean =>
    /^(single|multi)/.test(task) && length >= longPromptTokens && task !== perplexityTask;
  const bounds = [
    ["60", 0.01],
    ["70", 0.02],
  ] as const;
  return bounds.flatMap(([percent, bound]) =>
    (["leank", "think", "magnitude"] as const).flatMap((family) => {
      const method = `${family}-${percent}`;
      const wanted = family === "leank" ? bound : undefined;
      return [
        costClaim(own, `needles of 2K to 8K tokens, \`${method}\``, method, wanted, isNeedle),
        textClaim(own, `perplexity of windows of 2K to 8K tokens, \`${method}\``, method, wanted),
      ];
    }),
  );
}

/** Claims as Markdown. */
export function renderClaims(title: string, claims: readonly Claim[]): string[] {
  return [
    `### ${title}`,
    table(
      ["figure", "wanted", "measured", "samples or pairs", "by", "verdict"],
      claims.map(({ figure, wanted, found, count, by, verdict }) => [
        figure,
        wanted,
        found,
        count === 0 ? "" : String(count),
        by,
        verdict,
      ]),
    ),
  ];
}

/** What verdicts mean. */
export const claimsNote =
  "Differences are those to the full cache on the same samples. A bound on a difference is met where the whole interval " +
  `is within it (what is better than the full cache costs nothing), of scores with ${pairsWanted} pairs or more; it is not met where ` +
  "the whole interval is beyond it; between the two it is not settled. A level is met by its mean.";
