import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { httpErrorForm, invalidArgument, publicError } from "./errors.js";

describe("publicError()", () => {
  it("shows a ConnectError and hides everything else", () => {
    const known = invalidArgument("temperature is 3");
    expect(publicError(known)).toBe(known);
    const hidden = publicError(new TypeError("a secret"));
    expect(hidden).toBeInstanceOf(ConnectError);
    expect([hidden.code, hidden.rawMessage]).toEqual([Code.Internal, "internal error"]);
    expect(JSON.stringify(hidden.cause ?? null)).toBe("null");
  });
});

describe("httpErrorForm()", () => {
  it("has a form for every code, with OpenAI's statuses", () => {
    const codes = Object.values(Code).filter((code) => typeof code === "number");
    expect(codes).toHaveLength(16);
    for (const code of codes) {
      expect(httpErrorForm(code).status).toBeGreaterThanOrEqual(400);
    }
    expect(httpErrorForm(Code.Unauthenticated)).toMatchObject({
      status: 401,
      code: "invalid_api_key",
    });
    expect(httpErrorForm(Code.ResourceExhausted)).toMatchObject({
      status: 429,
      code: "rate_limit_exceeded",
    });
    expect(httpErrorForm(Code.DeadlineExceeded).status).toBe(504);
    expect(httpErrorForm(Code.Unavailable).status).toBe(503);
    expect(httpErrorForm(Code.Internal).status).toBe(500);
  });
});
