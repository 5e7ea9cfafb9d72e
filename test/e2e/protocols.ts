/**
 * One turn in each protocol that the gateway speaks, through a client of that protocol: its text as it comes, until the
 * signal aborts.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";
import { Client, Metadata, credentials } from "@grpc/grpc-js";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  Role,
  SessionService,
  type GenerateRequest,
  type GenerateResponse,
} from "../../src/gen/leanedge/v1/session_pb.js";
import type { RunningGateway } from "../support/running-gateway.js";

/** A first turn at temperature 0. */
export interface Ask {
  readonly sessionId: string;
  readonly text: string;
  readonly maxTokens: number;
  /** The turn goes on without its client. */
  readonly detach?: boolean;
}

/** What a client knows of a gateway. */
export type GatewayAccess = Pick<RunningGateway, "url" | "grpcAddress" | "key">;

/** A protocol: pieces of the answer's text; aborting the signal closes the stream as its clients do. */
export type Protocol = (
  gateway: GatewayAccess,
  ask: Ask,
  signal: AbortSignal,
) => AsyncIterable<string>;

function requestOf({ sessionId, text, maxTokens, detach = false }: Ask): GenerateRequest {
  return create(GenerateRequestSchema, {
    sessionId,
    turn: 1,
    messages: [{ role: Role.USER, text }],
    sampling: { temperature: 0, maxTokens },
    detach,
  });
}

async function* textOf(events: AsyncIterable<GenerateResponse>): AsyncGenerator<string> {
  for await (const { event } of events) if (event.case === "delta") yield event.value.text;
}

function overConnect(open: (gateway: GatewayAccess, key: Interceptor[]) => Transport): Protocol {
  return (gateway, ask, signal) => {
    const authorize: Interceptor = (next) => (request) => {
      request.header.set("authorization", `Bearer ${gateway.key}`);
      return next(request);
    };
    const sessions = createClient(SessionService, open(gateway, [authorize]));
    return textOf(sessions.generate(requestOf(ask), { signal }));
  };
}

async function* grpcJs(
  gateway: GatewayAccess,
  ask: Ask,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const client = new Client(gateway.grpcAddress, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${gateway.key}`);
  const call = client.makeServerStreamRequest(
    "/leanedge.v1.SessionService/Generate",
    (request: GenerateRequest) => Buffer.from(toBinary(GenerateRequestSchema, request)),
    (bytes: Buffer) => fromBinary(GenerateResponseSchema, bytes),
    requestOf(ask),
    metadata,
  );
  signal.addEventListener("abort", () => {
    call.cancel();
  });
  try {
    yield* textOf(call as AsyncIterable<GenerateResponse>);
  } finally {
    client.close();
  }
}

async function bodyOf(response: Response): Promise<ReadableStream<Uint8Array>> {
  if (!response.ok || response.body === null) {
    throw new Error(`HTTP ${response.status}: ${await response.text()}`);
  }
  return response.body;
}

/** gRPC-web-text by hand: base64 in groups of 4 characters, of which each can be decoded by itself. */
async function* grpcWebText(
  gateway: GatewayAccess,
  ask: Ask,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const type = "application/grpc-web-text+proto";
  const message = toBinary(GenerateRequestSchema, requestOf(ask));
  const frame = Buffer.alloc(5 + message.length);
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, 5);
  const response = await fetch(`${gateway.url}/leanedge.v1.SessionService/Generate`, {
    method: "POST",
    headers: {
      "content-type": type,
      accept: type,
      "x-grpc-web": "1",
      authorization: `Bearer ${gateway.key}`,
    },
    body: frame.toString("base64"),
    signal,
  });
  let base64 = "";
  let bytes = Buffer.alloc(0);
  for await (const chunk of await bodyOf(response)) {
    base64 += Buffer.from(chunk).toString("latin1");
    const whole = base64.length - (base64.length % 4);
    const groups = base64.slice(0, whole).match(/.{4}/gs) ?? [];
    base64 = base64.slice(whole);
    bytes = Buffer.concat([bytes, ...groups.map((group) => Buffer.from(group, "base64"))]);
    while (bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt32BE(1)) {
      const end = 5 + bytes.readUInt32BE(1);
      if (bytes[0] === 0) {
        const { event } = fromBinary(GenerateResponseSchema, bytes.subarray(5, end));
        if (event.case === "delta") yield event.value.text;
      }
      bytes = bytes.subarray(end);
    }
  }
}

/** A request in OpenAI's form, which has no `detach`. */
async function openAi(
  gateway: GatewayAccess,
  ask: Ask,
  stream: boolean,
  signal: AbortSignal,
): Promise<ReadableStream<Uint8Array>> {
  const response = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `Bearer ${gateway.key}`,
      "x-session-id": ask.sessionId,
    },
    body: JSON.stringify({
      messages: [{ role: "user", content: ask.text }],
      temperature: 0,
      max_tokens: ask.maxTokens,
      stream,
    }),
    signal,
  });
  return bodyOf(response);
}

async function* openAiSse(
  gateway: GatewayAccess,
  ask: Ask,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of await openAi(gateway, ask, true, signal)) {
    rest += decoder.decode(chunk, { stream: true });
    const events = rest.split("\n\n");
    rest = events.pop() ?? "";
    for (const event of events) {
      if (!event.startsWith("data: {")) continue;
      const { choices } = JSON.parse(event.slice(6)) as {
        choices: { delta: { content?: string } }[];
      };
      const content = choices[0]?.delta.content ?? "";
      if (content !== "") yield content;
    }
  }
}

/** Its text comes at the end, and blanks until then: each counts as a piece. */
async function* openAiWhole(
  gateway: GatewayAccess,
  ask: Ask,
  signal: AbortSignal,
): AsyncGenerator<string> {
  let json = "";
  for await (const chunk of await openAi(gateway, ask, false, signal)) {
    json += Buffer.from(chunk).toString("utf8");
    if (json.trim() === "") yield "";
  }
  const { choices } = JSON.parse(json) as { choices: { message: { content: string } }[] };
  yield choices[0]?.message.content ?? "";
}

/** Protocols of leanedge.v1, by name. */
export const rpcProtocols: readonly (readonly [string, Protocol])[] = [
  [
    "Connect JSON",
    overConnect(({ url }, interceptors) =>
      web.createConnectTransport({ baseUrl: url, interceptors }),
    ),
  ],
  [
    "Connect binary",
    overConnect(({ url }, interceptors) =>
      node.createConnectTransport({
        baseUrl: url,
        interceptors,
        httpVersion: "1.1",
        useBinaryFormat: true,
      }),
    ),
  ],
  [
    "gRPC-web binary",
    overConnect(({ url }, interceptors) =>
      web.createGrpcWebTransport({ baseUrl: url, interceptors }),
    ),
  ],
  ["gRPC-web text", grpcWebText],
  ["native gRPC through the front", grpcJs],
];

/** All protocols, by name. */
export const protocols: readonly (readonly [string, Protocol])[] = [
  ...rpcProtocols,
  ["OpenAI server-sent events", openAiSse],
  ["OpenAI in one piece", openAiWhole],
];
