import { Code } from "@connectrpc/connect";
import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { KeyLimitsSchema } from "../../gen/leanedge/admin/v1/key_pb.js";
import { readCallerKey, writeCallerKey } from "./caller.js";
import {
  effectiveLimits,
  keyLimitNames,
  keyLimitsOf,
  parseKeyLimits,
  readKeyLimits,
  wireKeyLimits,
} from "./key-limits.js";

describe("limits of keys", () => {
  it("are read from text", () => {
    expect(parseKeyLimits("X", undefined)).toEqual({});
    expect(parseKeyLimits("X", "requests_per_minute=60, output_tokens=0")).toEqual({
      requestsPerMinute: 60,
      outputTokens: 0,
    });
    const all = Object.values(keyLimitNames).map((name, index) => `${name}=${index}`);
    expect(Object.keys(parseKeyLimits("X", all.join(",")))).toEqual(Object.keys(keyLimitNames));
  });

  it.each([
    "requests",
    "requests=1",
    "turns=",
    "turns=-1",
    "turns=1.5",
    "turns=1000000001",
    "turns=1,",
  ])("refuse %j", (text) => {
    expect(() => parseKeyLimits("LEANEDGE_LIMITS", text)).toThrow(
      /^LEANEDGE_LIMITS has ".*"; it must read NAME=NUMBER/,
    );
  });

  it("are named once", () => {
    expect(() => parseKeyLimits("X", "turns=1,turns=2")).toThrow("X names turns twice");
  });

  it("of a key come before the defaults, and 0 is none", () => {
    expect(
      effectiveLimits({ turns: 4, sessions: 10, outputTokens: 0 }, { turns: 0, contextTokens: 9 }),
    ).toEqual({ sessions: 10, contextTokens: 9 });
  });

  it("travel in messages, where unset is not 0", () => {
    const limits = { turns: 0, tokensPerMinute: 5 };
    expect(readKeyLimits(wireKeyLimits(limits))).toEqual(limits);
    expect(readKeyLimits(undefined)).toEqual({});
    const refused = create(KeyLimitsSchema, { sessions: 1_000_000_001 });
    expect(() => readKeyLimits(refused)).toThrow(
      expect.objectContaining({
        code: Code.InvalidArgument,
        rawMessage: "limits.sessions is 1000000001, it must be 0 to 1000000000",
      }) as Error,
    );
  });

  it("leave out of stored text what is no limit", () => {
    expect(keyLimitsOf({ turns: 1, other: 2, sessions: "3", outputTokens: 1.5 })).toEqual({
      turns: 1,
    });
    expect(keyLimitsOf(null)).toEqual({});
  });

  it("travel to objects with the key's id", () => {
    const key = { keyId: "key-1", limits: { turns: 2 } };
    expect(readCallerKey(writeCallerKey(key))).toEqual(key);
    expect(readCallerKey(writeCallerKey(undefined))).toBeUndefined();
    expect(() => readCallerKey("{}")).toThrow("a caller without the id of a key");
  });
});
