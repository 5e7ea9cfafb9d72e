import type { UniversalHandler, UniversalServerResponse } from "@connectrpc/connect/protocol";

/** The content types of a unary and of a streaming method, in the order in which they are advertised. */
const unaryTypes = ["application/json", "application/proto"];
const streamTypes = ["application/connect+json", "application/connect+proto"];
const grpcWebTypes = ["application/grpc-web+proto", "application/grpc-web-text+proto"];
const nativeGrpc = /^application\/grpc(?:$|[+;\s])/i;

/** True for `application/grpc` and its sub-formats, false for gRPC-web. */
export function isNativeGrpc(contentType: string | null): boolean {
  return contentType !== null && nativeGrpc.test(contentType);
}

/**
 * The answer to native gRPC: HTTP 415 and where to go. gRPC needs HTTP/2 trailers, which the Workers runtime does not
 * have. `frontPort` is the TCP port of the gRPC front, where one runs.
 */
export function refuseNativeGrpc(frontPort: number | undefined): Response {
  const front =
    frontPort === undefined
      ? "the gRPC front of this gateway"
      : `the gRPC front on port ${frontPort}`;
  const message =
    `application/grpc is not served here: it needs HTTP/2 trailers. ` +
    `Use ${front}, or speak gRPC-web (application/grpc-web+proto) or Connect to this one.`;
  return new Response(`${message}\n`, {
    status: 415,
    headers: {
      "content-type": "text/plain; charset=utf-8",
      "accept-post": [...unaryTypes, ...streamTypes, ...grpcWebTypes].join(", "),
      // Proxies that turn this into HTTP/2 keep the hint readable for gRPC clients. 12 is UNIMPLEMENTED.
      "grpc-status": "12",
      "grpc-message": encodeURIComponent(message),
    },
  });
}

/** Adds to Connect's bare 405 and 415 what the client should have sent. */
export function explainRefusal(
  response: UniversalServerResponse,
  handler: UniversalHandler,
  contentType: string | null,
): UniversalServerResponse {
  if (response.status !== 405 && response.status !== 415) {
    return response;
  }
  const header = new Headers(response.header);
  const name = `${handler.service.typeName}/${handler.method.name}`;
  if (response.status === 405) {
    const methods = handler.allowedMethods.join(", ");
    header.set("allow", methods);
    return textBody(response.status, header, `${name} accepts only ${methods}\n`);
  }
  const types =
    handler.method.methodKind === "unary"
      ? [...unaryTypes, ...grpcWebTypes]
      : [...streamTypes, ...grpcWebTypes];
  header.set("accept-post", types.join(", "));
  const given = contentType === null ? "no content type" : `content type ${quote(contentType)}`;
  return textBody(response.status, header, `${name} got ${given}; use ${types.join(", ")}\n`);
}

/** The answer to a method that the mounted service does not have, in the form the client's protocol expects. */
export function refuseUnknownMethod(path: string, contentType: string | null): Response {
  const message = `no method ${quote(path)}`;
  if (contentType !== null && /^application\/grpc-web/i.test(contentType)) {
    return new Response(null, {
      status: 200,
      headers: {
        "content-type": contentType,
        "grpc-status": "12",
        "grpc-message": encodeURIComponent(message),
      },
    });
  }
  return Response.json({ code: "unimplemented", message }, { status: 404 });
}

function textBody(status: number, header: Headers, text: string): UniversalServerResponse {
  header.set("content-type", "text/plain; charset=utf-8");
  const bytes = new TextEncoder().encode(text);
  return { status, header, body: once(bytes) };
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  await Promise.resolve();
  yield bytes;
}

/** Text from a client, cut to a length that suits an error message. */
function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200));
}
