/** Tables in Markdown from result files: scores by method and length, differences with intervals. */
import { bootstrapMean, pairedBootstrap, type Interval } from "./bootstrap.js";
import { sampleName, type MethodLine, type ResultLine, type Results } from "./samples-file.js";

/** Pairs from which on a difference is settled; below, the report says that it is a first look. */
export const pairsWanted = 2_000;

/** Name of the method that the others are compared with. */
export const fullMethod = "full";

/** Points of a hundred, one digit behind the point. */
function points(share: number): string {
  // No minus before a zero.
  return (Math.round(1_000 * share) / 10 + 0).toFixed(1);
}

function signed(share: number): string {
  const text = points(share);
  return share > 0 && text !== "0.0" ? `+${text}` : text;
}

function withInterval({ mean, low, high }: Interval): string {
  return `${points(mean)} (${points(low)} to ${points(high)})`;
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [row(head), row(head.map(() => "---")), ...rows.map(row)].join("\n");
}

function unique<T>(values: Iterable<T>): T[] {
  return [...new Set(values)];
}

/** Results of one model: what one section of the report is made of. */
interface Section {
  readonly model: string;
  readonly methods: readonly MethodLine[];
  readonly results: readonly ResultLine[];
}

/** Scores of a method by sample. */
function scores(results: readonly ResultLine[], method: string): Map<string, number> {
  return new Map(
    results.filter((one) => one.method === method).map((one) => [sampleName(one), one.score]),
  );
}

/**
 * The report.
 *
 * @param files results, as readResults has them; each holds the replies of one model
 * @throws Error if a file has no line that names its methods, or replies of several models
 */
export function renderReport(files: readonly Results[]): string {
  const sections = files.map(sectionOf);
  const parts = [
    "# Evaluation results",
    "Written by `leanedge eval report`; `docs/evaluation/README.md` says how samples are made and scored. Scores are " +
      "points of 100; intervals are 95 % bootstrap intervals, differences are paired: the same samples under both methods.",
    ...sections.flatMap(renderSection),
  ];
  return `${parts.join("\n\n")}\n`;
}

function sectionOf({ methods, results }: Results): Section {
  const models = unique(methods.map(({ model }) => model));
  const [model] = models;
  if (model === undefined || models.length > 1) {
    throw new Error(`results of ${models.length} models in one file, 1 expected`);
  }
  const known = new Set(methods.map(({ method }) => method));
  const stranger = results.find(({ method }) => !known.has(method));
  if (stranger !== undefined) throw new Error(`no line says what method ${stranger.method} is`);
  return { model, methods, results };
}

function renderSection({ model, methods, results }: Section): string[] {
  const [first] = methods;
  const parts = [
    `## ${model}`,
    `Model file ${first?.modelFingerprint.slice(0, 16) ?? ""}, engine ${unique(methods.map(({ backend }) => backend)).join(", ")}, series \`${unique(methods.map(({ series }) => series)).join("`, `")}\`.`,
    methodTable(methods, results),
  ];
  const notSession = results.filter(({ task }) => task !== "session");
  const session = results.filter(({ task }) => task === "session");
  if (notSession.length > 0) {
    parts.push("### By length, in tokens", lengthTable(methods, notSession));
    const lengths = unique(notSession.map(({ length }) => length)).sort((a, b) => a - b);
    for (const length of lengths) {
      parts.push(`### By task, ${length} tokens`, taskTable(methods, notSession, length));
    }
  }
  if (session.length > 0) {
    parts.push("### Sessions, by turns between telling and asking", lengthTable(methods, session));
  }
  return parts;
}

/** A line a method: what its archive takes, its mean, and its difference from the full cache. */
function methodTable(methods: readonly MethodLine[], results: readonly ResultLine[]): string {
  const full = scores(results, fullMethod);
  let pairs = Infinity;
  const rows = methods.map(({ method, bytesPerToken, denseBytesPerToken, keptFraction }) => {
    const own = scores(results, method);
    let difference = "";
    if (method !== fullMethod && [...own.keys()].some((sample) => full.has(sample))) {
      const { mean, low, high, count } = pairedBootstrap(full, own);
      pairs = Math.min(pairs, count);
      difference = `${signed(mean)} (${signed(low)} to ${signed(high)})`;
    }
    return [
      method,
      bytesPerToken.toFixed(0),
      bytesPerToken > 0 ? (denseBytesPerToken / bytesPerToken).toFixed(1) : "",
      `${(100 * keptFraction).toFixed(0)} %`,
      own.size === 0 ? "" : withInterval(bootstrapMean([...own.values()])),
      difference,
      String(own.size),
    ];
  });
  const head = [
    "method",
    "archive bytes a token",
    "times smaller",
    "K kept",
    "score",
    "against full",
  ];
  const text = table([...head, "samples"], rows);
  return pairs < pairsWanted
    ? `${text}\n\nA first look: ${pairs} pairs, ${pairsWanted} are wanted before a difference is called settled.`
    : text;
}

function lengthTable(methods: readonly MethodLine[], results: readonly ResultLine[]): string {
  const lengths = unique(results.map(({ length }) => length)).sort((a, b) => a - b);
  return table(
    ["method", ...lengths.map(String)],
    methods.map(({ method }) => [
      method,
      ...lengths.map((length) => {
        const own = results.filter((one) => one.method === method && one.length === length);
        return own.length === 0 ? "" : withInterval(bootstrapMean(own.map(({ score }) => score)));
      }),
    ]),
  );
}

function taskTable(
  methods: readonly MethodLine[],
  results: readonly ResultLine[],
  length: number,
): string {
  const there = results.filter((one) => one.length === length);
  return table(
    ["task", ...methods.map(({ method }) => method), "samples"],
    unique(there.map(({ task }) => task)).map((task) => {
      const cells = methods.map(({ method }) => {
        const own = there.filter((one) => one.method === method && one.task === task);
        return own.length === 0 ? "" : points(bootstrapMean(own.map(({ score }) => score)).mean);
      });
      const samples = unique(there.filter((one) => one.task === task).map(({ seed }) => seed));
      return [task, ...cells, String(samples.length)];
    }),
  );
}
