import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { drawApiKey, equalInConstantTime, hashApiKey } from "./api-key.js";

describe("an API key", () => {
  it("has 256 random bits", () => {
    const keys = Array.from({ length: 100 }, drawApiKey);
    expect(new Set(keys).size).toBe(100);
    for (const key of keys) {
      expect(key).toMatch(/^le-[A-Za-z0-9_-]{43}$/);
      expect(Buffer.from(key.slice(3), "base64url")).toHaveLength(32);
    }
  });

  it("is hashed with SHA-256", () => {
    expect(Buffer.from(hashApiKey("le-key"))).toEqual(
      createHash("sha256").update("le-key").digest(),
    );
  });

  it("differs in every single bit", () => {
    const hash = hashApiKey("le-key");
    expect(equalInConstantTime(hash, hash.slice())).toBe(true);
    for (let bit = 0; bit < 256; bit++) {
      const other = hash.slice();
      other[bit >> 3] = (other[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(equalInConstantTime(hash, other)).toBe(false);
    }
    expect(equalInConstantTime(hash, hash.subarray(0, 31))).toBe(false);
  });
});
