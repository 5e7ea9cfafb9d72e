/** Result files put into one that is small enough to be committed: packed, and without the words of the replies. */
import { readFile, writeFile } from "node:fs/promises";
import { gunzipSync, gzipSync } from "node:zlib";
import {
  fileCharsMax,
  readResults,
  resultLine,
  type MethodLine,
  type ResultLine,
} from "./samples-file.js";

/** Fields that must be the same for a method's results of several files to go into one. */
const sameFields = ["model", "modelFingerprint", "planFingerprint", "backend", "series"] as const;

/** Text of a result file, packed with gzip (`.gz`) or not. */
export async function resultText(path: string): Promise<string> {
  const bytes = await readFile(path);
  if (!path.endsWith(".gz")) return bytes.toString("utf8");
  return gunzipSync(bytes, { maxOutputLength: fileCharsMax }).toString("utf8");
}

/**
 * Puts result files of one model and series together. Results stand sample by sample, so that what they share packs well;
 * methods that have none are left out.
 *
 * @param model what the model is called in place of its name there, which is that of a file on some machine
 * @returns how many results there are
 * @throws Error if two files say different things of a method, or have the same result twice
 */
export async function packResults(
  paths: readonly string[],
  out: string,
  model?: string,
): Promise<number> {
  const methods = new Map<string, MethodLine>();
  const results = new Map<string, ResultLine>();
  for (const path of paths) {
    const found = readResults(await resultText(path), path);
    for (const line of found.methods) {
      const known = methods.get(line.method) ?? line;
      for (const field of sameFields) {
        if (known[field] !== line[field]) {
          throw new Error(
            `${path}: ${line.method} has ${field} "${line[field]}", another file "${known[field]}"`,
          );
        }
      }
      methods.set(line.method, known);
    }
    for (const result of found.results) {
      const key = sortKey(result);
      if (results.has(key)) throw new Error(`${path}: ${key} is in another file, too`);
      results.set(key, { ...result, text: "" });
    }
  }
  const sorted = [...results].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, result]) => result);
  const asked = new Set(sorted.map(({ method }) => method));
  const named = [...methods.values()].filter(({ method }) => asked.has(method));
  const renamed = named.map((line) => (model === undefined ? line : { ...line, model }));
  const lines = [...renamed, ...sorted].map(resultLine);
  await writeFile(out, gzipSync(lines.join(""), { level: 9 }));
  return sorted.length;
}

/** Orders results by task, length, seed and method. */
function sortKey({ task, length, seed, method }: ResultLine): string {
  const digits = (value: number): string => String(value).padStart(9, "0");
  return `${task}/${digits(length)}/${digits(seed)}/${method}`;
}
