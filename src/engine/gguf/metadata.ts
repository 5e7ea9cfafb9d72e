/** Typed and bounded access to a file's metadata. */
import { GGUFValueType } from "@huggingface/gguf";
import type { MetadataValue } from "@huggingface/gguf";
import { ModelFileError, quote } from "./errors.js";

/** A value as the parser gives it, with its GGUF types. */
export interface MetadataEntry {
  readonly value: MetadataValue;
  readonly type: GGUFValueType;
  /** Type of an array's elements. */
  readonly subType?: GGUFValueType;
}

const integerTypes: ReadonlySet<GGUFValueType> = new Set([
  GGUFValueType.UINT8,
  GGUFValueType.INT8,
  GGUFValueType.UINT16,
  GGUFValueType.INT16,
  GGUFValueType.UINT32,
  GGUFValueType.INT32,
  GGUFValueType.UINT64,
  GGUFValueType.INT64,
]);

function wrongType(key: string, entry: MetadataEntry, wanted: string): ModelFileError {
  const type = GGUFValueType[entry.type];
  return new ModelFileError(
    "metadata",
    `metadata ${quote(key)} is of type ${type}, ${wanted} expected`,
  );
}

/** The metadata of a file. Every method throws ModelFileError `metadata` on a wrong type or range. */
export class Metadata {
  readonly #entries: ReadonlyMap<string, MetadataEntry>;

  constructor(entries: ReadonlyMap<string, MetadataEntry>) {
    this.#entries = entries;
  }

  /** Is the key there? */
  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /** Text, or undefined where the key is missing. */
  text(key: string): string | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (typeof entry.value !== "string") throw wrongType(key, entry, "STRING");
    return entry.value;
  }

  /** A truth value, or undefined where the key is missing. */
  flag(key: string): boolean | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (typeof entry.value !== "boolean") throw wrongType(key, entry, "BOOL");
    return entry.value;
  }

  /** A whole number in min .. max, or undefined where the key is missing. */
  integer(key: string, min: number, max: number): number | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (!integerTypes.has(entry.type)) throw wrongType(key, entry, "an integer");
    return this.#bounded(key, Number(entry.value), min, max);
  }

  /** A whole number; some converters write it once per layer, which must then agree. */
  uniformInteger(key: string, min: number, max: number): number | undefined {
    const entry = this.#entries.get(key);
    if (entry?.type !== GGUFValueType.ARRAY) return this.integer(key, min, max);
    const values = this.numbers(key) ?? [];
    const [first] = values;
    if (first === undefined || values.some((value) => value !== first)) {
      throw new ModelFileError(
        "architecture",
        `metadata ${quote(key)} differs between layers, which is not supported`,
      );
    }
    return this.#bounded(key, first, min, max);
  }

  /** A finite number in min .. max, or undefined where the key is missing. */
  number(key: string, min: number, max: number): number | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    const isFloat = entry.type === GGUFValueType.FLOAT32 || entry.type === GGUFValueType.FLOAT64;
    if (!isFloat && !integerTypes.has(entry.type)) throw wrongType(key, entry, "a number");
    const value = Number(entry.value);
    // Written so that NaN fails it.
    if (!(value >= min && value <= max)) {
      throw new ModelFileError(
        "metadata",
        `metadata ${quote(key)} is ${value}, outside ${min} to ${max}`,
      );
    }
    return value;
  }

  /** A list of text, or undefined where the key is missing. */
  texts(key: string): readonly string[] | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (!Array.isArray(entry.value) || entry.subType !== GGUFValueType.STRING) {
      throw wrongType(key, entry, "an array of STRING");
    }
    return entry.value as readonly string[];
  }

  /** A list of numbers, or undefined where the key is missing. */
  numbers(key: string): readonly number[] | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (!Array.isArray(entry.value)) throw wrongType(key, entry, "an array of numbers");
    return entry.value.map((value) => {
      if (typeof value !== "number" && typeof value !== "bigint") {
        throw wrongType(key, entry, "an array of numbers");
      }
      return Number(value);
    });
  }

  #bounded(key: string, value: number, min: number, max: number): number {
    if (!Number.isInteger(value) || value < min || value > max) {
      throw new ModelFileError(
        "metadata",
        `metadata ${quote(key)} is ${value}, outside ${min} to ${max}`,
      );
    }
    return value;
  }
}

/** The value, or ModelFileError `metadata` where the key was missing. */
export function required<T>(value: T | undefined, key: string): T {
  if (value === undefined)
    throw new ModelFileError("metadata", `metadata ${quote(key)} is missing`);
  return value;
}
