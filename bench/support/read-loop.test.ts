import { describe, expect, it } from "vitest";
import { readLoopModule, wholeTurns } from "./read-loop.js";
import type { ReadLoop } from "./read-loop.js";

describe("the read loop", () => {
  it("reads every byte as often as it says", async () => {
    const { instance } = await WebAssembly.instantiate(readLoopModule(100_000));
    const { memory, read } = instance.exports as unknown as ReadLoop;
    const words = new Int32Array(memory.buffer);
    for (let i = 0; i < words.length; i++) words[i] = (i * 2_654_435_761) | 0;
    const bytes = wholeTurns(100_000);
    expect(bytes).toBe(99_968);
    const sum = words.subarray(0, bytes / 4).reduce((a, b) => (a + b) | 0, 0);
    expect(read(bytes, 1)).toBe(sum);
    expect(read(bytes, 3)).toBe((3 * sum) | 0);
    expect(read(64, 1)).toBe(words.subarray(0, 16).reduce((a, b) => (a + b) | 0, 0));
  });
});
