/** The report's Markdown: what methods are, what they score and lose, by length, task and turn. */
import { bootstrapMean, pairedBootstrap } from "../bootstrap.js";
import { fullMethod } from "../methods.js";
import type { MethodLine } from "../samples-file.js";
import { sessionTask } from "../sample.js";
import {
  alikeLengths,
  lengthsOf,
  mean,
  unique,
  valuesOf,
  type NamedResult,
  type Section,
} from "./sections.js";
import { shareTable } from "./share-table.js";
import {
  evaluatorOf,
  pairsWanted,
  points,
  signed,
  signedInterval,
  table,
  wholeCacheRatio,
  withInterval,
} from "./tables.js";

/** Contexts that whole caches are compared at, in tokens. */
const wholeCacheTokens = [4_096, 16_384] as const;

/** The head of a report. */
export function renderHead(): string[] {
  return [
    "# Evaluation results",
    "Written by `leanedge eval report`; `docs/evaluation/README.md` says how samples are made and scored. Scores are " +
      "points of 100; intervals are 95 % bootstrap intervals, differences are paired: the same samples under both methods.",
  ];
}

/**
 * One section, without its charts.
 *
 * @param charts Markdown of the charts, between the tables of methods and of lengths
 */
export function renderSection(section: Section, charts: readonly string[]): string[] {
  const { model, modelFingerprint, series, methods, replies, texts, stretched } = section;
  const parts = [
    `## ${model}, ${evaluatorOf(section)}`,
    `Model file ${modelFingerprint.slice(0, 16)}, series \`${series.join("`, `")}\`.`,
    "### What the methods are",
    originTable(methods),
  ];
  if (replies.length > 0) parts.push("### Scores", scoreTable(methods, replies));
  parts.push(...answeredTasks(methods, replies));
  parts.push(...shareTable(methods, replies));
  parts.push(...charts);
  const asked = replies.filter(({ task }) => task !== sessionTask);
  const session = replies.filter(({ task }) => task === sessionTask);
  if (asked.length > 0) {
    parts.push("### By length, in tokens");
    if (alikeLengths(asked).length < lengthsOf(asked).length) {
      parts.push(
        "Not every length has the same tasks, so that columns are not to be compared with each other: the chart has those that are.",
      );
    }
    parts.push(lengthTable(methods, asked));
    const differences = differenceTable(methods, asked);
    if (differences !== undefined) parts.push("Against the full cache:", differences);
    for (const length of lengthsOf(asked)) {
      parts.push(`### By task, ${length} tokens`, taskTable(methods, asked, length));
    }
  }
  if (session.length > 0) {
    parts.push("### Sessions, by turns between telling and asking", lengthTable(methods, session));
  }
  if (stretched.length > 0) {
    parts.push(
      `### Extrapolated: beyond the ${String(section.windowTokens)} tokens that the model was trained to read`,
      "By the length in tokens. None of these replies counts in what stands above.",
      lengthTable(methods, stretched),
      scoreTable(methods, stretched),
    );
    for (const length of lengthsOf(stretched)) {
      parts.push(
        `#### By task, ${length} tokens, extrapolated`,
        taskTable(methods, stretched, length),
      );
    }
  }
  if (texts.length > 0) {
    parts.push("### Perplexity of held-out books", perplexityTable(methods, texts));
  }
  return parts;
}

/** A line a method: what it keeps, what that takes, and where its plan comes from. */
function originTable(methods: readonly MethodLine[]): string {
  return table(
    [
      "method",
      "K kept",
      "pages read a step",
      "archive bytes a token",
      "times smaller",
      ...wholeCacheTokens.map((tokens) => `whole cache at ${tokens / 1024}K`),
      "channels from",
    ],
    methods.map((line) => [
      line.method,
      `${(100 * line.keptFraction).toFixed(0)} %`,
      line.pagesPerStep === 0 ? "all" : String(line.pagesPerStep),
      line.bytesPerToken.toFixed(0),
      line.bytesPerToken > 0 ? (line.denseBytesPerToken / line.bytesPerToken).toFixed(1) : "",
      ...wholeCacheTokens.map((tokens) => wholeCacheRatio(line, tokens).toFixed(2)),
      line.origin,
    ]),
  );
}

/** A line a method: its mean, and its difference from the full cache. */
function scoreTable(methods: readonly MethodLine[], results: readonly NamedResult[]): string {
  const full = valuesOf(results, fullMethod);
  let pairs = Infinity;
  const rows = methods.flatMap(({ method, bytesPerToken }) => {
    const own = valuesOf(results, method);
    if (own.size === 0) return [];
    let difference = "";
    if (method !== fullMethod && [...own.keys()].some((sample) => full.has(sample))) {
      const found = pairedBootstrap(full, own);
      pairs = Math.min(pairs, found.count);
      difference = signedInterval(found);
    }
    const score = withInterval(bootstrapMean([...own.values()]));
    return [[method, bytesPerToken.toFixed(0), score, difference, String(own.size)]];
  });
  const notes = [
    ...(pairs < pairsWanted
      ? [
          `A first look: ${pairs} pairs at least, ${pairsWanted} are wanted before a difference is called settled.`,
        ]
      : []),
    ...(unique(rows.map((cells) => cells.at(-1))).length > 1
      ? [
          "Methods that were asked more have scores that are means over other samples: compare their differences, each of which is of the same samples.",
        ]
      : []),
  ];
  const text = table(["method", "archive bytes a token", "score", "against full", "samples"], rows);
  return notes.length > 0 ? `${text}\n\n${notes.join(" ")}` : text;
}

/** From this mean score on the whole cache answers a task: 0 .. 1. */
const answeredMin = 0.5;

/**
 * The scores again, of those tasks that the whole cache answers: what a model cannot do anyway costs nothing, and makes
 * every difference smaller. Nothing where that is all tasks, or none.
 */
function answeredTasks(methods: readonly MethodLine[], replies: readonly NamedResult[]): string[] {
  const full = replies.filter(({ method }) => method === fullMethod);
  const tasks = unique(full.map(({ task }) => task));
  const answered = tasks.filter((task) => {
    const scores = full.filter((one) => one.task === task).map(({ score }) => score);
    return mean(scores) >= answeredMin;
  });
  if (answered.length === 0 || answered.length === tasks.length) return [];
  return [
    "### Scores on the tasks that the whole cache answers",
    `${answered.length} of ${tasks.length}, those with ${points(answeredMin)} points or more: \`${answered.join("`, `")}\`.`,
    scoreTable(
      methods,
      replies.filter(({ task }) => answered.includes(task)),
    ),
  ];
}

function lengthTable(methods: readonly MethodLine[], results: readonly NamedResult[]): string {
  const lengths = lengthsOf(results);
  return table(
    ["method", ...lengths.map(String)],
    methods.flatMap(({ method }) => {
      const own = results.filter((one) => one.method === method);
      const cells = lengths.map((length) => {
        const there = own.filter((one) => one.length === length).map(({ score }) => score);
        return there.length === 0 ? "" : withInterval(bootstrapMean(there));
      });
      return own.length === 0 ? [] : [[method, ...cells]];
    }),
  );
}

/** Differences from the full cache at each length; undefined where no other method was asked. */
function differenceTable(
  methods: readonly MethodLine[],
  results: readonly NamedResult[],
): string | undefined {
  const lengths = lengthsOf(results);
  const rows = methods.flatMap(({ method }) => {
    const cells = lengths.map((length) => {
      const there = results.filter((one) => one.length === length);
      const [full, own] = [valuesOf(there, fullMethod), valuesOf(there, method)];
      const hasPairs = [...own.keys()].some((sample) => full.has(sample));
      return hasPairs ? signedInterval(pairedBootstrap(full, own)) : "";
    });
    const isOther = method !== fullMethod && cells.some((cell) => cell !== "");
    return isOther ? [[method, ...cells]] : [];
  });
  return rows.length === 0 ? undefined : table(["method", ...lengths.map(String)], rows);
}

function taskTable(
  methods: readonly MethodLine[],
  results: readonly NamedResult[],
  length: number,
): string {
  const there = results.filter((one) => one.length === length);
  const tasks = unique(there.map(({ task }) => task));
  return table(
    ["method", ...tasks, "samples of each"],
    methods.flatMap(({ method }) => {
      const own = there.filter((one) => one.method === method);
      if (own.length === 0) return [];
      const scores = tasks.map((task) =>
        own.filter((one) => one.task === task).map(({ score }) => score),
      );
      const counts = unique(scores.map((values) => values.length)).sort((a, b) => a - b);
      const cells = scores.map((values) => (values.length === 0 ? "" : points(mean(values))));
      return [[method, ...cells, counts.join(" to ")]];
    }),
  );
}

/** Perplexities, and how much larger than the full cache's they are on the same texts. */
function perplexityTable(methods: readonly MethodLine[], texts: readonly NamedResult[]): string {
  const loss = (result: NamedResult): number => result.loss ?? NaN;
  const percent = (difference: number): string => signed(Math.expm1(difference));
  const lengths = lengthsOf(texts);
  return table(
    [
      "method",
      ...lengths.flatMap((length) => [`${length} tokens`, "against full, per cent"]),
      "texts",
    ],
    methods.flatMap(({ method }) => {
      const cells = lengths.flatMap((length) => {
        const there = texts.filter((one) => one.length === length);
        const [own, full] = [valuesOf(there, method, loss), valuesOf(there, fullMethod, loss)];
        if (own.size === 0) return ["", ""];
        const { mean, low, high } = bootstrapMean([...own.values()]);
        const exact = [mean, low, high].map((value) => Math.exp(value).toFixed(1));
        const perplexity = `${exact[0] ?? ""} (${exact[1] ?? ""} to ${exact[2] ?? ""})`;
        if (method === fullMethod || full.size === 0) return [perplexity, ""];
        const found = pairedBootstrap(full, own);
        return [
          perplexity,
          `${percent(found.mean)} (${percent(found.low)} to ${percent(found.high)})`,
        ];
      });
      const count = valuesOf(texts, method, loss).size;
      return count === 0 ? [] : [[method, ...cells, String(count)]];
    }),
  );
}
