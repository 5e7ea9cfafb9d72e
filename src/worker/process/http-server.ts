/** What a worker answers over HTTP: its RPCs in the Connect protocol, and two plain pages for those who look after it. */
import type { ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { WorkerService } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { requireToken } from "./bearer-token.js";
import { createGenerateStream } from "./generate-stream.js";
import type { ListenAddress } from "./listen-address.js";
import { callMsMax, closeMsMax, requestBytesMax } from "./limits.js";
import { createOnePort, type OnePortOptions, type RequestListener } from "./one-port.js";

/** A page: plain text that is made anew at each look. */
export interface Page {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

/** What a server answers with. */
export interface HttpServerOptions extends OnePortOptions {
  readonly handlers: ServiceImpl<typeof WorkerService>;
  /** Token that every RPC must show; undefined: none. */
  readonly token: string | undefined;
  /** Pages by path, open to all who reach the port: they tell nothing of what sessions say. */
  readonly pages: ReadonlyMap<string, () => Page | Promise<Page>>;
  /** Told of handlers that failed without an answer. */
  readonly log: (line: string) => void;
}

/** A server that listens. */
export interface HttpServer {
  /** Where it listens. */
  readonly url: string;
  readonly port: number;
  /** Closes every connection, after what was written last is sent. Takes a bounded time. */
  close(): Promise<void>;
}

/**
 * Starts to listen.
 *
 * @throws Error if there is no token and others than this machine could reach the address
 */
export async function startHttpServer(
  address: ListenAddress,
  options: HttpServerOptions,
): Promise<HttpServer> {
  const { handlers, token, pages, log } = options;
  if (token === undefined && !address.loopback) {
    throw new Error(
      `a worker without a token listens on this machine only: ${address.host} needs --token-file`,
    );
  }
  const showPage: RequestListener = (request, response) => {
    const page = pages.get(request.url?.split("?", 1)[0] ?? "");
    if (page === undefined || (request.method !== "GET" && request.method !== "HEAD")) {
      response.statusCode = page === undefined ? 404 : 405;
      response.end();
      return;
    }
    Promise.resolve()
      .then(page)
      .catch((error: unknown): Page => {
        log(`page ${request.url ?? ""} failed: ${String(error)}`);
        return { status: 500, contentType: "text/plain", body: "internal error\n" };
      })
      .then(({ status, contentType, body }) => {
        response.statusCode = status;
        response.setHeader("content-type", contentType);
        response.setHeader("cache-control", "no-store");
        response.end(body);
      })
      .catch((error: unknown) => log(`page ${request.url ?? ""} was not sent: ${String(error)}`));
  };
  const gate = token === undefined ? undefined : requireToken(token);
  const generateStream = createGenerateStream({
    generate: (request, context) => handlers.generate(request, context),
    gate,
    log,
  });
  const serveConnect = connectNodeAdapter({
    routes: (router) => router.service(WorkerService, handlers),
    // Gateways speak Connect; a worker's port is no place for browsers, and gRPC would be a third way to fail.
    grpc: false,
    grpcWeb: false,
    // Ids and short pieces of text: compressing them would take time from the engine.
    acceptCompression: [],
    readMaxBytes: requestBytesMax,
    maxTimeoutMs: callMsMax,
    ...(gate === undefined ? {} : { requestGate: gate }),
    fallback: showPage,
  });
  const port = createOnePort((request, response) => {
    if (!generateStream(request, response)) serveConnect(request, response);
  }, options);
  const number = await port.listen(address.host, address.port);
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return { url: `http://${host}:${number}`, port: number, close: () => port.close(closeMsMax) };
}
