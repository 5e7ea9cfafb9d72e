/** Result files as sections of a report: one a model and engine, whatever files its results lie in. */
import { fullMethod } from "../methods.js";
import { sessionTask } from "../sample.js";
import { sampleName, type MethodLine, type ResultLine, type Results } from "../samples-file.js";

/** The task whose samples are texts, and whose results are losses. */
export const perplexityTask = "perplexity";

/** A result, and the name of its sample among all samples. */
export interface NamedResult extends ResultLine {
  readonly sampleKey: string;
}

/** Results of one model on one engine. */
export interface Section {
  readonly model: string;
  readonly modelFingerprint: string;
  readonly backend: string;
  readonly series: readonly string[];
  /** By archive bytes, the full cache first. */
  readonly methods: readonly MethodLine[];
  /** Tokens that the model was trained to read; undefined where no result file says it. */
  readonly windowTokens: number | undefined;
  /** Replies to samples that the model's window holds. */
  readonly replies: readonly NamedResult[];
  /** Replies to longer ones: extrapolated. */
  readonly stretched: readonly NamedResult[];
  /** Texts. */
  readonly texts: readonly NamedResult[];
}

/** A sample by what it is, whatever series names it: the hash is that of its ids and answers. */
export function contentKey({ task, length, seed, sample }: ResultLine): string {
  return `${task}/${length}/${seed}/${sample ?? ""}`;
}

/** Values in the order in which they come first. */
export function unique<T>(values: Iterable<T>): T[] {
  return [...new Set(values)];
}

/**
 * Puts result files together.
 *
 * @throws Error if a file has no line that names its methods, replies of several models, or a method
 *   whose plan is another one in another file
 */
export function sectionsOf(files: readonly Results[]): Section[] {
  const groups = new Map<string, { methods: MethodLine[]; results: NamedResult[] }>();
  for (const { methods, results } of files) {
    const models = unique(methods.map(({ model, backend }) => `${model}, engine ${backend}`));
    const [model] = models;
    if (model === undefined || models.length > 1) {
      throw new Error(`results of ${models.length} models in one file, 1 expected`);
    }
    const series = new Map(methods.map((line) => [line.method, line.series]));
    const named = results.map((result) => {
      const own = series.get(result.method);
      if (own === undefined) throw new Error(`no line says what method ${result.method} is`);
      return { ...result, sampleKey: `${own}/${sampleName(result)}/${result.sample ?? ""}` };
    });
    const group = groups.get(model) ?? { methods: [], results: [] };
    groups.set(model, group);
    for (const method of methods) {
      const known = group.methods.find((one) => one.method === method.method);
      for (const field of ["modelFingerprint", "planFingerprint"] as const) {
        if (known !== undefined && known[field] !== method[field]) {
          throw new Error(`${model}: ${method.method} has two values of ${field}`);
        }
      }
      group.methods.push(method);
    }
    group.results.push(...named);
  }
  return [...groups.values()].map(sectionOf);
}

function sectionOf(group: { methods: MethodLine[]; results: NamedResult[] }): Section {
  const byName = new Map(group.methods.map((line) => [line.method, line]));
  const methods = [...byName.values()].sort(
    (a, b) =>
      Number(b.method === fullMethod) - Number(a.method === fullMethod) ||
      b.bytesPerToken - a.bytesPerToken ||
      (a.method < b.method ? -1 : 1),
  );
  const [first] = methods;
  if (first === undefined) throw new Error("a section without methods");
  const { windowTokens } = group.methods.find((line) => line.windowTokens !== undefined) ?? {};
  const replies = group.results.filter(({ task }) => task !== perplexityTask);
  // The length of a session is in turns.
  const isLong = ({ task, length }: NamedResult): boolean =>
    task !== sessionTask && length > (windowTokens ?? Infinity);
  return {
    model: first.model,
    modelFingerprint: first.modelFingerprint,
    backend: first.backend,
    series: unique(group.methods.map(({ series }) => series)),
    methods,
    windowTokens,
    replies: replies.filter((result) => !isLong(result)),
    stretched: replies.filter(isLong),
    texts: group.results.filter(({ task }) => task === perplexityTask),
  };
}

/** A value of each sample that a method has, by the sample's name. */
export function valuesOf(
  results: readonly NamedResult[],
  method: string,
  value: (result: NamedResult) => number = ({ score }) => score,
): Map<string, number> {
  return new Map(
    results.filter((one) => one.method === method).map((one) => [one.sampleKey, value(one)]),
  );
}

/** Results of the samples that every one of some methods has. */
export function common(results: readonly NamedResult[], methods: readonly string[]): NamedResult[] {
  const sets = methods.map((method) => valuesOf(results, method));
  return results.filter(
    ({ method, sampleKey }) =>
      methods.includes(method) && sets.every((values) => values.has(sampleKey)),
  );
}

/** Mean of at least one value. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Lengths that have the same tasks, rising: those of the set of tasks that most lengths have. */
export function alikeLengths(results: readonly NamedResult[]): number[] {
  const byTasks = new Map<string, number[]>();
  for (const length of lengthsOf(results)) {
    const tasks = unique(
      results.filter((one) => one.length === length).map(({ task }) => task),
    ).sort();
    const key = tasks.join();
    byTasks.set(key, [...(byTasks.get(key) ?? []), length]);
  }
  return [...byTasks.values()].reduce(
    (best, lengths) => (lengths.length > best.length ? lengths : best),
    [],
  );
}

/** Lengths of results, rising. */
export function lengthsOf(results: readonly NamedResult[]): number[] {
  return unique(results.map(({ length }) => length)).sort((a, b) => a - b);
}
