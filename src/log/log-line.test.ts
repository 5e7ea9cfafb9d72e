import { describe, expect, it } from "vitest";
import { errorFields, isLogged, logLine, parseLogLevel } from "./log-line.js";

describe("a line of the log", () => {
  it("is one JSON object with time, level, part and event first", () => {
    const line = logLine("warn", "gateway", "turn.failed", { turn: 3, gone: undefined }, 1_000);
    expect(line).toBe(
      '{"time":"1970-01-01T00:00:01.000Z","level":"warn","part":"gateway","event":"turn.failed","turn":3}',
    );
  });

  it("stays one line whatever a field holds, and bounds it", () => {
    const line = logLine("info", "worker", "e", { message: `a\nb"${"x".repeat(5_000)}` }, 0);
    expect(line.split("\n")).toHaveLength(1);
    expect(line.length).toBeLessThan(1_200);
    const { message } = JSON.parse(line) as { readonly message: string };
    expect(message).toMatch(/^a\nb"x+$/);
  });

  it("names an error and its cause, and shows where it comes from only if asked to", () => {
    const error = new TypeError("what", { cause: new Error("why") });
    expect(errorFields(error)).toEqual({
      error: "what",
      error_name: "TypeError",
      error_cause: "why",
    });
    expect(errorFields(error, "stack")["stack"]).toContain("log-line.test");
    expect(errorFields("thrown")).toEqual({ error: "thrown" });
  });

  it("has its level from a variable, which must name one", () => {
    expect([undefined, "", "warn"].map(parseLogLevel)).toEqual(["info", "info", "warn"]);
    expect(() => parseLogLevel("loud")).toThrow(
      'LEANEDGE_LOG_LEVEL is "loud"; it must be debug, info, warn, error',
    );
  });

  it("is written from the level on that is asked for", () => {
    expect(isLogged("warn", "info")).toBe(true);
    expect(isLogged("info", "info")).toBe(true);
    expect(isLogged("debug", "info")).toBe(false);
  });
});
