import type { IncomingHttpHeaders } from "node:http";
import type { IncomingHttpHeaders as Http2Headers } from "node:http2";

/** Fields that belong to one connection: HTTP/2 forbids them, and HTTP/1.1 sets its own. */
const connectionFields = new Set([
  "connection",
  "host",
  "http2-settings",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

/** Header fields as Node's clients and servers take them. */
export type HeaderFields = Record<string, string | string[]>;

/** The size of a header block as HTTP/2 counts it (RFC 9113, section 6.5.2), in bytes. */
export function headerBytes(headers: Http2Headers): number {
  let bytes = 0;
  for (const [name, value] of Object.entries(headers)) {
    for (const one of Array.isArray(value) ? value : [value ?? ""]) {
      bytes += name.length + one.length + 32;
    }
  }
  return bytes;
}

/**
 * The fields of an HTTP/2 request that go on over HTTP/1.1. `remoteAddress` replaces whatever the client claims to be
 * forwarded for, since the front is the first hop that can be believed.
 */
export function requestFields(
  headers: Http2Headers,
  remoteAddress: string | undefined,
): HeaderFields {
  const fields: HeaderFields = {};
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith(":") && !connectionFields.has(name) && value !== undefined) {
      fields[name] = value;
    }
  }
  const authority = headers[":authority"];
  if (authority !== undefined) {
    fields["x-forwarded-host"] = authority;
  }
  delete fields["x-forwarded-for"];
  if (remoteAddress !== undefined) {
    fields["x-forwarded-for"] = remoteAddress;
  }
  return fields;
}

/** The fields of an HTTP/1.1 response, or of gRPC-web trailers, that may go on over HTTP/2. */
export function responseFields(
  headers: IncomingHttpHeaders | Record<string, string[]>,
): HeaderFields {
  const fields: HeaderFields = {};
  for (const [name, value] of Object.entries(headers)) {
    if (!connectionFields.has(name) && value !== undefined) {
      fields[name] = value;
    }
  }
  return fields;
}
