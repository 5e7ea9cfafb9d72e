/**
 * Samples and results as JSON lines: the files that the reference evaluator of the training package
 * reads and writes (`train/README.md`, "Evaluation tasks"). A sample there is one run of ids, whose
 * segments ours may name besides (`[["prompt", 40], ["generated", 12], ...]`); a result line is one sample under one method. Ours has, besides, a line for each method that names model
 * and plan, without a `task`.
 */
import { createHash } from "node:crypto";
import type { SegmentKind } from "../engine/engine.js";
import { sampleIds, type Sample } from "./sample.js";
import { scoreKinds, type ScoreKind } from "./score.js";

/** Longest file that is read, in UTF-16 units: 2,000 samples of 32K tokens and more. */
export const fileCharsMax = 1 << 29;

/** What a method is: the line that comes before its results. */
export interface MethodLine {
  readonly method: string;
  /** Name of the model. */
  readonly model: string;
  /** Fingerprint of the model file, lower-case hexadecimal. */
  readonly modelFingerprint: string;
  /** Fingerprint of the plan, lower-case hexadecimal. */
  readonly planFingerprint: string;
  readonly backend: string;
  /** Bytes of one token in the archive, scales counted. */
  readonly bytesPerToken: number;
  /** Bytes of one token in f16, nothing left out. */
  readonly denseBytesPerToken: number;
  /** Share of K channels that the archive keeps, 0 .. 1. */
  readonly keptFraction: number;
  /** Rows of the sink zone. */
  readonly sink: number;
  /** Least rows of the recent zone. */
  readonly recent: number;
  /** Archive pages that each KV head reads in a step; 0: all. */
  readonly pagesPerStep: number;
  /** Where the plan's channels come from, for people. */
  readonly origin: string;
  /** Names the series of samples; samples of another series are no pairs. */
  readonly series: string;
  /** Tokens that the model was trained to read; longer samples are extrapolated. Unset: not said. */
  readonly windowTokens?: number;
}

/** One reply. */
export interface ResultLine {
  readonly method: string;
  readonly task: string;
  readonly length: number;
  readonly seed: number;
  /** 0 .. 1. */
  readonly score: number;
  /** The reply. */
  readonly text: string;
  /** Of a `loss` sample: mean negative log-likelihood of its targets, in nats; score is exp(-loss). */
  readonly loss?: number;
  /** The sample's sampleHash. */
  readonly sample?: string;
}

/** What a result file holds. */
export interface Results {
  readonly methods: readonly MethodLine[];
  readonly results: readonly ResultLine[];
}

/** Names a sample among those of a series. */
export function sampleName(sample: Pick<Sample, "task" | "length" | "seed">): string {
  return `${sample.task}/${sample.length}/${sample.seed}`;
}

/** Sixteen hexadecimal digits of SHA-256 over ids and answers: another sample has others. */
export function sampleHash(sample: Sample): string {
  const { answers, score, maxTokens } = sample;
  const text = JSON.stringify([sampleIds(sample), answers, score, maxTokens]);
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/**
 * One line of a file of samples, its end included.
 *
 * @param withSegments whether a sample of several segments says where they end, which the reference evaluator
 *   does not read: without, it is one prompt
 */
export function sampleLine(sample: Sample, withSegments = false): string {
  const { task, length, answers, score, seed, maxTokens } = sample;
  const ids = sampleIds(sample);
  const segments = sample.segments.map((segment) => [segment.kind, segment.ids.length]);
  const line = {
    task,
    length,
    ids,
    answers,
    score,
    seed,
    max_tokens: maxTokens,
    ...(withSegments && segments.length > 1 ? { segments } : {}),
  };
  return `${JSON.stringify(line)}\n`;
}

/** Longest reply of a sample that names none: the reference evaluator's. */
const maxTokensDefault = 96;

/**
 * Reads a file of samples; each is one prompt where no segments are named.
 *
 * @param name of the file, for messages
 * @throws Error that names file, line and what is wrong there
 */
export function readSamples(text: string, name: string): Sample[] {
  return lines(text, name).map(({ fields, where }) => {
    const ids = fields.list("ids", (id) => Number.isInteger(id) && Number(id) >= 0) as number[];
    const score = fields.text("score");
    if (!isScoreKind(score)) {
      throw new Error(`${where}: score "${score}", ${scoreKinds.join(", ")} expected`);
    }
    const maxTokens = fields.has("max_tokens") ? fields.whole("max_tokens") : maxTokensDefault;
    const named = {
      task: fields.text("task"),
      length: fields.whole("length"),
      seed: fields.whole("seed"),
      score,
      maxTokens,
    };
    if (score === "loss") {
      // The row before the first target is no target, but is read as generated, too.
      const border = ids.length - maxTokens - 1;
      if (border < 1 || maxTokens < 1) {
        throw new Error(`${where}: ${maxTokens} targets, 1 to ${ids.length - 2} expected`);
      }
      const prompt = ids.slice(0, border);
      return {
        ...named,
        answers: [],
        segments: [{ kind: "prompt", ids: prompt }],
        targets: ids.slice(border),
      };
    }
    const answers = fields.list("answers", (answer) => typeof answer === "string") as string[];
    if (!fields.has("segments")) return { ...named, answers, segments: [{ kind: "prompt", ids }] };
    const parts = fields.list("segments", isSegment) as [SegmentKind, number][];
    const tokens = parts.reduce((sum, [, count]) => sum + count, 0);
    if (tokens !== ids.length) {
      throw new Error(`${where}: segments of ${tokens} ids, there are ${ids.length}`);
    }
    let at = 0;
    const segments = parts.map(([kind, count]) => ({ kind, ids: ids.slice(at, (at += count)) }));
    return { ...named, answers, segments };
  });
}

/** Whether a value is `[kind, count of ids]`. */
function isSegment(value: unknown): boolean {
  if (!Array.isArray(value) || value.length !== 2) return false;
  const [kind, count] = value as unknown[];
  return (
    (kind === "prompt" || kind === "generated") && Number.isInteger(count) && Number(count) > 0
  );
}

function isScoreKind(text: string): text is ScoreKind {
  return scoreKinds.some((kind) => kind === text);
}

/** One line of a result file, its end included; keys as the reference evaluator writes them. */
export function resultLine(result: ResultLine | MethodLine): string {
  if ("task" in result) return `${JSON.stringify(result)}\n`;
  const { method, model, backend, series } = result;
  const line = {
    method,
    model,
    model_fingerprint: result.modelFingerprint,
    plan_fingerprint: result.planFingerprint,
    backend,
    bytes_per_token: result.bytesPerToken,
    dense_bytes_per_token: result.denseBytesPerToken,
    kept_fraction: result.keptFraction,
    sink: result.sink,
    recent: result.recent,
    pages_per_step: result.pagesPerStep,
    origin: result.origin,
    series,
    ...(result.windowTokens === undefined ? {} : { window_tokens: result.windowTokens }),
  };
  return `${JSON.stringify(line)}\n`;
}

/**
 * Reads a result file, ours or the reference evaluator's.
 *
 * @param name of the file, for messages
 * @throws Error that names file, line and what is wrong there
 */
export function readResults(text: string, name: string): Results {
  const methods: MethodLine[] = [];
  const results: ResultLine[] = [];
  const seen = new Set<string>();
  for (const { fields, where } of lines(text, name)) {
    const method = fields.text("method");
    if (!fields.has("task")) {
      methods.push({
        method,
        model: fields.text("model"),
        modelFingerprint: fields.text("model_fingerprint"),
        planFingerprint: fields.text("plan_fingerprint"),
        backend: fields.text("backend"),
        bytesPerToken: fields.number("bytes_per_token", Infinity),
        denseBytesPerToken: fields.number("dense_bytes_per_token", Infinity),
        keptFraction: fields.number("kept_fraction", 1),
        sink: fields.whole("sink"),
        recent: fields.whole("recent"),
        pagesPerStep: fields.whole("pages_per_step"),
        origin: fields.text("origin"),
        series: fields.text("series"),
        ...(fields.has("window_tokens") ? { windowTokens: fields.whole("window_tokens") } : {}),
      });
      continue;
    }
    const result: ResultLine = {
      method,
      task: fields.text("task"),
      length: fields.whole("length"),
      seed: fields.whole("seed"),
      score: fields.number("score", 1),
      text: fields.text("text"),
      ...(fields.has("loss") ? { loss: fields.number("loss", Infinity) } : {}),
      ...(fields.has("sample") ? { sample: fields.text("sample") } : {}),
    };
    const key = `${method}/${sampleName(result)}`;
    if (seen.has(key)) throw new Error(`${where}: ${key} is there twice`);
    seen.add(key);
    results.push(result);
  }
  return { methods, results };
}

/** Fields of one line, checked as they are read. */
class Fields {
  readonly #value: Readonly<Record<string, unknown>>;
  readonly #where: string;

  constructor(value: Readonly<Record<string, unknown>>, where: string) {
    this.#value = value;
    this.#where = where;
  }

  has(name: string): boolean {
    return this.#value[name] !== undefined;
  }

  text(name: string): string {
    const value = this.#value[name];
    if (typeof value !== "string") throw this.#refusal(name, "a text");
    return value;
  }

  whole(name: string): number {
    const value = this.#value[name];
    if (!Number.isSafeInteger(value) || Number(value) < 0) {
      throw this.#refusal(name, "a whole number from 0 on");
    }
    return Number(value);
  }

  number(name: string, highest: number): number {
    const value = this.#value[name];
    if (typeof value !== "number" || !(value >= 0 && value <= highest)) {
      throw this.#refusal(name, `a number, 0 to ${highest}`);
    }
    return value;
  }

  list(name: string, isItem: (item: unknown) => boolean): unknown[] {
    const value: unknown = this.#value[name];
    if (!Array.isArray(value) || value.length === 0 || !value.every(isItem)) {
      throw this.#refusal(name, "a list of at least one");
    }
    return value;
  }

  #refusal(name: string, wanted: string): Error {
    const value = JSON.stringify(this.#value[name]) as string | undefined;
    return new Error(
      `${this.#where}: ${name} is ${value?.slice(0, 40) ?? "missing"}, ${wanted} expected`,
    );
  }
}

function lines(text: string, name: string): { fields: Fields; where: string }[] {
  if (text.length > fileCharsMax) {
    throw new Error(`${name}: ${text.length} characters, at most ${fileCharsMax}`);
  }
  return text.split("\n").flatMap((line, index) => {
    if (line === "") return [];
    const where = `${name}:${index + 1}`;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw new Error(`${where}: no JSON`, { cause });
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new Error(`${where}: a JSON object expected`);
    }
    return [{ fields: new Fields(value as Readonly<Record<string, unknown>>, where), where }];
  });
}
