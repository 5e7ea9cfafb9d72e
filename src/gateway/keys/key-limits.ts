/** What an API key may use, by configuration and of its own. */
import { create } from "@bufbuild/protobuf";
import { KeyLimitsSchema } from "../../gen/leanedge/admin/v1/key_pb.js";
import type { KeyLimits as WireKeyLimits } from "../../gen/leanedge/admin/v1/key_pb.js";
import { invalidArgument } from "../errors.js";
import { keyLimitMax } from "../limits.js";

/** Limits and their names in the configuration, on the command line and in errors. */
export const keyLimitNames = {
  requestsPerMinute: "requests_per_minute",
  tokensPerMinute: "tokens_per_minute",
  turns: "turns",
  sessions: "sessions",
  contextTokens: "context_tokens",
  outputTokens: "output_tokens",
} as const;

/** One of the limits. */
export type KeyLimitField = keyof typeof keyLimitNames;

const fields = Object.keys(keyLimitNames) as KeyLimitField[];

/**
 * Limits; leanedge.admin.v1.KeyLimits says what each counts. Whole numbers of 0 to keyLimitMax; 0: no limit; not there:
 * the configuration's, or none.
 */
export type KeyLimits = Readonly<Partial<Record<KeyLimitField, number>>>;

/** Parses `NAME=NUMBER`, separated by commas. Throws an Error that begins with `what`. */
export function parseKeyLimits(what: string, text: string | undefined): KeyLimits {
  const limits: Partial<Record<KeyLimitField, number>> = {};
  for (const entry of text === undefined ? [] : text.split(",")) {
    const { name, value } =
      /^(?<name>[a-z_]+)=(?<value>\d{1,10})$/.exec(entry.trim())?.groups ?? {};
    const field = fields.find((known) => keyLimitNames[known] === name);
    if (field === undefined || value === undefined || Number(value) > keyLimitMax) {
      throw new Error(
        `${what} has "${entry.trim()}"; it must read NAME=NUMBER, where the name is one of ` +
          `${Object.values(keyLimitNames).join(", ")} and the number 0 to ${keyLimitMax}`,
      );
    }
    if (limits[field] !== undefined) {
      throw new Error(`${what} names ${keyLimitNames[field]} twice`);
    }
    limits[field] = Number(value);
  }
  return limits;
}

/** A key's own limits over the defaults; limits of 0 fall away. */
export function effectiveLimits(defaults: KeyLimits, own: KeyLimits): KeyLimits {
  const limits: Partial<Record<KeyLimitField, number>> = {};
  for (const field of fields) {
    const value = own[field] ?? defaults[field] ?? 0;
    if (value > 0) {
      limits[field] = value;
    }
  }
  return limits;
}

/** Limits of a request. Throws INVALID_ARGUMENT for one out of range. */
export function readKeyLimits(limits: WireKeyLimits | undefined): KeyLimits {
  const read: Partial<Record<KeyLimitField, number>> = {};
  for (const field of fields) {
    const value = limits?.[field];
    if (value !== undefined) {
      if (value > keyLimitMax) {
        throw invalidArgument(
          `limits.${keyLimitNames[field]} is ${value}, it must be 0 to ${keyLimitMax}`,
        );
      }
      read[field] = value;
    }
  }
  return read;
}

/** Limits as an answer has them. */
export function wireKeyLimits(limits: KeyLimits): WireKeyLimits {
  return create(KeyLimitsSchema, limits);
}

/** Limits from their JSON; what is not a limit is left out. */
export function keyLimitsOf(value: unknown): KeyLimits {
  const entries = typeof value === "object" && value !== null ? Object.entries(value) : [];
  return Object.fromEntries(
    entries.filter(
      ([field, limit]) =>
        (fields as readonly string[]).includes(field) &&
        typeof limit === "number" &&
        Number.isInteger(limit),
    ),
  );
}
