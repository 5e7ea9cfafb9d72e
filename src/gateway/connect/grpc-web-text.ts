import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { decodeBase64Chunks, encodeBase64Chunks } from "./base64-stream.js";

const textType = /^application\/grpc-web-text(\+[a-z]+)?/i;
const binaryType = /application\/grpc-web(?!-text)/i;

/** Which directions of a gRPC-web exchange travel as base64. */
export interface TextDirections {
  /** The request's body is base64. */
  request: boolean;
  /** The client wants the response's body as base64. */
  response: boolean;
}

/**
 * Which directions of the exchange are gRPC-web text. A text request gets a text response unless it accepts only the
 * binary form; a binary gRPC-web request may ask for a text response with `accept`.
 */
export function textDirections(headers: Headers): TextDirections {
  const contentType = headers.get("content-type") ?? "";
  const accept = headers.get("accept") ?? "";
  const request = textType.test(contentType);
  const isGrpcWeb = request || binaryType.test(contentType);
  const acceptsText = accept.toLowerCase().includes("application/grpc-web-text");
  const acceptsBinaryOnly = !acceptsText && binaryType.test(accept);
  return {
    request,
    response: isGrpcWeb && (acceptsText || (request && !acceptsBinaryOnly)),
  };
}

/** The request's headers as the binary form of gRPC-web would have them. */
export function binaryHeaders(headers: Headers): Headers {
  const copy = new Headers(headers);
  const contentType = headers.get("content-type") ?? "";
  copy.set(
    "content-type",
    contentType.replace(/^application\/grpc-web-text/i, "application/grpc-web"),
  );
  return copy;
}

/** The request's body as the binary form of gRPC-web would have it. */
export function binaryBody(body: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  return decodeBase64Chunks(body);
}

/** The response in text form: each message becomes a chunk of its own that can be sent at once. */
export function textResponse(response: UniversalServerResponse): UniversalServerResponse {
  const header = new Headers(response.header);
  const contentType = header.get("content-type") ?? "";
  header.set(
    "content-type",
    contentType.replace(/^application\/grpc-web/i, "application/grpc-web-text"),
  );
  return {
    ...response,
    header,
    ...(response.body === undefined ? {} : { body: encodeBase64Chunks(response.body) }),
  };
}
