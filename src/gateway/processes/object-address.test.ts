import { describe, expect, it } from "vitest";
import { readObjectAddress, writeObjectAddress } from "./object-address.js";

describe("an object's address", () => {
  it.each([
    { kind: "SESSION", name: "dev/a b%2Fc" },
    { kind: "TENANT", name: "Zürich\n\u{1f600}" },
    { kind: "POOL", name: "" },
    { kind: "SESSION", id: "0".repeat(64) },
  ] as const)("is read as it was written: %j", (address) => {
    const written = writeObjectAddress(address);
    // It is a header's value.
    expect(written).toMatch(/^[\x20-\x7e]+$/);
    expect(readObjectAddress(written)).toEqual(address);
  });

  it.each(["", "SESSION", "SESSION name", "SECRET name x", "constructor id 0", "SESSION key x"])(
    "is refused where it is none: %j",
    (wrong) => {
      expect(() => readObjectAddress(wrong)).toThrow(`"${wrong}" is no address of an object`);
    },
  );
});
