import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";
import { ApiKeySchema, KeyOrigin, KeyState } from "../gen/leanedge/admin/v1/key_pb.js";
import { expiryMs, keyTable, limitOption } from "./keys.js";

describe("the table of keys", () => {
  it("aligns its columns, and says why a key cannot be revoked", () => {
    const [head = "", first = "", second = "", ...notes] = keyTable([
      create(ApiKeySchema, {
        keyId: "key-0123456789abcdef",
        tenant: "acme",
        name: "laptop",
        origin: KeyOrigin.CREATED,
        state: KeyState.ACTIVE,
        createTime: timestampFromMs(Date.UTC(2026, 0, 2, 3, 4, 5)),
        effectiveLimits: { requestsPerMinute: 60, outputTokens: 512 },
      }),
      create(ApiKeySchema, {
        keyId: "config-00",
        tenant: "dev",
        name: "LEANEDGE_DEV_KEY",
        origin: KeyOrigin.CONFIGURED,
        state: KeyState.ACTIVE,
        notRevocableReason: "the configuration has it",
      }),
    ]);
    expect(head).toMatch(/^KEY +TENANT +NAME +ORIGIN +STATE +CREATED +LAST USED +EXPIRES +LIMITS$/);
    expect(first).toMatch(
      /^key-0123456789abcdef +acme +laptop +created +active +2026-01-02 03:04 +- +- +requests_per_minute=60,output_tokens=512$/,
    );
    expect(second).toMatch(/^config-00 +dev +LEANEDGE_DEV_KEY +configured +active +- +- +- +none$/);
    expect(second.indexOf("dev")).toBe(head.indexOf("TENANT"));
    expect(notes).toEqual(["config-00 cannot be revoked: the configuration has it"]);
  });
});

describe("the end of a key", () => {
  it.each([
    ["90s", 90_000],
    ["30m", 1_800_000],
    ["12h", 43_200_000],
    ["30d", 2_592_000_000],
  ])("may be %s from now", (text, ms) => {
    expect(expiryMs(text, 1_000)).toBe(1_000 + ms);
  });

  it("may be a date", () => {
    expect(expiryMs("2027-01-01T00:00:00Z", 0)).toBe(Date.UTC(2027, 0, 1));
  });

  it.each(["", "soon", "5", "5w", "-5d", "2001-01-01"])("is not %j", (text) => {
    expect(() => expiryMs(text, Date.UTC(2026, 0, 1))).toThrow("is no time in the future");
  });
});

describe("a limit of a key", () => {
  it("is added to those before it", () => {
    expect(limitOption("turns=2", { sessions: 5 })).toEqual({ sessions: 5, turns: 2 });
  });

  it.each(["turns", "turns=", "turns=x", "tuns=1", "__proto__=1"])("is not %j", (text) => {
    expect(() => limitOption(text, {})).toThrow("must read NAME=NUMBER");
  });
});
