import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { shortBytesMax, shortSha256 } from "./short-sha256.js";

function expected(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

function hex(bytes: Uint8Array | undefined): string {
  return Buffer.from(bytes ?? []).toString("hex");
}

describe("shortSha256", () => {
  it("is SHA-256 at every length", () => {
    for (let length = 0; length <= shortBytesMax; length++) {
      const text = Array.from({ length }, (_, at) => String.fromCharCode((at * 37 + length) % 128));
      expect(hex(shortSha256(text.join("")))).toBe(expected(text.join("")));
      const bytes = Uint8Array.from({ length }, (_, at) => (at * 151 + length) % 256);
      expect(hex(shortSha256(bytes))).toBe(expected(bytes));
    }
  });

  it("takes parts one after the other", () => {
    const bytes = Uint8Array.of(0, 255, 128);
    expect(hex(shortSha256("a b", bytes, "", "c"))).toBe(expected("a b", bytes, "c"));
  });

  it("leaves what is long, and what is not ASCII, to others", () => {
    expect(shortSha256("x".repeat(shortBytesMax + 1))).toBeUndefined();
    expect(shortSha256(new Uint8Array(shortBytesMax), "x")).toBeUndefined();
    expect(shortSha256("é")).toBeUndefined();
  });
});
