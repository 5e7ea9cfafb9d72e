import { describe, expect, it } from "vitest";
import { seededRandom } from "./pool/testing/seeded-random.js";
import { utf8Bytes } from "./utf8.js";

describe("utf8Bytes", () => {
  const parts = [
    "",
    "a",
    "ß",
    "\u07ff",
    "\u0800",
    "中",
    "🙂",
    "\ud83d",
    "\ude42",
    "\uffff",
    "\u0000",
  ];

  it("counts what is written, whatever follows each other", () => {
    const random = seededRandom(20_261_123);
    for (let round = 0; round < 2_000; round++) {
      let text = "";
      for (let length = Math.floor(random() * 6); length >= 0; length--) {
        text += parts[Math.floor(random() * parts.length)] ?? "";
      }
      // Some are so long that the runtime counts them.
      if (round % 100 === 0) text = text.repeat(100);
      expect(utf8Bytes(text), JSON.stringify(text)).toBe(new TextEncoder().encode(text).byteLength);
    }
  });
});
