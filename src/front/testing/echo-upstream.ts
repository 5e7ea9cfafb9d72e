import { createServer } from "node:http";
import type { IncomingMessage, RequestListener, Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { EchoService } from "../../../test/support/echo-service.js";

/** A small gateway in this process, and what it has seen. */
export interface EchoUpstream {
  /** Where it listens. */
  url: string;
  /** Requests that have come in, in order. */
  requests: IncomingMessage[];
  /** How many requests were closed by the other side before their answer was complete. */
  brokenOff: () => number;
  /** Numbers that `Count` has yielded, over all calls. */
  counted: () => number;
  /** Stops it. */
  close(): Promise<void>;
}

/** Text that makes `Say` fail with two details, a header and a trailer. */
export const failText = "fail";

/**
 * Starts `EchoService` as Connect and gRPC-web over HTTP/1.1. `Count` pauses 5 ms between numbers. `before` may answer a
 * request itself and return true.
 */
export async function startEchoUpstream(
  before?: (...args: Parameters<RequestListener>) => boolean,
): Promise<EchoUpstream> {
  let counted = 0;
  let brokenOff = 0;
  const requests: IncomingMessage[] = [];
  const adapter = connectNodeAdapter({
    grpc: false,
    routes: (router) =>
      router.service(EchoService, {
        async say(request, context) {
          context.responseHeader.set("x-first", "header");
          context.responseTrailer.set("x-last", "trailer");
          if (request.value === failText) {
            throw new ConnectError("it failed: ünïcode", Code.FailedPrecondition, {
              "x-meta-bin": "AQID",
            });
          }
          if (request.value === "wait") {
            await new Promise((_, reject) => {
              context.signal.addEventListener("abort", () =>
                reject(ConnectError.from(context.signal.reason, Code.Canceled)),
              );
            });
          }
          return { value: request.value === "big" ? "x".repeat(1_000_000) : request.value };
        },
        async *count(request, context) {
          for (let value = 1; value <= request.value; value++) {
            context.signal.throwIfAborted();
            counted++;
            yield { value };
            await new Promise((resolve) => setTimeout(resolve, 5));
          }
        },
        async join(messages) {
          let value = "";
          for await (const message of messages) {
            value += message.value;
          }
          return { value };
        },
        async *chat(messages) {
          for await (const message of messages) {
            yield { value: `echo ${message.value}` };
          }
        },
      }),
  });
  const server = createServer((request, response) => {
    requests.push(request);
    response.on("close", () => {
      if (!response.writableFinished) {
        brokenOff++;
      }
    });
    if (before?.(request, response) !== true) {
      // Connect's Node adapter refuses bidirectional streams on HTTP/1.1 outright; the Worker does not.
      request.httpVersion = "2.0";
      adapter(request, response);
    }
  });
  const port = await listen(server);
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    brokenOff: () => brokenOff,
    counted: () => counted,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}
