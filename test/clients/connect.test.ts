/** Connect's own clients, over every protocol and transport that they have. */
import { createClient, type Transport } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";
import { describe, expect, inject, it } from "vitest";
import { embedded } from "../../src/embedded-model.js";
import {
  Health,
  HealthCheckResponse_ServingStatus,
} from "../../src/gen/grpc/health/v1/health_pb.js";
import { ModelService } from "../../src/gen/leanedge/v1/model_pb.js";
import {
  Backend,
  FinishReason,
  Role,
  SessionService,
} from "../../src/gen/leanedge/v1/session_pb.js";
import { answer, followUp, question } from "../support/conversation.js";

const baseUrl = inject("gatewayUrl");
const frontUrl = `http://${inject("grpcAddress")}`;
const key = inject("gatewayKey");

const authorize: Parameters<typeof node.createConnectTransport>[0]["interceptors"] = [
  (next) => (request) => {
    request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  },
];
const base = { baseUrl, interceptors: authorize };

const transports: [string, () => Transport][] = [
  [
    "connect-web, Connect binary",
    () => web.createConnectTransport({ ...base, useBinaryFormat: true }),
  ],
  ["connect-web, Connect JSON", () => web.createConnectTransport(base)],
  ["connect-web, Connect GET", () => web.createConnectTransport({ ...base, useHttpGet: true })],
  ["connect-web, gRPC-web", () => web.createGrpcWebTransport(base)],
  [
    "connect-node, Connect over HTTP/1.1",
    () => node.createConnectTransport({ ...base, httpVersion: "1.1" }),
  ],
  [
    "connect-node, gRPC-web over HTTP/1.1",
    () => node.createGrpcWebTransport({ ...base, httpVersion: "1.1" }),
  ],
  [
    "connect-node, Connect over HTTP/2",
    () => node.createConnectTransport({ ...base, baseUrl: frontUrl, httpVersion: "2" }),
  ],
  ["connect-node, gRPC", () => node.createGrpcTransport({ ...base, baseUrl: frontUrl })],
];

describe.each(transports)("%s", (_name, createTransport) => {
  it("holds a conversation of two turns, streamed, the second one from the cache", async () => {
    const sessions = createClient(SessionService, createTransport());
    const { session } = await sessions.createSession({ title: "client test" });
    const sessionId = session?.sessionId ?? "";
    for (const [turn, text] of [
      [1, question],
      [2, followUp],
    ] as const) {
      let got = "";
      let deltas = 0;
      const kinds: (string | undefined)[] = [];
      let cached = -1;
      for await (const { event } of sessions.generate({
        sessionId,
        turn,
        messages: [{ role: Role.USER, text }],
        sampling: { temperature: 0, maxTokens: 40 },
      })) {
        kinds.push(event.case);
        if (event.case === "delta") {
          expect(Number(event.value.offset)).toBe(new TextEncoder().encode(got).length);
          got += event.value.text;
          deltas++;
        }
        if (event.case === "finished") {
          expect(event.value.finishReason).toBe(FinishReason.STOP);
          cached = event.value.usage?.cachedTokens ?? -1;
        }
      }
      expect(kinds[0]).toBe("started");
      expect(kinds.at(-1)).toBe("finished");
      expect(deltas).toBeGreaterThan(3);
      expect(got.trim()).toMatch(answer);
      if (turn === 1) expect(cached).toBe(0);
      else expect(cached).toBeGreaterThan(20);
    }
    const { messages } = await sessions.listMessages({ sessionId });
    expect(messages.map((entry) => entry.message?.role)).toEqual([
      Role.USER,
      Role.ASSISTANT,
      Role.USER,
      Role.ASSISTANT,
    ]);
    expect(messages[1]?.backend).toBe(Backend.WASM);
    await sessions.deleteSession({ sessionId });
  });

  it("lists models and answers health checks", async () => {
    const transport = createTransport();
    const { models } = await createClient(ModelService, transport).listModels({});
    expect(models[0]?.model).toBe(embedded.model);
    expect(models[0]?.isDefault).toBe(true);
    const { status } = await createClient(Health, transport).check({});
    expect(status).toBe(HealthCheckResponse_ServingStatus.SERVING);
  });
});
