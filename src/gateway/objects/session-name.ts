/** How a session's object is named and called. The tenant is part of the name: no id reaches another tenant's object. */
import { gatewayConfig } from "../config.js";
import type { GatewayVariables } from "../config.js";
import { readCallerKey, writeCallerKey } from "../keys/caller.js";
import type { CallerKey } from "../keys/caller.js";
import type { AnswerForm } from "./answer-format.js";
import { sharedName, sharedOf } from "./shared-name.js";

/** One call to a SessionObject. */
export interface SessionCall {
  /** Method of leanedge.v1.SessionService, or `Chat`. */
  readonly method: string;
  readonly tenant: string;
  readonly sessionId: string;
  readonly requestId: string;
  /** Of a `Chat`; empty if the client sent none. */
  readonly idempotencyKey: string;
  /** The API key that the caller showed; undefined: calls of the gateway itself. */
  readonly key?: CallerKey | undefined;
  /** It goes on with a call that its key was asked for. */
  readonly again?: boolean;
  /** How an answer is written; unset: in frames. */
  readonly form?: AnswerForm;
  /** Milliseconds that the client gives the answer; unset: as long as it takes. Only where the client gets what is written. */
  readonly timeoutMs?: number | undefined;
}

/** Header of a response whose head and body are the client's, to be passed on as they are. */
export const passHeader = "x-answer-pass";

/** Header of an error that was counted as the end of an answer. */
export const countedHeader = "x-answer-counted";

/** Name of the object of a tenant's session. Escaping keeps (tenant, id) pairs apart whatever characters they hold. */
export function sessionObjectName(tenant: string, sessionId: string): string {
  return `${encodeURIComponent(tenant)}/${encodeURIComponent(sessionId)}`;
}

/** Whether sessions share objects in this gateway. */
export function sharesObjects(env: GatewayVariables): boolean {
  return gatewayConfig(env).sessionObjects > 0;
}

/** Name of the object that keeps a tenant's session: its own, or one that it shares. */
export function sessionPlace(env: GatewayVariables, tenant: string, sessionId: string): string {
  const name = sessionObjectName(tenant, sessionId);
  const objects = gatewayConfig(env).sessionObjects;
  return objects === 0 ? name : sharedName(sharedOf(name, objects));
}

type WrittenCall = Omit<SessionCall, "key"> & { readonly caller?: string };

/** Header of a request that is a call. */
export const callHeader = "x-session-call";

/** A call as a header: JSON of ASCII. */
export function writeSessionCall({ key, ...call }: SessionCall): string {
  const written: WrittenCall = {
    ...call,
    ...(key === undefined ? {} : { caller: writeCallerKey(key) }),
  };
  return JSON.stringify(written).replaceAll(
    /[^\x20-\x7e]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Reads what writeSessionCall wrote. */
export function readSessionCall(text: string): SessionCall {
  const { caller = "", again = false, form = "frames", ...call } = JSON.parse(text) as WrittenCall;
  return { ...call, key: readCallerKey(caller), again, form };
}

/**
 * Name of a session's sequence on workers; another one for each life of a session id.
 *
 * @param prefix the id of its object; behind it `.` and its number where others share that
 */
export function sequenceName(prefix: string, createMs: number): string {
  return `${prefix}.${createMs.toString(36)}`;
}

/** Id of the object whose session a sequence is. */
export function sequenceObjectId(sequenceId: string): string {
  return sequenceId.slice(0, sequenceId.indexOf("."));
}

/** Number of the session whose sequence it is, in the object that it shares; NaN where it shares none. */
export function sequenceNumber(sequenceId: string): number {
  const [, number, createMs] = sequenceId.split(".");
  return createMs === undefined ? NaN : Number(number);
}
