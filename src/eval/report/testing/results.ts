/** Results for tests of the report. */
import type { MethodLine, ResultLine } from "../../samples-file.js";

/** What a method is, whose plan is named like it. */
export function method(name: string, bytesPerToken: number): MethodLine {
  return {
    method: name,
    model: "seed",
    modelFingerprint: "ab",
    planFingerprint: name,
    backend: "wasm",
    bytesPerToken,
    denseBytesPerToken: 1_000,
    keptFraction: bytesPerToken / 1_000,
    sink: 16,
    recent: 112,
    pagesPerStep: 0,
    origin: "learned",
    series: "a",
  };
}

/** A result of each score, its seed the score's place. */
export function results(
  name: string,
  task: string,
  length: number,
  scores: number[],
): ResultLine[] {
  return scores.map((score, seed) => ({ method: name, task, length, seed, score, text: "" }));
}
