/** How a client reaches a gateway. */
import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { bearerToken } from "./bearer-token.js";

/** See the head of this file. */
export interface ClientOptions {
  /** Address of the gateway, for example `https://chat.example.com`. */
  readonly baseUrl: string;
  /** API key; sent as `authorization: Bearer`. Unset: none is sent. */
  readonly key?: string;
  /** Protocol on the wire; gRPC-web if unset. */
  readonly protocol?: "grpc-web" | "connect";
  /** Replaces the global fetch. */
  readonly fetch?: typeof globalThis.fetch;
}

/** The transport that the options describe. */
export function createTransport(options: ClientOptions): Transport {
  const transport = {
    baseUrl: options.baseUrl,
    interceptors: bearerToken(options.key),
    ...(options.fetch === undefined ? {} : { fetch: options.fetch }),
  };
  return options.protocol === "connect"
    ? createConnectTransport(transport)
    : createGrpcWebTransport(transport);
}
