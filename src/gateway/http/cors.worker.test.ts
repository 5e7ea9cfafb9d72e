import { createExecutionContext } from "cloudflare:test";
import { describe, expect, it } from "vitest";
import type { GatewayEnv } from "../bindings.js";
import { createGateway } from "../gateway.js";
import { headerBytesMax } from "../limits.js";
import { testEnv, testUrl } from "../testing/gateway-clients.js";

function ask(origins: string | undefined, path: string, init: RequestInit): Promise<Response> {
  const env = {
    ...testEnv,
    ...(origins === undefined ? {} : { LEANEDGE_CORS_ORIGINS: origins }),
  } as unknown as GatewayEnv;
  const request = new Request(`${testUrl}${path}`, init);
  return Promise.resolve(createGateway(env).fetch(request, env, createExecutionContext()));
}

const preflight = {
  method: "OPTIONS",
  headers: {
    origin: "https://chat.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
  },
};
const paths = ["/v1/chat/completions", "/leanedge.v1.SessionService/GetSession"];

describe("CORS", () => {
  it.each(["/v1/models", "/v1/chat/completions"])(
    "lets a page read that its headers are too large: %s",
    async (path) => {
      const origin = "https://chat.example";
      const headers = { origin, "x-large": "x".repeat(headerBytesMax) };
      const response = await ask(origin, path, { headers });
      expect(response.status).toBe(431);
      expect(response.headers.get("access-control-allow-origin")).toBe(origin);
      expect(response.headers.get("x-request-id")).not.toBeNull();
    },
  );

  it.each(paths)("is off by default: %s", async (path) => {
    const response = await ask(undefined, path, preflight);
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
  });

  it.each(paths)("lets a configured origin in, and no other: %s", async (path) => {
    const origins = "https://chat.example,https://other.example";
    const allowed = await ask(origins, path, preflight);
    expect(allowed.status).toBe(204);
    expect(allowed.headers.get("access-control-allow-origin")).toBe("https://chat.example");
    expect(allowed.headers.get("access-control-allow-headers")?.toLowerCase()).toContain(
      "authorization",
    );
    const foreign = {
      ...preflight,
      headers: { ...preflight.headers, origin: "https://no.example" },
    };
    const refused = await ask(origins, path, foreign);
    expect(refused.headers.get("access-control-allow-origin")).toBeNull();
  });

  it.each(paths)("lets scripts read our headers, on refusals too: %s", async (path) => {
    const response = await ask("*", path, {
      method: "POST",
      headers: { origin: "https://chat.example", "content-type": "application/json" },
      body: "{}",
    });
    expect(response.status).toBe(401);
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
    const exposed = response.headers.get("access-control-expose-headers")?.toLowerCase();
    expect(exposed).toContain("x-session-id");
    expect(exposed).toContain("x-request-id");
    expect(response.headers.get("x-request-id")).not.toBeNull();
  });
});
