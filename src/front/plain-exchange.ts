import { pipeline } from "node:stream";
import { constants } from "node:http2";
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import { headerBytes, requestFields, responseFields } from "./forward-headers.js";
import type { FrontLimits } from "./front-limits.js";
import { abandon } from "./upstream.js";
import type { Upstream } from "./upstream.js";

/**
 * Carries any other HTTP/2 request (Connect, gRPC-web, a page) over to HTTP/1.1 as it is. Bodies stream in both
 * directions; a client that leaves ends the request to the target at once.
 */
export function carryPlain(
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  upstream: Upstream,
  limits: FrontLimits,
): void {
  const method = headers[":method"] ?? "GET";
  if (method === "CONNECT") {
    stream.respond({ ":status": 405 }, { endStream: true });
    return;
  }
  const bytes = headerBytes(headers);
  if (bytes > limits.headerBytesMax) {
    refuse(
      stream,
      431,
      `headers of ${bytes} bytes are larger than the bound of ${limits.headerBytesMax}`,
    );
    return;
  }
  const fields = requestFields(headers, stream.session?.socket.remoteAddress);
  const request = upstream.open(method, headers[":path"] ?? "/", fields);
  stream.on("close", () => abandon(request));
  request.on("response", (response) => {
    if (stream.destroyed || stream.headersSent) {
      response.destroy();
      return;
    }
    stream.respond({ ":status": response.statusCode ?? 502, ...responseFields(response.headers) });
    pipeline(response, stream, (error) => {
      if (error && !stream.destroyed) {
        // The answer is cut short; a reset is how HTTP/2 says so.
        stream.close(constants.NGHTTP2_INTERNAL_ERROR);
      }
    });
  });
  request.on("error", (error) => {
    if (!stream.destroyed && !stream.headersSent) {
      refuse(stream, 502, `the gateway cannot be reached: ${error.message}`);
    } else if (!stream.destroyed && !stream.writableEnded) {
      stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    }
  });
  if (stream.readableEnded || headers["content-length"] === "0") {
    request.end();
  } else {
    request.flushHeaders();
    stream.pipe(request);
  }
}

function refuse(stream: ServerHttp2Stream, status: number, message: string): void {
  stream.respond({ ":status": status, "content-type": "text/plain; charset=utf-8" });
  stream.end(`${message}\n`);
}
