import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { prefixHash } from "./prefix.js";
import { fingerprintBytes, sha256Hex, toHex } from "./sha256.js";

it("hashes ids as u32, little endian", () => {
  const bytes = Buffer.from([1, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 0xff, 0xff, 0xff, 0xff]);
  const expected = createHash("sha256").update(bytes).digest("hex");
  expect(toHex(prefixHash([1, 0x12345678, 0xffffffff]))).toBe(expected);
  expect(toHex(prefixHash(Uint32Array.of(1, 0x12345678, 0xffffffff)))).toBe(expected);
});

it("names the empty prefix by the hash of nothing", async () => {
  expect(toHex(prefixHash([]))).toBe(await sha256Hex(new Uint8Array()));
});

it("reads fingerprints back, and refuses what is none", () => {
  const hex = "0123456789abcdef".repeat(4);
  expect(toHex(fingerprintBytes(hex))).toBe(hex);
  for (const bad of ["", hex.slice(1), hex.toUpperCase(), `${hex}0`, "zz".repeat(32)]) {
    expect(() => fingerprintBytes(bad)).toThrow(/must be 64 hexadecimal digits/);
  }
});
