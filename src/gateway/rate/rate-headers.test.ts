import { describe, expect, it } from "vitest";
import { copyRateHeaders, durationText, setRateHeaders } from "./rate-headers.js";

describe("rate headers", () => {
  it.each([
    [0, "0ms"],
    [20, "20ms"],
    [999, "999ms"],
    [1_000, "1s"],
    [1_500, "1.5s"],
    [60_000, "1m0s"],
    [361_250, "6m1.25s"],
    [3_600_000, "1h0m0s"],
    [3_725_000, "1h2m5s"],
  ])("writes %i ms as OpenAI does: %s", (ms, text) => {
    expect(durationText(ms)).toBe(text);
  });

  it("says what is left of each limit, and nothing of one that is not there", () => {
    const headers = new Headers();
    setRateHeaders(headers, { tokens: { limit: 1000, remaining: 250, fullInMs: 45_000 } });
    expect([...headers]).toEqual([
      ["x-ratelimit-limit-tokens", "1000"],
      ["x-ratelimit-remaining-tokens", "250"],
      ["x-ratelimit-reset-tokens", "45s"],
    ]);
    headers.set("x-other", "stays behind");
    const copied: string[] = [];
    copyRateHeaders(headers, (name, value) => copied.push(`${name}: ${value}`));
    expect(copied.sort()).toEqual([
      "x-ratelimit-limit-tokens: 1000",
      "x-ratelimit-remaining-tokens: 250",
      "x-ratelimit-reset-tokens: 45s",
    ]);
  });
});
