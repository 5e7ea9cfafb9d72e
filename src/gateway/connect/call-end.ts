import { Code, ConnectError, createContextKey } from "@connectrpc/connect";
import type { ContextKey, ContextValues } from "@connectrpc/connect";
import type { CallLifetime } from "./call.js";

/**
 * Why an RPC is over: the implementation returned and its answer was written, it threw or its answer could not be
 * written, its time ran out, or the client left first. (A unary answer that is too large to write counts as a success
 * under gRPC-web, where Connect does not tell.) The handler's signal aborts in all four cases (Connect aborts it on success as well), so the
 * signal alone says nothing.
 */
export type CallEnd = "success" | "error" | "deadline" | "client-gone";

/** The reason a call's signal carries when its client went away before the answer was complete. */
export class ClientGoneError extends ConnectError {
  readonly #clientGone = true;

  /** `cause` is what the runtime reported, if anything. */
  constructor(cause?: unknown) {
    super("the client went away", Code.Canceled, undefined, undefined, cause);
  }

  /** ConnectError's own check goes by shape and would take every ConnectError for this one. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === "object" && value !== null && #clientGone in value && value.#clientGone;
  }
}

/** What the adapter knows of a call's progress; written by the adapter only. */
export interface CallProgress {
  /** True once the call has passed the gate and its message (unary) has been read. */
  reached: boolean;
  /** `running` until the implementation returned (`success`) or threw (`error`). */
  handler: "running" | "success" | "error";
  /** Keeps the work of call-end listeners alive. */
  readonly lifetime: CallLifetime;
  /** Names the request in logs. */
  readonly requestId: string;
}

/** Where the adapter keeps a call's progress. */
export const callProgressKey: ContextKey<CallProgress | undefined> = createContextKey<
  CallProgress | undefined
>(undefined, { description: "progress of the RPC" });

/** The part of a handler's context that names its end. */
export interface EndingContext {
  /** Aborts when the call is over, for whatever reason. */
  readonly signal: AbortSignal;
  /** Carries the progress that the adapter keeps. */
  readonly values: ContextValues;
}

/** How a call ended; undefined while it runs. */
export function callEnd(context: EndingContext): CallEnd | undefined {
  if (!context.signal.aborted) {
    return undefined;
  }
  const reason: unknown = context.signal.reason;
  if (reason instanceof ClientGoneError) {
    return "client-gone";
  }
  const handler = context.values.get(callProgressKey)?.handler ?? "running";
  if (handler === "success") {
    // Connect aborts without a reason on success, which the platform fills with an AbortError. Anything else after the
    // implementation returned is an error of writing the answer: too large, not serialisable.
    return reason instanceof DOMException && reason.name === "AbortError" ? "success" : "error";
  }
  // While the implementation still runs, only the deadline and the client can abort the signal.
  if (
    handler === "running" &&
    reason instanceof ConnectError &&
    reason.code === Code.DeadlineExceeded
  ) {
    return "deadline";
  }
  return "error";
}

/**
 * Calls `listener` exactly once when the call is over, at once if it is over already.
 *
 * Clean-up belongs here and not into a generator's `finally`: a runtime may drop a generator without resuming it when
 * the client leaves. A promise that the listener returns is kept alive through `waitUntil`.
 */
export function onCallEnd(
  context: EndingContext,
  listener: (end: CallEnd) => void | Promise<void>,
): void {
  const { signal, values } = context;
  function notify(): void {
    const end = callEnd(context);
    if (end === undefined) {
      return;
    }
    const work = listener(end);
    if (work !== undefined) {
      values.get(callProgressKey)?.lifetime.waitUntil(work);
    }
  }
  if (signal.aborted) {
    notify();
  } else {
    signal.addEventListener("abort", notify, { once: true });
  }
}

/**
 * Calls `listener` at most once, when the client leaves before its answer is complete: never on success, on an error
 * of the implementation, or at the deadline.
 */
export function onClientGone(context: EndingContext, listener: () => void | Promise<void>): void {
  onCallEnd(context, (end) => (end === "client-gone" ? listener() : undefined));
}
