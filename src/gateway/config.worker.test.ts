import { describe, expect, it } from "vitest";
import { parseConfig } from "./config.js";
import { hashApiKey } from "./objects/api-key.js";

const hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

describe("LEANEDGE_KEYS", () => {
  it("names tenants and the hashes of their keys", () => {
    const { keys } = parseConfig({ LEANEDGE_KEYS: `acme:${hash}, beta:${hash.toUpperCase()}` });
    expect(keys.map((key) => key.tenant)).toEqual(["acme", "beta"]);
    for (const key of keys) expect(key.hash).toEqual(hashApiKey("password"));
  });

  it("may be empty", () => {
    expect(parseConfig({}).keys).toEqual([]);
    expect(parseConfig({ LEANEDGE_KEYS: "" }).keys).toEqual([]);
  });

  it.each(["acme", `:${hash}`, `a b:${hash}`, `acme:${hash.slice(1)}`, `acme:${hash},`])(
    "refuses %j without repeating it",
    (value) => {
      let message = "";
      try {
        parseConfig({ LEANEDGE_KEYS: value });
      } catch (error) {
        message = error instanceof Error ? error.message : "";
      }
      expect(message).toMatch(/^LEANEDGE_KEYS\[[01]\] must read TENANT:SHA256/);
      expect(message).not.toContain("acme");
    },
  );
});

describe("LEANEDGE_LIMITS", () => {
  it("names limits of keys that have none of their own", () => {
    expect(parseConfig({}).keyLimits).toEqual({});
    expect(
      parseConfig({ LEANEDGE_LIMITS: "requests_per_minute=60,tokens_per_minute=200000" }).keyLimits,
    ).toEqual({ requestsPerMinute: 60, tokensPerMinute: 200_000 });
  });

  it("refuses a name that it does not know", () => {
    expect(() => parseConfig({ LEANEDGE_LIMITS: "requests=60" })).toThrow(
      'LEANEDGE_LIMITS has "requests=60"; it must read NAME=NUMBER',
    );
  });
});

describe("LEANEDGE_ENGINE_MEMORY_MIB", () => {
  it("is 88 MiB unless set", () => {
    expect(parseConfig({}).engineMemoryBytesMax).toBe(88 * 1024 * 1024);
    expect(parseConfig({ LEANEDGE_ENGINE_MEMORY_MIB: "40" }).engineMemoryBytesMax).toBe(41_943_040);
  });

  it.each(["0", "4097", "1.5", "many"])("refuses %s", (value) => {
    expect(() => parseConfig({ LEANEDGE_ENGINE_MEMORY_MIB: value })).toThrow(
      `LEANEDGE_ENGINE_MEMORY_MIB is "${value}"; it must be a whole number from 1 to 4096`,
    );
  });
});
