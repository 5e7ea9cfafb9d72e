import { describe, expect, it } from "vitest";
import { f16IsFinite, f16ToNumber, numberToF16 } from "./half.js";
import { codeOf, groupOf, loadCode, scaleOf, storeRun, valueOf } from "./quantise.js";
import { goldenStream, goldenValue } from "./testing/golden.js";

describe("binary16", () => {
  it("survives both ways, and ties go to even", () => {
    for (let bits = 0; bits < 0x7c00; bits++) {
      const x = f16ToNumber(bits);
      const up = bits === 0x7bff ? 65536 : f16ToNumber(bits + 1);
      const half = (x + up) / 2;
      const rounded = [x, -x, half, half * (1 - 2 ** -23), half * (1 + 2 ** -22)].map(numberToF16);
      expect(rounded).toEqual([bits, bits | 0x8000, bits + (bits & 1), bits, bits + 1]);
    }
  });

  it("keeps zeros, infinities and NaN apart", () => {
    expect(Object.is(f16ToNumber(0x8000), -0)).toBe(true);
    expect([f16ToNumber(0x7c00), f16ToNumber(0xfc00)]).toEqual([Infinity, -Infinity]);
    expect(f16ToNumber(0x7c01)).toBeNaN();
    expect(f16ToNumber(numberToF16(NaN))).toBeNaN();
    expect([numberToF16(Infinity), numberToF16(-1e30)]).toEqual([0x7c00, 0xfc00]);
    expect([0x7bff, 0x7c00, 0xfc01].map(f16IsFinite)).toEqual([true, false, false]);
  });
});

describe("a quantisation group", () => {
  /** 400 groups of every kind of values for each code size. */
  function eachGroup(check: (values: number[], levels: number) => void): void {
    const random = goldenStream(3, 0, 0, "k");
    for (const levels of [255, 15, 3]) {
      for (let round = 0; round < 400; round++) {
        const kind = round % 9;
        check(
          Array.from({ length: 1 + (random() % 32) }, () =>
            goldenValue(kind === 8 ? random() % 8 : kind, random()),
          ),
          levels,
        );
      }
    }
  }

  it("is reconstructed within the stated bound, and lies within its bounds", () => {
    let worst = 0;
    eachGroup((values, levels) => {
      const group = groupOf(values, levels);
      if (group === undefined) throw new Error("finite values were refused");
      const scale = f16ToNumber(group.scaleBits);
      const hi = valueOf(levels, group.scaleBits, group.minBits);
      for (const bits of values) {
        const x = f16ToNumber(bits);
        const code = codeOf(bits, group);
        expect(code >= 0 && code <= levels && Number.isInteger(code)).toBe(true);
        const y = valueOf(code, group.scaleBits, group.minBits);
        expect(Math.abs(x - y)).toBeLessThanOrEqual(
          scale * (0.5 + 2 ** -15) + 2 ** -24 * Math.abs(y),
        );
        expect(x >= f16ToNumber(group.minBits) && x <= hi).toBe(true);
        if (scale > 0) worst = Math.max(worst, Math.abs(x - y) / scale);
      }
      expect(scale).toBeLessThanOrEqual(
        ((group.max - group.min) / levels) * (1 + 2 ** -10) + 2 ** -24,
      );
    });
    // The bound is tight: some value really is half a step away.
    expect(worst).toBeGreaterThan(0.49);
  });

  it("has the smallest scale that covers it", () => {
    eachGroup((values, levels) => {
      const xs = values.map(f16ToNumber);
      const range = Math.max(...xs) - Math.min(...xs);
      const scale = scaleOf(Math.min(...xs), Math.max(...xs), levels);
      expect(f16ToNumber(scale) * levels).toBeGreaterThanOrEqual(range);
      if (scale > 0) expect(f16ToNumber(scale - 1) * levels).toBeLessThan(range);
    });
  });

  it("of equal values has scale 0, codes 0 and no error", () => {
    const group = groupOf([0xc123, 0xc123, 0xc123], 3);
    expect(group).toMatchObject({ scaleBits: 0, minBits: 0xc123 });
    if (group === undefined) return;
    expect(codeOf(0xc123, group)).toBe(0);
    expect(valueOf(0, 0, 0xc123)).toBe(f16ToNumber(0xc123));
  });

  it("stores a zero minimum as +0, whichever zero it was", () => {
    expect(groupOf([0x8000, 0x8000], 15)).toMatchObject({ scaleBits: 0, minBits: 0, maxBits: 0 });
    expect(groupOf([0x8000, 0x3c00], 15)?.minBits).toBe(0);
  });

  it("rounds a value in the middle of two codes to the even one", () => {
    // min 0, scale 2: 1 lies between codes 0 and 1, 3 between 1 and 2, 5 between 2 and 3.
    const group = groupOf([0, numberToF16(6)], 3);
    if (group === undefined) throw new Error("finite values were refused");
    expect(f16ToNumber(group.scaleBits)).toBe(2);
    expect([1, 3, 5, 6].map((x) => codeOf(numberToF16(x), group))).toEqual([0, 2, 2, 3]);
  });

  it("is refused with NaN or infinity", () => {
    for (const bad of [0x7c00, 0xfc00, 0x7c01, 0xffff]) {
      expect(groupOf([0, bad], 15)).toBeUndefined();
      expect(groupOf([bad], 0)).toBeUndefined();
    }
  });
});

describe("a run of codes", () => {
  it("is planar, as the document's table says", () => {
    const nibbles = new Uint8Array(17);
    storeRun(
      nibbles,
      1,
      Array.from({ length: 32 }, (_, i) => i % 16),
      4,
    );
    expect(Array.from(nibbles)).toEqual([0, ...Array.from({ length: 16 }, (_, j) => j * 17)]);
    const crumbs = new Uint8Array(8);
    storeRun(
      crumbs,
      0,
      Array.from({ length: 32 }, (_, i) => i >> 3),
      2,
    );
    expect(Array.from(crumbs)).toEqual(Array.from({ length: 8 }, () => 0b11_10_01_00));
  });

  it("reads back for every length and size", () => {
    const random = goldenStream(4, 0, 0, "v");
    for (const bits of [8, 4, 2]) {
      for (const length of [8, 16, 24, 32]) {
        const codes = Array.from({ length }, () => random() % (1 << bits));
        const bytes = new Uint8Array((length * bits) / 8);
        storeRun(bytes, 0, codes, bits);
        expect(codes.map((_, i) => loadCode(bytes, 0, i, length, bits))).toEqual(codes);
      }
    }
  });
});
