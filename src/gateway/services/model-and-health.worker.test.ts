import { Code, createClient } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import {
  Health,
  HealthCheckResponse_ServingStatus as ServingStatus,
} from "../../gen/grpc/health/v1/health_pb.js";
import { ModelService } from "../../gen/leanedge/v1/model_pb.js";
import { workerTransport } from "../connect/worker-transport.js";
import { errorOf, newTenant, send, testUrl } from "../testing/gateway-clients.js";
import { scriptedWindow } from "../testing/scripted-engine.js";

function transport(key?: string): ReturnType<typeof workerTransport> {
  return workerTransport({
    baseUrl: testUrl,
    fetcher: { fetch: (url, init) => send(url, init) },
    interceptors: [
      (next) => (request) => {
        if (key !== undefined) request.header.set("authorization", `Bearer ${key}`);
        return next(request);
      },
    ],
  });
}

describe("ModelService", () => {
  it("lists the configured models with what their engines say of them", async () => {
    const { key } = await newTenant();
    const client = createClient(ModelService, transport(key));
    const { models } = await client.listModels({});
    expect(models).toMatchObject([
      {
        model: "scripted",
        isDefault: true,
        architecture: "scripted",
        parameterCount: 29n,
        contextTokensMax: scriptedWindow,
        fingerprint: "model-1",
      },
      { model: "second", isDefault: false },
      { model: "tiny", isDefault: false, plans: [{ name: "lean" }, { name: "identity" }] },
    ]);
    expect((await client.getModel({})).model?.model).toBe("scripted");
    expect((await client.getModel({ model: "second" })).model?.model).toBe("second");
    const error = await errorOf(client.getModel({ model: "none" }));
    expect([error.code, error.rawMessage]).toEqual([Code.NotFound, 'there is no model "none"']);
  });

  it("wants a key", async () => {
    const client = createClient(ModelService, transport());
    expect((await errorOf(client.listModels({}))).code).toBe(Code.Unauthenticated);
  });
});

describe("Health", () => {
  it("answers probes without a key", async () => {
    const client = createClient(Health, transport());
    for (const service of ["", "leanedge.v1.SessionService", "grpc.health.v1.Health"]) {
      expect((await client.check({ service })).status).toBe(ServingStatus.SERVING);
    }
    const error = await errorOf(client.check({ service: "none" }));
    expect([error.code, error.rawMessage]).toEqual([Code.NotFound, 'there is no service "none"']);
  });

  it("watches a service until the client leaves", async () => {
    const client = createClient(Health, transport());
    for (const [service, status] of [
      ["", ServingStatus.SERVING],
      ["none", ServingStatus.SERVICE_UNKNOWN],
    ] as const) {
      const leave = new AbortController();
      const stream = client.watch({ service }, { signal: leave.signal });
      const iterator = stream[Symbol.asyncIterator]();
      const first = await iterator.next();
      expect(first).toMatchObject({ done: false, value: { status } });
      leave.abort();
      await expect(iterator.next()).rejects.toMatchObject({ code: Code.Canceled });
    }
  });
});
