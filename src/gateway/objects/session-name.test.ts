import { describe, expect, it } from "vitest";
import { sessionObjectName, parseSessionUrl, sessionUrl } from "./session-name.js";

describe("the name of a session's object", () => {
  it("keeps tenants apart whatever characters ids hold", () => {
    const pairs = [
      ["a", "b/c"],
      ["a/b", "c"],
      ["a", "b%2Fc"],
      ["a%2Fb", "c"],
      ["", "a/b/c"],
      ["a/b/c", ""],
      ["ä", "b"],
      ["a", "🙂"],
    ] as const;
    const names = pairs.map(([tenant, sessionId]) => sessionObjectName(tenant, sessionId));
    expect(new Set(names).size).toBe(pairs.length);
  });
});

describe("the address of a call", () => {
  it("carries every character", () => {
    const call = {
      method: "Generate",
      tenant: "a&b=c",
      sessionId: "ä/ ?#%🙂",
      requestId: "r+1",
      idempotencyKey: "k 2",
    };
    expect(parseSessionUrl(sessionUrl(call))).toEqual(call);
  });
});
