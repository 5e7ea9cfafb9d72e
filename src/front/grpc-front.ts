import { createServer } from "node:http2";
import type { Http2Server, ServerHttp2Session } from "node:http2";
import { defaultFrontLimits } from "./front-limits.js";
import type { FrontLimits } from "./front-limits.js";
import { carryGrpc, isNativeGrpc } from "./grpc-exchange.js";
import { carryPlain } from "./plain-exchange.js";
import { createUpstream } from "./upstream.js";

/** Where a front listens and what it stands before. */
export interface GrpcFrontOptions {
  /** TCP port; 0 takes a free one. */
  port: number;
  /** Address to listen on; `127.0.0.1` by default. */
  host?: string;
  /** The gateway, http or https. */
  targetUrl: string | URL;
  /** Bounds that differ from `defaultFrontLimits`. */
  limits?: Partial<FrontLimits>;
}

/** A running front. */
export interface GrpcFront {
  /** The TCP port it listens on. */
  readonly port: number;
  /** Its address for clients, such as `http://127.0.0.1:8788`. */
  readonly url: string;
  /**
   * Stops: no new connections, GOAWAY to all clients, at most `drainMsMax` for calls that run, then they are cancelled.
   * Calling it again waits for the same end.
   */
  close(): Promise<void>;
}

/**
 * Starts a cleartext HTTP/2 server that gives native gRPC clients what workerd cannot: HTTP/2 with trailers. It turns
 * gRPC into gRPC-web for the target and passes every other HTTP/2 request through.
 *
 * Rejects when the address is taken. Throws TypeError on a target that is neither http nor https.
 */
export async function startGrpcFront(options: GrpcFrontOptions): Promise<GrpcFront> {
  const limits: FrontLimits = { ...defaultFrontLimits, ...options.limits };
  const host = options.host ?? "127.0.0.1";
  const upstream = createUpstream(new URL(options.targetUrl), limits);
  const server = createServer({
    settings: {
      maxConcurrentStreams: limits.streamsPerConnectionMax,
      // Above this Node resets the stream without a word; below it, the answer can say what is wrong.
      maxHeaderListSize: 2 * limits.headerBytesMax,
      // A full message of usual size in flight; the default of 64 KiB makes large prompts wait for round trips.
      initialWindowSize: 256 * 1024,
    },
  });
  server.maxConnections = limits.connectionsMax;
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
    watchSession(session, limits);
  });
  server.on("stream", (stream, headers) => {
    // A broken stream ends in "close", which ends the request; the error itself has nobody to go to.
    stream.on("error", () => undefined);
    (isNativeGrpc(headers) ? carryGrpc : carryPlain)(stream, headers, upstream, limits);
  });
  const port = await listen(server, options.port, host);
  let closing: Promise<void> | undefined;
  return {
    port,
    url: `http://${host.includes(":") ? `[${host}]` : host}:${port}`,
    close: () =>
      (closing ??= drain(server, sessions, limits.drainMsMax).then(() => upstream.close())),
  };
}

/** Ends a connection whose client no longer answers pings, and one that has had no call for long. */
function watchSession(session: ServerHttp2Session, limits: FrontLimits): void {
  let answerTimer: NodeJS.Timeout | undefined;
  const pingTimer = setInterval(() => {
    if (answerTimer !== undefined || session.destroyed || session.closed) {
      return;
    }
    answerTimer = setTimeout(() => session.destroy(), limits.pingAnswerMsMax);
    session.ping(() => {
      clearTimeout(answerTimer);
      answerTimer = undefined;
    });
  }, limits.pingIntervalMs);
  // Pings count as activity for the session's own timeout, so idleness is counted in streams.
  let idleTimer: NodeJS.Timeout | undefined;
  let streams = 0;
  function idle(): void {
    idleTimer = setTimeout(() => session.close(), limits.connectionIdleMsMax);
  }
  idle();
  session.on("stream", (stream) => {
    streams++;
    clearTimeout(idleTimer);
    stream.on("close", () => {
      streams--;
      if (streams === 0 && !session.destroyed) {
        idle();
      }
    });
  });
  session.on("close", () => {
    clearInterval(pingTimer);
    clearTimeout(answerTimer);
    clearTimeout(idleTimer);
  });
}

function listen(server: Http2Server, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      const address = server.address();
      resolve(typeof address === "object" && address !== null ? address.port : port);
    });
  });
}

async function drain(
  server: Http2Server,
  sessions: Set<ServerHttp2Session>,
  drainMsMax: number,
): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  for (const session of sessions) {
    // Sends GOAWAY, takes no further streams, and closes when the last one has ended.
    session.close();
  }
  const timer = setTimeout(() => {
    for (const session of sessions) {
      session.destroy();
    }
  }, drainMsMax);
  await closed;
  clearTimeout(timer);
}
