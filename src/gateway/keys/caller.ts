/** Who calls, once a key is known; and how that travels to a session's object. */
import { createContextKey } from "@connectrpc/connect";
import type { ContextKey, ContextValues } from "@connectrpc/connect";
import { keyLimitsOf } from "./key-limits.js";
import type { KeyLimits } from "./key-limits.js";

/** A key that a call showed, without the key itself. */
export interface CallerKey {
  /** Its id. */
  readonly keyId: string;
  /** Limits that hold; one that is not there is none. */
  readonly limits: KeyLimits;
}

/** Whoever showed a valid key. */
export interface Caller extends CallerKey {
  /** Tenant whose sessions it opens. */
  readonly tenant: string;
}

const callerContext: ContextKey<Caller | undefined> = createContextKey<Caller | undefined>(
  undefined,
  { description: "who calls" },
);

/** Notes who calls an RPC. */
export function setCaller(context: { readonly values: ContextValues }, caller: Caller): void {
  context.values.set(callerContext, caller);
}

/** Who calls an RPC; undefined where nobody was noted. */
export function getCaller(context: { readonly values: ContextValues }): Caller | undefined {
  return context.values.get(callerContext);
}

/** A key as text; empty for none. */
export function writeCallerKey(key: CallerKey | undefined): string {
  return key === undefined ? "" : JSON.stringify([key.keyId, key.limits]);
}

/** Reads what writeCallerKey wrote. */
export function readCallerKey(text: string): CallerKey | undefined {
  if (text === "") {
    return undefined;
  }
  const value: unknown = JSON.parse(text);
  const [keyId, limits] = Array.isArray(value) ? (value as readonly unknown[]) : [];
  if (typeof keyId !== "string") {
    throw new TypeError("a caller without the id of a key");
  }
  return { keyId, limits: keyLimitsOf(limits) };
}
