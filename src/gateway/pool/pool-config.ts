/** Pools and tokens, as the configuration names them. */
import { poolsMax } from "../limits.js";

/** A pool: the workers of one region, as a rule. */
export interface PoolConfig {
  /** Its name: 1 to 32 characters of [a-z0-9-]. */
  readonly name: string;
  /** Where its object shall live, as a Durable Object's location hint; undefined: near its first caller. */
  readonly location: PoolLocation | undefined;
}

/** Location hints of Durable Objects. */
export type PoolLocation = "wnam" | "enam" | "sam" | "weur" | "eeur" | "apac" | "oc" | "afr" | "me";

/** The pool of a gateway whose configuration names none. */
export const defaultPool: PoolConfig = { name: "default", location: undefined };

const entryPattern = /^(?<name>[a-z0-9-]{1,32})(?:@(?<location>[a-z]+))?$/;
const locations: readonly PoolLocation[] = [
  "wnam",
  "enam",
  "sam",
  "weur",
  "eeur",
  "apac",
  "oc",
  "afr",
  "me",
];

/** Shortest token: what nobody guesses. */
const tokenCharsMin = 16;
const tokenCharsMax = 4_096;

/**
 * Reads `NAME` or `NAME@LOCATION` entries separated by commas.
 *
 * @throws Error that names the entry and what is wrong with it
 */
export function parsePools(value: string | undefined): readonly [PoolConfig, ...PoolConfig[]] {
  const entries = value === undefined ? [] : value.split(",").map((entry) => entry.trim());
  if (entries.length > poolsMax) {
    throw new Error(`LEANEDGE_POOLS has ${entries.length} pools, at most ${poolsMax}`);
  }
  const pools = entries.map((entry, index): PoolConfig => {
    const { name, location } = entryPattern.exec(entry)?.groups ?? {};
    const known = locations.find((candidate) => candidate === location);
    if (name === undefined || known !== location) {
      throw new Error(
        `LEANEDGE_POOLS[${index}] is "${entry}"; it must read NAME or NAME@LOCATION, the location one of ${locations.join(", ")}`,
      );
    }
    return { name, location: known };
  });
  const names = pools.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) {
    throw new Error(`LEANEDGE_POOLS names the pool "${twice}" twice`);
  }
  const [first = defaultPool, ...rest] = pools;
  return [first, ...rest];
}

/**
 * Checks a token of the configuration.
 *
 * @throws Error that names the variable, and not the token
 */
export function parseToken(variable: string, value: string | undefined): string | undefined {
  if (value === undefined) {
    return undefined;
  }
  if (
    value.length < tokenCharsMin ||
    value.length > tokenCharsMax ||
    !/^[\x21-\x7e]+$/.test(value)
  ) {
    throw new Error(
      `${variable} must have ${tokenCharsMin} to ${tokenCharsMax} visible ASCII characters`,
    );
  }
  return value;
}
