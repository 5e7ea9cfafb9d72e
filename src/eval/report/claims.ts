/** What a model and its plans are held against: a line a figure, with what was measured and whether that is enough. */
import { bootstrapMean } from "../bootstrap.js";
import { fullMethod } from "../methods.js";
import { sessionTask } from "../sample.js";
import { most, told, unmeasured, type Claim } from "./claim.js";
import {
  archiveClaims,
  costClaim,
  longPromptTokens,
  storageClaim,
  textClaim,
} from "./cost-claims.js";
import { correlation, rankCorrelation, type MaskScores } from "./masks.js";
import { evaluatorOf, pairsWanted, points, table } from "./tables.js";
import {
  lengthsOf,
  mean,
  perplexityTask,
  unique,
  type NamedResult,
  type Section,
} from "./sections.js";

/** Lengths at which the embedded model must answer, in tokens. */
const levelLengths: readonly number[] = [1_024, 2_048, 4_096];
const needleTasks: readonly string[] = [
  ...["single-1", "single-2", "single-3"],
  ...["multi-key-1", "multi-key-2", "multi-key-3", "multi-query"],
];

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
    ...archiveClaims(own),
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
