import { Code, ConnectError, createContextKey } from "@connectrpc/connect";
import type { ContextKey, ContextValues } from "@connectrpc/connect";

/** What keeps asynchronous work alive after the response has ended. */
export interface CallLifetime {
  /** Keeps the isolate's request context until `work` settles (the platform grants about 30 s). */
  waitUntil(work: Promise<unknown>): void;
}

/** What an RPC may know of the HTTP request that carries it. One object per request. */
export interface Call<Bindings> {
  /** The Worker's bindings, as the runtime gave them to this request. */
  readonly env: Bindings;
  /** Keeps work alive after the response. */
  readonly lifetime: CallLifetime;
  /** Names the request in logs and in `x-request-id`. */
  readonly requestId: string;
  /** The tenant whose key the request carries; undefined until the gate has named one. */
  tenant: string | undefined;
  /** Aborts when the client leaves early, and not when the implementation has ended. */
  readonly left: AbortSignal;
  /** How a response is written that Connect does not write itself; undefined where it must: JSON, text, unary calls. */
  readonly streamForm: StreamForm | undefined;
  /** Set by a streaming implementation that then gives out nothing: the body of this response is the client's, as it is. */
  passed: Response | undefined;
}

/** Binary streams without compression. */
export type StreamForm = "connect" | "grpc-web";

/** Typed name under which a mount stores the `Call` in Connect's context values. */
export type CallKey<Bindings> = ContextKey<Call<Bindings> | undefined>;

/** Makes the key of one mount. Create it once, at module scope. */
export function createCallKey<Bindings>(): CallKey<Bindings> {
  return createContextKey<Call<Bindings> | undefined>(undefined, {
    description: "HTTP request that carries the RPC",
  });
}

/**
 * The `Call` of a running RPC.
 *
 * Throws INTERNAL when the RPC does not come from a mount with this key.
 */
export function getCall<Bindings>(
  context: { readonly values: ContextValues },
  key: CallKey<Bindings>,
): Call<Bindings> {
  const call = context.values.get(key);
  if (call === undefined) {
    throw new ConnectError("the RPC was not mounted with this call key", Code.Internal);
  }
  return call;
}

/**
 * The tenant of a running RPC.
 *
 * Throws UNAUTHENTICATED when the mount's gate named none.
 */
export function getTenant<Bindings>(
  context: { readonly values: ContextValues },
  key: CallKey<Bindings>,
): string {
  const { tenant } = getCall(context, key);
  if (tenant === undefined) {
    throw new ConnectError("the call carries no API key", Code.Unauthenticated);
  }
  return tenant;
}
