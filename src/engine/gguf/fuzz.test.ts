import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import { ModelFileError } from "./errors.js";
import { memorySource } from "./memory-source.js";
import { readModelFile } from "./model-file.js";
import { buildGguf, tinyModel } from "./testing/build-gguf.js";

/** Most that JavaScript objects and buffers may grow by over a whole fuzz run, garbage included. */
const growthBytesMax = 256 * 1024 * 1024;
const flippedFiles = 2_000;
/** Each takes a second or two, on a machine that has nothing else to do. */
const timeoutMs = 120_000;

/** "ok", a ModelFileError's code, or a description of anything else. */
async function outcome(bytes: Uint8Array): Promise<string> {
  try {
    await readModelFile(memorySource(bytes));
    return "ok";
  } catch (error) {
    return error instanceof ModelFileError ? error.code : `unexpected: ${String(error)}`;
  }
}

function usedBytes(): number {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

describe.each(["llama", "qwen2", "qwen3"] as const)("damaged %s files", (architecture) => {
  const whole = buildGguf(tinyModel(architecture));

  it("are refused at every truncation", { timeout: timeoutMs }, async () => {
    expect(await outcome(whole)).toBe("ok");
    const codes = new Set<string>();
    const before = usedBytes();
    for (let length = 0; length < whole.length; length += length < 3000 ? 1 : 97) {
      codes.add(await outcome(whole.subarray(0, length)));
    }
    expect([...codes].sort()).toEqual(["offset", "truncated"]);
    expect(usedBytes() - before).toBeLessThan(growthBytesMax);
  });

  it(
    "are read or refused, never anything else, with bytes flipped",
    { timeout: timeoutMs },
    async () => {
      const random = new SeededRandom(whole.length);
      const headerBytes = 2_000;
      const codes = new Map<string, number>();
      const before = usedBytes();
      for (let i = 0; i < flippedFiles; i++) {
        const bytes = whole.slice();
        for (let flips = 1 + random.below(3); flips > 0; flips--) {
          const at = random.below(headerBytes);
          bytes[at] = random.below(4) === 0 ? 0xff : (bytes[at] ?? 0) ^ (1 << random.below(8));
        }
        const code = await outcome(bytes);
        codes.set(code, (codes.get(code) ?? 0) + 1);
      }
      expect([...codes.keys()].filter((code) => code.startsWith("unexpected"))).toEqual([]);
      // The run must have met most checks, or it fuzzed nothing.
      expect(codes.size).toBeGreaterThanOrEqual(7);
      expect(usedBytes() - before).toBeLessThan(growthBytesMax);
    },
  );
});
