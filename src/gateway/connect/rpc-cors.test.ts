import { describe, expect, it } from "vitest";
import { createEchoApp } from "./testing/echo-app.js";
import type { RpcCorsOptions } from "./rpc-cors.js";

const url = "http://gateway.test/leanedge.test.v1.EchoService/Say";

async function call(cors: RpcCorsOptions | undefined, init: RequestInit): Promise<Response> {
  const { app } = createEchoApp(cors === undefined ? {} : { cors });
  return app.fetch(new Request(url, init), { GREETING: "" });
}

function preflight(origin: string): RequestInit {
  return {
    method: "OPTIONS",
    headers: { origin, "access-control-request-method": "POST" },
  };
}

function post(origin: string, type = "application/json"): RequestInit {
  return { method: "POST", headers: { origin, "content-type": type }, body: '"x"' };
}

describe("CORS of a mount", () => {
  it("answers a preflight from an allowed origin without calling the service", async () => {
    const response = await call(
      { origins: ["https://a.example"], allowedHeaders: ["Authorization"] },
      preflight("https://a.example"),
    );
    expect(response.status).toBe(204);
    expect(response.headers.get("access-control-allow-origin")).toBe("https://a.example");
    expect(response.headers.get("access-control-allow-methods")).toBe("POST, GET");
    const allowed = response.headers.get("access-control-allow-headers")?.toLowerCase() ?? "";
    for (const name of [
      "content-type",
      "connect-protocol-version",
      "connect-timeout-ms",
      "grpc-timeout",
      "x-grpc-web",
      "x-user-agent",
      "authorization",
    ]) {
      expect(allowed.split(", ")).toContain(name);
    }
    expect(response.headers.get("access-control-max-age")).toBe("7200");
    expect(response.headers.get("vary")).toBe("Origin");
  });

  it("exposes the status headers of gRPC-web and the application's own", async () => {
    const response = await call(
      { origins: ["https://a.example"], exposedHeaders: ["x-request-id"] },
      post("https://a.example"),
    );
    expect(response.status).toBe(200);
    const exposed = response.headers.get("access-control-expose-headers")?.toLowerCase() ?? "";
    for (const name of ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"]) {
      expect(exposed.split(", ")).toContain(name);
    }
  });

  it("gives another origin no leave, and tells caches that the origin matters", async () => {
    for (const init of [preflight("https://b.example"), post("https://b.example")]) {
      const response = await call({ origins: ["https://a.example"] }, init);
      expect(response.headers.get("access-control-allow-origin")).toBeNull();
      expect(response.headers.get("access-control-expose-headers")).toBeNull();
      expect(response.headers.get("vary")).toBe("Origin");
    }
  });

  it("decorates refusals, so that a page can read them", async () => {
    const response = await call({ origins: "*" }, post("https://b.example", "text/xml"));
    expect(response.status).toBe(415);
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
  });

  it("is off unless asked for", async () => {
    expect((await call(undefined, preflight("https://a.example"))).status).toBe(405);
    const response = await call(undefined, post("https://a.example"));
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
  });
});
