import type { Buffer } from "node:buffer";
import type { ClientRequest, IncomingMessage } from "node:http";
import { constants } from "node:http2";
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import { headerBytes, requestFields, responseFields } from "./forward-headers.js";
import type { HeaderFields } from "./forward-headers.js";
import type { FrontLimits } from "./front-limits.js";
import { GrpcFailure, GrpcStatus, failureTrailers, statusFromHttp } from "./grpc-status.js";
import { abandon } from "./upstream.js";
import type { Upstream } from "./upstream.js";
import { FrameReader, parseTrailers } from "./web-frames.js";

const nativeType = /^application\/grpc(?=$|[+;\s])/i;
const webType = /^application\/grpc-web(?=$|[+;\s])/i;

/** True for a native gRPC request, false for gRPC-web and everything else. */
export function isNativeGrpc(headers: IncomingHttpHeaders): boolean {
  return nativeType.test(headers["content-type"] ?? "");
}

/**
 * Carries one native gRPC call over to gRPC-web and back.
 *
 * Messages have the same form in both, so they pass through piece by piece in both directions at the same time, each
 * side as fast as the other takes it. What differs is the end: gRPC-web's last frame becomes HTTP/2 trailers. When the
 * client's stream closes early, for whatever reason, the request to the target is destroyed at once.
 */
export function carryGrpc(
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  upstream: Upstream,
  limits: FrontLimits,
): void {
  const exchange = new GrpcExchange(stream, headers, limits);
  exchange.start(upstream);
}

class GrpcExchange {
  readonly #stream: ServerHttp2Stream;
  readonly #headers: IncomingHttpHeaders;
  readonly #limits: FrontLimits;
  #request: ClientRequest | undefined;
  /** The last block of the answer; what it holds when the stream asks for trailers is sent. */
  #trailers: HeaderFields | undefined;

  constructor(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, limits: FrontLimits) {
    this.#stream = stream;
    this.#headers = headers;
    this.#limits = limits;
  }

  start(upstream: Upstream): void {
    const stream = this.#stream;
    const bytes = headerBytes(this.#headers);
    if (bytes > this.#limits.headerBytesMax) {
      this.#fail(
        new GrpcFailure(
          GrpcStatus.resourceExhausted,
          `headers of ${bytes} bytes are larger than the bound of ${this.#limits.headerBytesMax}`,
        ),
      );
      return;
    }
    const fields = requestFields(this.#headers, stream.session?.socket.remoteAddress);
    const type = this.#headers["content-type"] ?? "";
    fields["content-type"] = type.replace(nativeType, "application/grpc-web");
    fields["x-grpc-web"] = "1";
    const path = this.#headers[":path"] ?? "/";
    const request = upstream.open(this.#headers[":method"] ?? "POST", path, fields);
    this.#request = request;
    // The target must see a stream that the client opens and leaves silent.
    request.flushHeaders();
    request.on("response", (response) => this.#answer(response));
    request.on("error", (cause) => {
      this.#fail(
        new GrpcFailure(GrpcStatus.unavailable, `the gateway cannot be reached: ${cause.message}`, {
          cause,
        }),
      );
    });
    stream.on("close", () => abandon(request));
    this.#sendBody(request);
  }

  #sendBody(request: ClientRequest): void {
    const stream = this.#stream;
    const reader = new FrameReader({
      messageBytesMax: this.#limits.requestMessageBytesMax,
      trailerBytesMax: undefined,
      direction: "request",
    });
    stream.on("data", (chunk: Buffer) => {
      if (this.#trailers !== undefined) {
        return;
      }
      try {
        reader.push(chunk);
      } catch (error) {
        this.#fail(error);
        return;
      }
      if (!request.write(chunk)) {
        stream.pause();
      }
    });
    request.on("drain", () => stream.resume());
    stream.on("end", () => request.end());
  }

  #answer(response: IncomingMessage): void {
    const httpStatus = response.statusCode ?? 0;
    const type = response.headers["content-type"] ?? "";
    if (httpStatus !== 200 || !webType.test(type)) {
      // What the target says may be a page of HTML; its status says enough.
      response.resume();
      this.#fail(
        new GrpcFailure(
          statusFromHttp(httpStatus),
          httpStatus === 200
            ? `the gateway answers with content type ${JSON.stringify(type)}`
            : `the gateway answers with HTTP ${httpStatus}`,
        ),
      );
      return;
    }
    if (this.#stream.destroyed || this.#stream.headersSent) {
      response.destroy();
      return;
    }
    const fields = responseFields(response.headers);
    fields["content-type"] = type.replace(webType, "application/grpc");
    delete fields["content-length"];
    delete fields["date"];
    if (fields["grpc-status"] !== undefined) {
      response.resume();
      this.#endWithHeaders(fields);
      return;
    }
    this.#stream.respond({ ":status": 200, ...fields }, { waitForTrailers: true });
    this.#stream.on("wantTrailers", () => this.#sendTrailers());
    this.#receiveBody(response);
  }

  #receiveBody(response: IncomingMessage): void {
    const stream = this.#stream;
    const reader = new FrameReader({
      messageBytesMax: this.#limits.responseMessageBytesMax,
      trailerBytesMax: this.#limits.trailerBytesMax,
      direction: "response",
    });
    response.on("data", (chunk: Buffer) => {
      if (stream.destroyed || this.#trailers !== undefined) {
        return;
      }
      try {
        const { data, trailers } = reader.push(chunk);
        let room = true;
        for (const piece of data) {
          room = stream.write(piece);
        }
        if (trailers !== undefined) {
          this.#end(responseFields(parseTrailers(trailers)));
        } else if (!room) {
          response.pause();
        }
      } catch (error) {
        this.#fail(error);
      }
    });
    stream.on("drain", () => response.resume());
    response.on("end", () => {
      const where = reader.complete ? "without a status" : "inside a message";
      this.#fail(new GrpcFailure(GrpcStatus.unknown, `the gateway ended its answer ${where}`));
    });
    response.on("error", (cause) => {
      this.#fail(
        new GrpcFailure(GrpcStatus.unavailable, "the gateway broke off its answer", { cause }),
      );
    });
  }

  /** Ends the answer, unless it has ended, and stops the request to the target. */
  #fail(error: unknown): void {
    const failure =
      error instanceof GrpcFailure
        ? error
        : new GrpcFailure(GrpcStatus.internal, "the gRPC front failed", { cause: error });
    const stream = this.#stream;
    if (stream.destroyed || this.#trailers !== undefined) {
      return;
    }
    if (this.#request !== undefined) {
      abandon(this.#request);
    }
    if (stream.headersSent) {
      this.#end(failureTrailers(failure));
    } else {
      this.#endWithHeaders({ "content-type": "application/grpc", ...failureTrailers(failure) });
    }
  }

  #end(trailers: HeaderFields): void {
    this.#trailers = trailers;
    this.#stream.end();
  }

  /** gRPC's "Trailers-Only": one block of headers that is the whole answer. */
  #endWithHeaders(fields: HeaderFields): void {
    this.#trailers = fields;
    this.#stream.respond({ ":status": 200, ...fields }, { endStream: true });
    this.#stopClient();
  }

  #sendTrailers(): void {
    const trailers = this.#trailers ?? {};
    if (trailers["grpc-status"] === undefined) {
      trailers["grpc-status"] = String(GrpcStatus.unknown);
    }
    this.#stream.sendTrailers(trailers);
    this.#stopClient();
  }

  /**
   * Tells a client that still sends to stop, since nobody listens (RFC 9113, section 8.1). Most clients stop by
   * themselves once they have the status, and some take a reset beside it for an error: they get a moment.
   */
  #stopClient(): void {
    const stream = this.#stream;
    if (stream.readableEnded) {
      return;
    }
    stream.resume();
    const timer = setTimeout(
      () => stream.close(constants.NGHTTP2_NO_ERROR),
      this.#limits.lingerMsMax,
    );
    stream.on("close", () => clearTimeout(timer));
  }
}
