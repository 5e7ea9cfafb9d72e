/**
 * No answer, no timing: every variant's tokens are judged by the oracle before they count. The oracle
 * is plain JavaScript in f64 and takes seconds, so its verdicts are kept in models/cache/ under a hash
 * of the model, the tokens and the oracle itself.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { topTwo } from "../../test/oracle/compare.js";
import { logitsAt, Oracle } from "../../test/oracle/oracle.js";

/**
 * A token may differ from the oracle's only where the oracle hardly prefers its own: by at most this
 * much, in logits, which deviate by 3 or more. llama.cpp moves two logits of a Q4_0 model apart by up
 * to 0.9, because it rounds activations to 8 bits.
 */
export const leadMax = 1;

/** Below this the oracle has no preference worth counting: logits of Q8_0 models err by as much. */
export const leadCounted = 0.25;

/** Departures that count are only on this share of an answer's tokens, or on one: they are rare. */
export const departuresShareMax = 1 / 8;

/** Where an answer leaves the oracle's: position in the answer, and the lead it gave up. */
export type Departure = { position: number; lead: number };

const oracleFolder = new URL("../../test/oracle/", import.meta.url);
const cacheFolder = new URL("../../models/cache/", import.meta.url);

/** Departures of a greedy answer. The oracle reads the answer itself, so one does not cause the next. */
export function departures(
  oracle: Oracle,
  promptIds: readonly number[],
  answer: readonly number[],
): Departure[] {
  const logits = oracle.logits([...promptIds, ...answer.slice(0, -1)]);
  return answer.flatMap((token, position) => {
    const row = logitsAt(logits, promptIds.length - 1 + position);
    const best = topTwo(row).token;
    return best === token ? [] : [{ position, lead: (row[best] ?? 0) - (row[token] ?? 0) }];
  });
}

/** Throws unless departures are few and small: the rounding of activations explains no more. */
export function checkDepartures(
  variant: string,
  found: readonly Departure[],
  answerTokens: number,
): void {
  const wrong = found.find(({ lead }) => lead > leadMax);
  if (wrong !== undefined) {
    throw new Error(
      `${variant} answers wrongly: token ${wrong.position} gives up a lead of ` +
        `${wrong.lead.toFixed(3)}, at most ${leadMax}`,
    );
  }
  const counted = found.filter(({ lead }) => lead > leadCounted).length;
  if (counted > Math.max(1, answerTokens * departuresShareMax)) {
    throw new Error(
      `${variant} answers wrongly: ${counted} of ${answerTokens} tokens are not the oracle's`,
    );
  }
}

/** Judges answers to prompts of one model. */
export class Judge {
  readonly #modelPath: string;
  #oracle: Oracle | undefined;
  #base: string | undefined;

  /** Reads nothing yet: where all verdicts are known, the oracle is not needed. */
  constructor(modelPath: string) {
    this.#modelPath = modelPath;
  }

  /** Departures of an answer from the oracle's. Throws unless the model gives this answer. */
  check(variant: string, promptIds: readonly number[], answer: readonly number[]): Departure[] {
    const found = this.#departures(promptIds, answer);
    checkDepartures(variant, found, answer.length);
    return found;
  }

  #departures(promptIds: readonly number[], answer: readonly number[]): Departure[] {
    this.#base ??= hashOf([
      readFileSync(this.#modelPath),
      ...readdirSync(oracleFolder)
        .filter((name) => name.endsWith(".ts") && !name.endsWith(".test.ts"))
        .map((name) => readFileSync(new URL(name, oracleFolder))),
    ]);
    const key = hashOf([this.#base, JSON.stringify([promptIds, answer])]);
    const path = fileURLToPath(new URL(`verdict-${key.slice(0, 32)}.json`, cacheFolder));
    if (existsSync(path)) return JSON.parse(readFileSync(path, "utf8")) as Departure[];
    this.#oracle ??= new Oracle(this.#modelPath);
    const found = departures(this.#oracle, promptIds, answer);
    mkdirSync(cacheFolder, { recursive: true });
    writeFileSync(path, JSON.stringify(found));
    return found;
  }
}

function hashOf(parts: readonly (Uint8Array | string)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}
