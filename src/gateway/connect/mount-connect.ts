import type { JsonReadOptions, JsonWriteOptions } from "@bufbuild/protobuf";
import { createConnectRouter, createContextValues } from "@connectrpc/connect";
import type { ConnectRouter, HandlerContext, Interceptor } from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerRequest } from "@connectrpc/connect/protocol";
import type { Context, Env, Hono } from "hono";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import type { Call, CallKey, CallLifetime, StreamForm } from "./call.js";
import { callProgressKey } from "./call-end.js";
import type { CallProgress } from "./call-end.js";
import { Exchange } from "./fetch-bridge.js";
import { binaryBody, binaryHeaders, textDirections, textResponse } from "./grpc-web-text.js";
import { gzipCompression } from "./gzip.js";
import { blameClientInResponse } from "./parse-failure.js";
import { explainRefusal, isNativeGrpc, refuseNativeGrpc, refuseUnknownMethod } from "./refuse.js";
import { createRpcCors } from "./rpc-cors.js";
import type { RpcCors, RpcCorsOptions } from "./rpc-cors.js";
import { defaultRpcLimits } from "./rpc-limits.js";
import type { RpcLimits } from "./rpc-limits.js";
import { createCallWatcher } from "./watch-call.js";

/** How a set of services is mounted. `E` is the Hono environment of the app. */
export interface MountOptions<E extends Env> {
  /** Under which key the services find their `Call`. */
  call: CallKey<E["Bindings"]>;
  /**
   * Runs after the headers and before the body is read: the place to reject a call without a valid key. What it returns
   * becomes the call's tenant; undefined leaves it unnamed (a health check). A ConnectError that it throws reaches the
   * client in its own protocol.
   */
  gate?: (
    context: HandlerContext,
    call: Call<E["Bindings"]>,
  ) => string | undefined | Promise<string | undefined>;
  /** Interceptors, outermost first; they run inside the adapter's own, which watches deadline and outcome. */
  interceptors?: readonly Interceptor[];
  /** Bounds that differ from `defaultRpcLimits`. */
  limits?: Partial<RpcLimits>;
  /** How JSON is read and written: a registry for `Any`, for one. Unknown fields are ignored by default. */
  jsonOptions?: Partial<JsonReadOptions & JsonWriteOptions>;
  /** Names the request; by default its `x-request-id` header or a new UUID. */
  requestId?: (context: Context<E>) => string;
  /** Browser access from other origins; none when unset. */
  cors?: RpcCorsOptions;
  /** TCP port of the gRPC front, for the hint that native gRPC gets. */
  frontPort?: number | ((context: Context<E>) => number | undefined);
  /** Hears of every error that is not a ConnectError; the client sees only "internal error". */
  onUnexpectedError?: (error: unknown, procedure: string, requestId: string | undefined) => void;
}

/** Content types of streams that an implementation may write itself. */
const streamForms: ReadonlyMap<string, StreamForm> = new Map([
  ["application/connect+proto", "connect"],
  ["application/grpc-web+proto", "grpc-web"],
  ["application/grpc-web", "grpc-web"],
]);

/** Longest `x-request-id` that is taken over from a client, in characters. */
const requestIdCharsMax = 128;

/**
 * Mounts Connect services in a Hono app: Connect (unary, GET, streaming; JSON and binary) and gRPC-web (binary and text),
 * never native gRPC, which gets a 415 with a hint.
 *
 * `services` registers implementations on a router, as in every Connect adapter. Returns the mounted request paths.
 */
export function mountConnect<E extends Env>(
  app: Hono<E>,
  services: (router: ConnectRouter) => unknown,
  options: MountOptions<E>,
): readonly string[] {
  const limits: RpcLimits = { ...defaultRpcLimits, ...options.limits };
  const { gate } = options;
  const router = createConnectRouter({
    connect: true,
    grpcWeb: true,
    grpc: false,
    acceptCompression: [gzipCompression],
    compressMinBytes: limits.compressBytesMin,
    readMaxBytes: limits.messageReadBytesMax,
    writeMaxBytes: limits.messageWriteBytesMax,
    maxTimeoutMs: limits.deadlineMsMax,
    jsonOptions: strictJson(options.jsonOptions),
    interceptors: [
      createCallWatcher(options.onUnexpectedError ?? logUnexpectedError),
      ...(options.interceptors ?? []),
    ],
    ...(gate === undefined
      ? {}
      : {
          requestGate: async (context: HandlerContext) => {
            const call = context.values.get(options.call);
            if (call !== undefined) {
              call.tenant = await gate(context, call);
            }
          },
        }),
  });
  services(router);

  const cors = options.cors === undefined ? undefined : createRpcCors(options.cors);
  const paths = new Set<string>();
  const serviceNames = new Set<string>();
  for (const handler of router.handlers) {
    paths.add(handler.requestPath);
    serviceNames.add(handler.service.typeName);
    app.all(handler.requestPath, (c) => serve(c, handler, options, limits, cors));
  }
  for (const name of serviceNames) {
    app.all(`/${name}/*`, (c) =>
      finish(c.req.raw, cors, () =>
        Promise.resolve(refuseUnknownMethod(c.req.path, c.req.raw.headers.get("content-type"))),
      ),
    );
  }
  return [...paths];
}

/** Options for JSON with a decoder that refuses invalid UTF-8, which Connect's own replaces without a word. */
function strictJson(
  options: Partial<JsonReadOptions & JsonWriteOptions> | undefined,
): Partial<JsonReadOptions & JsonWriteOptions> {
  const strict = { textDecoder: new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }) };
  return Object.assign(strict, options);
}

async function serve<E extends Env>(
  c: Context<E>,
  handler: UniversalHandler,
  options: MountOptions<E>,
  limits: RpcLimits,
  cors: RpcCors | undefined,
): Promise<Response> {
  const request = c.req.raw;
  return finish(request, cors, async () => {
    const contentType = request.headers.get("content-type");
    if (isNativeGrpc(contentType)) {
      const { frontPort } = options;
      return refuseNativeGrpc(typeof frontPort === "function" ? frontPort(c) : frontPort);
    }
    const exchange = new Exchange(request, limits);
    const text = textDirections(request.headers);
    const header = withDeadline(
      withClientEncodings(request, text.request ? binaryHeaders(request.headers) : request.headers),
      limits.deadlineMsDefault,
    );
    const call: Call<E["Bindings"]> = {
      env: c.env,
      lifetime: lifetimeOf(c),
      requestId: (options.requestId ?? requestIdOf)(c),
      tenant: undefined,
      left: exchange.signal,
      streamForm: text.response ? undefined : streamForms.get(contentType ?? ""),
      passed: undefined,
    };
    const progress: CallProgress = {
      reached: false,
      handler: "running",
      lifetime: call.lifetime,
      requestId: call.requestId,
    };
    const universalRequest: UniversalServerRequest = {
      // The runtime does not say; empty keeps Connect from refusing bidirectional streams outright, which work as long
      // as the client does not insist on HTTP/2.
      httpVersion: "",
      method: request.method,
      url: request.url,
      header,
      body: text.request ? binaryBody(exchange.body) : exchange.body,
      signal: exchange.signal,
      contextValues: createContextValues().set(options.call, call).set(callProgressKey, progress),
    };
    const answer = await handler(universalRequest);
    if (call.passed !== undefined) {
      return exchange.pass(call.passed, answer.header);
    }
    let universal = explainRefusal(answer, handler, contentType);
    if (!progress.reached) {
      universal = await blameClientInResponse(universal);
    }
    return exchange.respond(
      text.response && universal.status === 200 ? textResponse(universal) : universal,
    );
  });
}

async function finish(
  request: Request,
  cors: RpcCors | undefined,
  answer: () => Promise<Response>,
): Promise<Response> {
  const preflight = cors?.preflight(request);
  if (preflight !== undefined) {
    return preflight;
  }
  const response = await answer();
  cors?.decorate(request, response.headers);
  return response;
}

/**
 * The headers with the encodings that the client itself accepts. Cloudflare puts its own `accept-encoding` in front of a
 * Worker and keeps the client's in `cf`; a body that is compressed for the former is passed on to clients that cannot
 * read it.
 */
function withClientEncodings(request: Request, headers: Headers): Headers {
  const { cf } = request as { cf?: { clientAcceptEncoding?: unknown } };
  const accepted = cf?.clientAcceptEncoding;
  if (typeof accepted !== "string") {
    return headers;
  }
  const copy = new Headers(headers);
  if (accepted === "") {
    copy.delete("accept-encoding");
  } else {
    copy.set("accept-encoding", accepted);
  }
  return copy;
}

/** The headers with the default deadline where the client names none, in the protocol's own words. */
function withDeadline(headers: Headers, deadlineMs: number | undefined): Headers {
  if (
    deadlineMs === undefined ||
    headers.has("connect-timeout-ms") ||
    headers.has("grpc-timeout")
  ) {
    return headers;
  }
  const copy = new Headers(headers);
  if (/^application\/grpc-web/i.test(headers.get("content-type") ?? "")) {
    // gRPC allows at most eight digits: seconds carry further than milliseconds.
    copy.set(
      "grpc-timeout",
      deadlineMs < 1e8 ? `${deadlineMs}m` : `${Math.ceil(deadlineMs / 1000)}S`,
    );
  } else {
    copy.set("connect-timeout-ms", String(deadlineMs));
  }
  return copy;
}

function requestIdOf<E extends Env>(c: Context<E>): string {
  const given = c.req.raw.headers.get("x-request-id");
  return given !== null && given.length > 0 && given.length <= requestIdCharsMax
    ? given
    : crypto.randomUUID();
}

/** Hono throws where the app was called without an execution context, as in tests under Node. */
function lifetimeOf<E extends Env>(c: Context<E>): CallLifetime {
  try {
    return c.executionCtx;
  } catch {
    return {
      waitUntil(work) {
        work.catch((error: unknown) => logUnexpectedError(error, "waitUntil"));
      },
    };
  }
}

function logUnexpectedError(error: unknown, procedure: string, requestId?: string): void {
  log("error", "call.failed", {
    request_id: requestId,
    procedure,
    ...errorFields(error, "stack"),
  });
}
